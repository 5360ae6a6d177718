"""What `Segmenter` is asked for and gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..raster.places import Place
from ..tiling.windows import Window
from .options import OutputOptions

if TYPE_CHECKING:
    from ..cuda.arrays import DeviceArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Segmentation:
    """One image, segmented.

    Attributes:
        ids: Class ids (height, width) uint8; 255 where the image has no data or a score is not finite.
        probabilities: Probabilities (classes, height, width) float32, NaN where the ids are 255; or None.
    """

    ids: NDArray[np.uint8]
    probabilities: NDArray[np.float32] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSegmentation:
    """One image, segmented on the GPU, for any library that speaks DLPack or ``__cuda_array_interface__``.

    Attributes:
        ids: Class ids (height, width) uint8; 255 where floats have no data or a score is not finite.
        probabilities: Probabilities (classes, height, width) float32, NaN where the ids are 255; or None.
    """

    ids: DeviceArray
    probabilities: DeviceArray | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """The files to write for one image.

    Attributes:
        mask: The GeoTIFF of class ids.
        probabilities: The GeoTIFF with a band of probability for each class; None leaves it out.
        preview: The picture of the image with its mask laid over it, JPEG or PNG by its name; None leaves it out.
        others: Further outputs, by the name of their sink (`fctl.runtime.segment.sinks.SINKS`).
        options: How they are written.
    """

    mask: Path
    probabilities: Path | None = None
    preview: Path | None = None
    others: Mapping[str, Path] = field(default_factory=dict)
    options: OutputOptions = field(default_factory=OutputOptions)

    def by_sink(self) -> dict[str, Path]:
        """The files that will be written, by the name of their sink."""
        named = {**self.others, "mask": self.mask, "probabilities": self.probabilities, "preview": self.preview}
        return {name: Path(path) for name, path in named.items() if path}

    def wanted(self) -> tuple[Path, ...]:
        """The files that will be written, but for those that come with them (docs/outputs.md)."""
        return tuple(self.by_sink().values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What came of one image.

    Attributes:
        image: The image: a path, the name of a part of a container, or several images as one.
        paths: The files that were written.
        height: Height of the outputs in pixels: that of the image, or of the part that was wanted.
        width: Width of the outputs in pixels.
        tiles: How many tiles were segmented.
        seconds: How long it took, reading and writing included.
        pixels: Pixels of each class, by name; pixels without data are in none.
        not_finite: Pixels whose scores were not finite; they are without data in the mask.
        implausible: Pixels whose values lie beyond all others, though nobody declared them; they are without data too.
        bad_blocks: Blocks of the image that could not be read; they are without data too.
        skipped: Tiles that this run did not infer: no pixel in them has data, or the coarse mask no border.
        computed: Tiles that this run inferred; None where that was not counted.
        area: Where the outputs lie in the image; None where all of it was wanted.
        part: Which part of the shards was made and where it lies, in words; None where the outputs were made.
        coarse: The mask that was refined; None where the bundle made the mask itself.
    """

    image: Place
    paths: Paths
    height: int
    width: int
    tiles: int
    seconds: float
    pixels: dict[str, int]
    not_finite: int = 0
    implausible: int = 0
    bad_blocks: tuple[Window, ...] = ()
    skipped: int = 0
    computed: int | None = None
    area: Window | None = None
    part: str | None = None
    coarse: Path | None = None

    @property
    def speed(self) -> float:
        """Patches a second, of those that were inferred in this run."""
        return (self.tiles if self.computed is None else self.computed) / max(self.seconds, 1e-9)

    @property
    def shares(self) -> dict[str, float]:
        """The share of each class in the pixels that have data, by name, from 0 to 1."""
        total = max(sum(self.pixels.values()), 1)
        return {name: count / total for name, count in self.pixels.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What one image will take.

    Attributes:
        image: The image: a path, the name of a part of a container, or several images as one.
        paths: The files that would be written.
        height: Height of the outputs in pixels: that of the image, or of the part that is wanted.
        width: Width of the outputs in pixels.
        tiles: How many tiles there are to segment.
        memory: Bytes of memory beside those of Python and the engine.
        disk: Bytes of the outputs at most, before compression.
        process: Bytes of memory of the whole process; None unless some batches were tried.
        seconds: How long it will take; None unless some batches were tried.
        area: Where the outputs lie in the image; None where all of it is wanted.
    """

    image: Place
    paths: Paths
    height: int
    width: int
    tiles: int
    memory: int
    disk: int
    process: int | None = None
    seconds: float | None = None
    area: Window | None = None
