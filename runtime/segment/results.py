"""What `Segmenter` gives back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ..cuda.arrays import DeviceArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Segmentation:
    """ids: class ids (height, width) uint8. probabilities: (classes, height, width) float32, or None."""

    ids: NDArray[np.uint8]
    probabilities: NDArray[np.float32] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSegmentation:
    """On the GPU, for any library that speaks DLPack or ``__cuda_array_interface__``.

    ids: class ids (height, width) uint8. probabilities: (classes, height, width) float32, or None.
    """

    ids: DeviceArray
    probabilities: DeviceArray | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """Files to write for one image; None: do not."""

    mask: Path
    probabilities: Path | None = None
    preview: Path | None = None

    def wanted(self) -> tuple[Path, ...]:
        """Those that will be written."""
        return tuple(path for path in (self.mask, self.probabilities, self.preview) if path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What came of one image. pixels: by class name; pixels without data are in none."""

    image: Path
    paths: Paths
    height: int
    width: int
    tiles: int
    seconds: float
    pixels: dict[str, int]

    @property
    def speed(self) -> float:
        """Patches a second."""
        return self.tiles / max(self.seconds, 1e-9)

    @property
    def shares(self) -> dict[str, float]:
        """Share of each class in the pixels that have data, by name."""
        total = max(sum(self.pixels.values()), 1)
        return {name: count / total for name, count in self.pixels.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What one image will take. memory, disk: bytes; memory is the runtime's own, the engine's comes on top; disk is
    before compression."""

    image: Path
    height: int
    width: int
    tiles: int
    memory: int
    disk: int
