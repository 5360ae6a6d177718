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
from .network import Network
from .outputs import sinks_of
from .results import Paths
from .sinks import Sink


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
    access: Access = field(default_factory=Access)
    progress: TileProgress | None = None

    def __post_init__(self) -> None:
        sinks_of(self.paths)  # raises where one is not known

    @property
    def sinks(self) -> list[tuple[Sink, Path]]:
        """The outputs: how each is made, and where it goes."""
        return sinks_of(self.paths)

    @property
    def probabilities(self) -> bool:
        """Whether an output needs probabilities."""
        return any(sink.needs_probabilities for sink, _ in self.sinks)

    @property
    def picture(self) -> bool:
        """Whether an output needs a small picture of the raster."""
        return any(sink.needs_picture for sink, _ in self.sinks)
