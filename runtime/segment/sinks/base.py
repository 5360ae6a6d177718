"""What an output of a run is: something that takes finished blocks and makes a file of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ...bundle.manifest import ClassInfo
from ...raster.source import Georeference
from ...tiling.resampling import Pixels
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
        height: Height in pixels.
        width: Width in pixels.
        georeference: Where the raster lies.
        classes: The classes, by id.
        tags: What made the outputs and what their numbers mean, as text by name.
        picture: Gives the raster as a small picture, pixels (height, width, bands); only for sinks that need one.
    """

    height: int
    width: int
    georeference: Georeference
    classes: tuple[ClassInfo, ...]
    tags: Mapping[str, str]
    picture: Callable[[], Pixels]


class Sink(Protocol):
    """A kind of output. Sinks hold no state: `open` starts one file of one raster."""

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
