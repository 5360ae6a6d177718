"""What an output of a run is: something that takes finished rows and appears on disk whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ...bundle.manifest import ClassInfo
from ...raster.source import RasterSource
from ..pipeline import Rows

RowWriter = Callable[[Rows], None]
"""Called with finished rows, top to bottom."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedRaster:
    """The raster that is being segmented, and what its outputs say of it.

    Attributes:
        source: The raster: its size in pixels, its georeference and its pixels.
        classes: The classes, by id.
        tags: What made the outputs and what their numbers mean, as text by name.
    """

    source: RasterSource
    classes: tuple[ClassInfo, ...]
    tags: Mapping[str, str]


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
        """Whether the rows must carry probabilities."""
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

    def open(self, path: Path, raster: MaskedRaster) -> AbstractContextManager[RowWriter]:
        """Start an output, which appears under its name when the block ends well and leaves nothing when it does not.

        Args:
            path: The file to make.
            raster: The raster that is being segmented.

        Returns:
            A context manager that gives what takes the rows.

        Raises:
            OutputError: The file cannot be written.
        """
        ...
