"""What a run over a file is asked, and who does it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ..bundle.store import Bundle
from ..engines.base import Engine
from ..progress import TileProgress
from ..raster.access import Access
from ..raster.blocks import OnBadBlock
from ..raster.places import Place
from ..tiling.turns import Turn
from .levels import Keep
from .network import Network
from .outputs import sinks_of
from .results import Paths
from .sinks import Sink, needs_confidence


class Worker(Protocol):
    """Whoever owns the network of a run."""

    @property
    def bundle(self) -> Bundle:
        """The bundle."""
        ...

    @property
    def engine(self) -> Engine:
        """What runs it."""
        ...

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The ways in which each patch is segmented."""
        ...

    def retried(self, work: Callable[[Network], None]) -> None:
        """Do some work with the network; where memory runs out, again with half the batch."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FileJob:
    """What `Segmenter.segment_file` is asked; see there.

    Attributes:
        image: The raster.
        paths: The files to write.
        bands: Numbers of the bands to use, from 1; None for all but alpha.
        overwrite: Whether files that exist are replaced.
        resume: Whether to go on where an earlier run ended.
        memory: Most bytes of memory of the process; None for no limit.
        on_bad_block: What becomes of a block that cannot be read.
        scale_range: Which values become the lowest and the highest of the network's; None for samples as they are.
        access: Which images may be opened.
        progress: Called with tiles that are done and tiles in all.
    """

    image: Place
    paths: Paths
    bands: Sequence[int] | None = None
    overwrite: bool = False
    resume: bool = False
    memory: int | None = None
    on_bad_block: OnBadBlock = "fail"
    scale_range: str | None = None
    access: Access = field(default_factory=Access)
    progress: TileProgress | None = None

    def __post_init__(self) -> None:
        sinks_of(self.paths)  # raises where one is not known

    @property
    def remote(self) -> bool:
        """Whether the image may lie on a server or in an archive."""
        return self.access.sources == "any"

    @property
    def sinks(self) -> list[tuple[Sink, Path]]:
        """The outputs: how each is made, and where it goes."""
        return sinks_of(self.paths)

    @property
    def keep(self) -> Keep:
        """What outputs need of the probabilities that the network gives."""
        shown = any(sink.needs_probabilities for sink, _ in self.sinks)
        return Keep(
            probabilities=self.paths.options.probability_type if shown else None,
            confidence=any(needs_confidence(sink) for sink, _ in self.sinks),
        )

    @property
    def probabilities(self) -> bool:
        """Whether an output needs probabilities."""
        return self.keep.needed

    @property
    def picture(self) -> bool:
        """Whether an output needs a small picture of the raster."""
        return any(sink.needs_picture for sink, _ in self.sinks)
