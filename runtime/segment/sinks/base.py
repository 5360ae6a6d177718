"""What an output of a run is: something that takes finished blocks and makes a file of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ...bundle.manifest import ClassInfo
from ...raster.source import Georeference
from ...tiling.resampling import Pixels
from ..area import Area
from ..options import OutputOptions
from ..pipeline import Block

BlockWriter = Callable[[Block], None]
"""Called with finished blocks, top to bottom, and those of the same rows from left to right.

Their first rows and columns are multiples of 256, and so are their heights and widths, but for those at the lower and
the right border.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedRaster:
    """The raster that was segmented, and what its outputs say of it.

    Attributes:
        height: Height in pixels, that of the part which was wanted.
        width: Width in pixels.
        georeference: Where it lies.
        classes: The classes, by id.
        tags: What made the outputs and what their numbers mean, as text by name.
        picture: Gives the raster as a small picture, pixels (height, width, bands); only for sinks that need one.
        options: How outputs are written.
        area: Which part of the raster it is; None for all of it.
    """

    height: int
    width: int
    georeference: Georeference
    classes: tuple[ClassInfo, ...]
    tags: Mapping[str, str]
    picture: Callable[[], Pixels]
    options: OutputOptions = field(default_factory=OutputOptions)
    area: Area | None = None


class Sink(Protocol):
    """A kind of output. Sinks hold no state: `open` starts one file of one raster.

    A sink may also have ``companions(path)``, which names the files that it makes beside the output, each time and in
    the same folder; ``needs_confidence``, whether blocks must carry their confidence; ``check(path)``, which raises
    InputError where the output could not be made; and ``memory(width)``, the bytes of memory that it takes while a
    raster so many pixels wide passes by. See `companions_of`, `needs_confidence`, `check_sink` and `memory_of`.
    """

    @property
    def name(self) -> str:
        """The name by which `Paths` knows the output."""
        ...

    @property
    def suffix(self) -> str:
        """What the name of an image becomes for this output, as "_mask.tif"."""
        ...

    @property
    def needs_probabilities(self) -> bool:
        """Whether the blocks must carry probabilities."""
        ...

    @property
    def needs_picture(self) -> bool:
        """Whether `MaskedRaster.picture` is called."""
        ...

    def disk(self, height: int, width: int, classes: int) -> int:
        """How many bytes an output takes at most.

        Args:
            height: Height of the raster in pixels.
            width: Width of the raster in pixels.
            classes: Number of classes.

        Returns:
            Bytes, before compression.
        """
        ...

    def open(self, path: Path, raster: MaskedRaster) -> AbstractContextManager[BlockWriter]:
        """Start an output, which is complete when the block ends well.

        Args:
            path: The file to make, with the ending of the wanted one. It lies in the folder of the run, which moves all
                outputs to their places together once all are complete.
            raster: The raster that was segmented.

        Returns:
            A context manager that gives what takes the blocks.

        Raises:
            OSError: The file cannot be written.
        """
        ...


def companions_of(sink: Sink, path: Path) -> tuple[Path, ...]:
    """The files that a sink makes beside an output; they are made, moved and replaced together with it."""
    name: Callable[[Path], tuple[Path, ...]] | None = getattr(sink, "companions", None)
    return name(path) if name else ()


def needs_confidence(sink: Sink) -> bool:
    """Whether the blocks that a sink takes must carry the highest probability of each pixel."""
    return bool(getattr(sink, "needs_confidence", False))


def memory_of(sink: Sink, width: int) -> int:
    """Bytes of memory that a sink takes while a raster so many pixels wide passes by; 0 where it does not tell."""
    memory: Callable[[int], int] | None = getattr(sink, "memory", None)
    return memory(width) if memory else 0


def check_sink(sink: Sink, path: Path) -> None:
    """Let a sink refuse an output that it could not make, before anything is computed.

    Raises:
        InputError: The name has another ending than it knows, or a package is missing.
    """
    check: Callable[[Path], None] | None = getattr(sink, "check", None)
    if check:
        check(path)
