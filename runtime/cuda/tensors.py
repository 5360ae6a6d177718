"""Contiguous arrays in the memory of a GPU."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .driver import Device, Memory


@dataclass(frozen=True)
class Tensor:
    """A contiguous array in memory of the GPU, which it keeps."""

    memory: Memory
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @classmethod
    def allocate(cls, device: Device, shape: tuple[int, ...], dtype: str) -> Tensor:
        """Memory for one. Raises DeviceMemoryError."""
        kind = np.dtype(dtype)
        return cls(device.allocate(math.prod(shape) * kind.itemsize), shape, kind)

    @property
    def pointer(self) -> int:
        """Its address."""
        return self.memory.pointer

    @property
    def nbytes(self) -> int:
        """Its size."""
        return math.prod(self.shape) * self.dtype.itemsize
