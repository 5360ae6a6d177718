"""The kernels of kernels.cu: cutting windows, gathering cells, merging tiles, averaging turns, all as the host does it.

Everything is only enqueued; call inside `Device.active`.
"""

from __future__ import annotations

from .cutting import DTYPES, CuttingKernels
from .gathering import GatheringKernels, Patchwork
from .loaded import PTX
from .merging import MergingKernels, Sums
from .shapes import Orientation, Rectangle
from .taps import Resampling

__all__ = ["DTYPES", "PTX", "KernelSet", "Orientation", "Patchwork", "Rectangle", "Resampling", "Sums"]


class KernelSet(CuttingKernels, GatheringKernels, MergingKernels):
    """All kernels, loaded into one device: see `CuttingKernels`, `GatheringKernels` and `MergingKernels`."""
