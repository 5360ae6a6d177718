"""Options of ``fctl-run`` for more than one process or machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import FctlError, InputError
from .console import usage
from .groups import OptionGroup
from .reports import name_of
from .tables import progress_bars

if TYPE_CHECKING:
    from ..segment.jobs import FileJob
    from ..segment.results import Report
    from ..spread.crew import Crew
    from ..spread.lead import Lead
    from ..spread.orders import Setup


@dataclass(frozen=True, kw_only=True)
class SpreadOptions(OptionGroup):
    """Who works beside, or instead of, this process."""

    panel = "More than one process or machine"

    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", min=1, max=512, metavar="N",
            help="Processes on this machine, which share its cores, or take its GPUs in turn. Default: this one alone.",
        ),
    ] = None  # fmt: skip
    dask: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Workers of a Dask cluster: tcp://HOST:8786, or local:4 for four here."),
    ] = None
    part: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Do one of N parts of the work, as 3/20, and leave it for --assemble."),
    ] = None
    assemble: Annotated[
        bool, typer.Option("--assemble", help="Make the outputs of parts that other jobs did; needs no engine.")
    ] = False

    def check(self) -> None:
        """See that one of them is given at most, and can be read.

        Raises:
            typer.BadParameter: Several are given.
            InputError: A part is none.
        """
        from ..segment.shards.share import Share

        given = {"--workers": self.workers, "--dask": self.dask, "--part": self.part, "--assemble": self.assemble}
        named = [name for name, value in given.items() if value not in (None, False)]
        if len(named) > 1:
            raise usage(f"{' and '.join(named)}: expected one of them, found {len(named)}")
        if self.part is not None:
            Share.parsed(self.part)

    @property
    def led(self) -> bool:
        """Whether this process leads others."""
        return self.dask is not None or (self.workers or 1) > 1

    def crew(self) -> Crew:
        """The workers.

        Raises:
            InputError: A package is missing.
            EngineError: No scheduler answers.
        """
        if self.dask is None:
            from ..spread.processes import Processes, gpus

            return Processes(self.workers or 1, gpus())
        try:
            from ..spread.dask import Dask
        except ModuleNotFoundError as error:
            if error.name not in ("distributed", "dask"):
                raise
            from .. import remedies

            raise InputError(
                "`dask` needs the package distributed, which is missing", remedy=remedies.install("dask")
            ) from None
        return Dask(self.dask)


@contextmanager
def leading(options: SpreadOptions, setup: Setup) -> Iterator[Lead]:
    """Lead workers.

    Args:
        options: Which workers.
        setup: How they open the bundle.

    Yields:
        Who leads them.
    """
    from ..spread.lead import Lead

    crew = options.crew()
    try:
        yield Lead(crew, setup)
    finally:
        crew.close()


def made_by(
    lead: Lead, jobs: Mapping[int, FileJob], shared: Callable[[FileJob], str | None]
) -> Iterator[tuple[int, Callable[[], Report]]]:
    """What workers make of images: small ones of several come whole, the others are cut one after the other.

    Args:
        lead: Who leads the workers.
        jobs: What is asked, by any number.
        shared: Where workers on other machines put the shards of an image.

    Yields:
        The number of an image, and what gives its report or raises what went wrong.
    """
    several = len(jobs) > 1
    small = {number: job for number, job in jobs.items() if several and not shared(job) and lead.is_small(job)}
    for number, outcome in lead.segment_whole(small):
        yield number, partial(_told, outcome)
    for number in (number for number in jobs if number not in small):
        yield number, partial(_with_bar, lead, jobs[number], shared(jobs[number]))


def _with_bar(lead: Lead, job: FileJob, shared: str | None) -> Report:
    with progress_bars("patches") as advance:
        return lead.segment_file(replace(job, progress=partial(advance, name_of(job.image))), shared)


def _told(outcome: Report | FctlError) -> Report:
    """The report of a raster that a worker segmented, with the warnings that the worker had no one to tell."""
    from ..segment.assemble import warn_of

    if isinstance(outcome, FctlError):
        raise outcome
    warn_of(outcome)
    return outcome
