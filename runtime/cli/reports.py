"""What the command line prints of images that were segmented, or would be."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..warned import kept_warnings
from .console import as_options, echo, fail
from .tables import print_table

if TYPE_CHECKING:
    from ..raster.places import Place
    from ..segment.maker import Maker
    from ..segment.results import Estimate, Paths, Report
    from ..tiling.windows import Window

Named = Callable[[Path], str]
"""What an output is called where it goes."""


def name_of(image: Place) -> str:
    """What tables call an image: the file without its folder, or the name of a part of a container."""
    from ..raster.places import Scene

    return image if isinstance(image, str) else str(image) if isinstance(image, Scene) else image.name


def print_report(report: Report, named: Named = str) -> None:
    """Print the classes of an image, and the files that were written, as they are called where they went."""
    if report.part:
        work = f"{report.computed} tiles inferred in {report.seconds:.1f} s, {report.speed:.1f} patches/s"
        echo(f"done: part {report.part}, {work}")
        return
    rows = [(name, f"{share:.1%}") for name, share in report.shares.items()]
    without = report.height * report.width - sum(report.pixels.values())
    if without:
        whole = "image" if report.area is None else "box"
        rows.append(("(no data)", f"{without / (report.height * report.width):.1%} of the {whole}"))
    lacking = "a border" if report.coarse else "data"
    skipped = f" ({report.skipped} without {lacking} skipped)" if report.skipped else ""
    work = f"{report.tiles} tiles{skipped}, {_time(report)}"
    title = f"{name_of(report.image)}: {report.height} x {report.width}{_lies(report.area)}, {work}"
    print_table(title, rows, ("class", "share"))
    for path in report.paths.wanted():
        echo(f"wrote {named(path)}")


def _lies(area: Window | None) -> str:
    """Where outputs lie in their image, in words; nothing where they show all of it."""
    return f" from row {area.y}, column {area.x}" if area else ""


def _time(report: Report) -> str:
    """How long an image took, and at what speed unless others computed its patches."""
    speed = "" if report.computed == 0 else f", {report.speed:.1f} patches/s"
    return f"{report.seconds:.1f} s{speed}"


def print_summary(done: list[Report | Estimate]) -> None:
    """One row per image."""
    rows = [(name_of(item.image), f"{item.height} x {item.width}", str(item.tiles), *_work(item)) for item in done]
    print_table("All images", rows, ("image", "size", "tiles", "work", "largest classes"))


def _work(item: Report | Estimate) -> tuple[str, str]:
    from ..segment.results import Estimate

    if isinstance(item, Estimate):
        return f"{item.memory >> 20} MiB of memory, {item.disk >> 20} MiB of disk", ""
    largest = sorted(item.shares.items(), key=lambda entry: -entry[1])[:3]
    shares = ", ".join(f"{name} {share:.1%}" for name, share in largest)
    return _time(item), shares


def _foreseen(estimate: Estimate) -> list[tuple[str, str]]:
    """What a trial told."""
    if estimate.process is None or estimate.seconds is None:
        return []
    minutes, seconds = divmod(round(estimate.seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return [
        ("memory of the whole process", f"{estimate.process / (1 << 20):.0f} MiB"),
        ("time", f"{hours}:{minutes:02}:{seconds:02}"),
    ]


def print_estimate(estimate: Estimate, named: Named = str) -> None:
    """Print what an image would take, and the files that would be written, as they are called where they go."""
    mebibyte = 1 << 20
    rows = [
        ("size", f"{estimate.height} x {estimate.width} pixels{_lies(estimate.area)}"),
        ("tiles", str(estimate.tiles)),
        *_foreseen(estimate),
        ("disk at most", f"{estimate.disk / mebibyte:.0f} MiB"),
        *(("would write", named(path)) for path in estimate.paths.wanted()),
    ]
    print_table(str(estimate.image), rows, ("", ""))


SOME_FAILED, ALL_THERE = 3, 4
"""Exit codes: some of several images failed; all outputs were there already. 1 means that all failed."""


class Results:
    """What came of the images of a command line, printed as it comes.

    Args:
        total: How many images there are.
        as_json: Whether each image is a line of JSON on standard output, instead of tables.
        named: What an output is called where it goes.
    """

    def __init__(self, total: int, *, as_json: bool, named: Named = str) -> None:
        self._total, self._json, self._named = total, as_json, named
        self._done: list[Report | Estimate] = []
        self._failed = self._skipped = 0

    @contextmanager
    def of(self, image: Place) -> Iterator[None]:
        """Deal with one image: a failure of whatever kind is its own line, and does not stop the others."""
        try:
            with kept_warnings() as self._warnings:
                yield
        except Exception as error:
            self._failed += 1
            line = fail(error, image)
            self._line({"image": str(image), "status": "failed", "error": line})

    def skip(self, image: Place) -> None:
        """Pass over an image whose outputs are there."""
        self._skipped += 1
        if self._json:
            self._line({"image": str(image), "status": "skipped"})
        else:
            echo(f"{name_of(image)}: its outputs are there already")

    def upload(self, image: Place, paths: Paths) -> None:
        """Tell of an image whose outputs an earlier run had finished, and this one uploaded."""
        if self._json:
            self._line({"image": str(image), "status": "uploaded", "outputs": _outputs(paths, self._named)})
        else:
            echo(f"{name_of(image)}: uploaded what an earlier run had finished")
            for path in paths.wanted():
                echo(f"wrote {self._named(path)}")

    def add(self, found: Report | Estimate, maker: Maker) -> None:
        """Print what came of an image."""
        from ..segment.results import Report

        self._done.append(found)
        if self._json:
            self._line(_fields(found, maker, self._named) | {"warnings": list(map(as_options, self._warnings))})
        elif isinstance(found, Report):
            print_report(found, self._named)
        else:
            print_estimate(found, self._named)

    def finish(self) -> int:
        """Print how all images went.

        Returns:
            The exit code.
        """
        if self._total > 1 and not self._json:
            if self._done:
                print_summary(self._done)
            if self._failed:
                typer.echo(f"{self._failed} of {self._total} images failed", err=True)
        if self._failed:
            return 1 if self._failed == self._total else SOME_FAILED
        return ALL_THERE if self._skipped == self._total else 0

    def _line(self, fields: dict[str, object]) -> None:
        if self._json:
            typer.echo(json.dumps(fields))


def _outputs(paths: Paths, named: Named) -> dict[str, str]:
    """The outputs by the names of their sinks, as they are called where they go."""
    return {name: named(path) for name, path in paths.by_sink().items()}


def _fields(found: Report | Estimate, maker: Maker, named: Named) -> dict[str, object]:
    """What a line of JSON says of an image."""
    from ..raster.places import members_of
    from ..segment.results import Report

    fields: dict[str, object] = {
        "image": str(found.image), "status": "done" if isinstance(found, Report) else "estimated",
        "height": found.height, "width": found.width, "tiles": found.tiles,
        "engine": maker.engine, "device": maker.device, "precision": maker.precision,
    }  # fmt: skip
    members = members_of(found.image)
    if len(members) > 1:
        fields["images"] = [str(member) for member in members]
    if box := found.area:
        fields["area"] = {"x": box.x, "y": box.y, "width": box.width, "height": box.height}
    if not isinstance(found, Report):
        return fields | {"memory": found.process, "seconds": found.seconds, "disk": found.disk}
    return fields | {
        "seconds": round(found.seconds, 3), "skipped": found.skipped, "pixels": found.pixels, "shares": found.shares,
        "not_finite": found.not_finite, "implausible": found.implausible,
        "bad_blocks": [[w.y, w.x, w.height, w.width] for w in found.bad_blocks],
        **({"part": found.part} if found.part else {"outputs": _outputs(found.paths, named)}),
    }  # fmt: skip
