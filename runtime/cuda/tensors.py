"""Contiguous arrays in the memory of a GPU."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .driver import Device
from .resources import Memory


@dataclass(frozen=True)
class Tensor:
    """A contiguous array in memory of the GPU, which it keeps alive.

    Attributes:
        memory: The memory that holds the values.
        shape: Its shape.
        dtype: Its dtype.
    """

    memory: Memory
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]

    @classmethod
    def allocate(cls, device: Device, shape: tuple[int, ...], dtype: str) -> Tensor:
        """Allocate memory for an array.

        Args:
            device: The GPU.
            shape: Shape of the array.
            dtype: Name of its dtype.

        Returns:
            The array; its values are not set.

        Raises:
            DeviceMemoryError: There is not enough memory.
        """
        kind = np.dtype(dtype)
        return cls(device.allocate(math.prod(shape) * kind.itemsize), shape, kind)

    @property
    def pointer(self) -> int:
        """Address of the first value on the GPU."""
        return self.memory.pointer

    @property
    def nbytes(self) -> int:
        """Size of the values in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize
