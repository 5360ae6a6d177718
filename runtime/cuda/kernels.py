"""The kernels of kernels.cu: cutting and resampling windows, merging tiles, averaging turns, all as the host does it.

Everything is only enqueued; call inside `Device.active`.
"""

from __future__ import annotations

from .cutting import DTYPES, CuttingKernels
from .loaded import PTX
from .merging import MergingKernels, Sums
from .shapes import Orientation, Rectangle
from .taps import Resampling

__all__ = ["DTYPES", "PTX", "KernelSet", "Orientation", "Rectangle", "Resampling", "Sums"]


class KernelSet(CuttingKernels, MergingKernels):
    """All kernels, loaded into one device: see `CuttingKernels` and `MergingKernels`."""
