"""Libraries that put images on the GPU, as applications do before `segment_device`."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fctl.runtime.cuda.arrays import DeviceArray
from fctl.runtime.cuda.driver import Device
from fctl.runtime.tiling.resampling import Pixels


@dataclass(frozen=True, kw_only=True)
class Producer:
    """A library of arrays on the GPU.

    Attributes:
        name: The library's name and version.
        put: Copies an image to the GPU, into an array of the library.
        get: Takes class ids of fctl from the GPU through DLPack, and copies them to the host.
    """

    name: str
    put: Callable[[Pixels], object]
    get: Callable[[DeviceArray], NDArray[np.uint8]]


def producer(device: Device) -> Producer:
    """Choose a library for a GPU: PyTorch or CuPy where they are installed and see it, else fctl's own arrays."""
    if importlib.util.find_spec("torch"):
        import torch
        from torch.utils.dlpack import from_dlpack

        if torch.cuda.is_available():
            place = f"cuda:{device.index}"
            return Producer(
                name=f"PyTorch {torch.__version__}",
                put=lambda image: torch.from_numpy(image).to(place),
                get=lambda array: from_dlpack(array).cpu().numpy(),
            )
    if importlib.util.find_spec("cupy"):
        import cupy

        return Producer(
            name=f"CuPy {cupy.__version__}", put=cupy.asarray, get=lambda array: cupy.asnumpy(cupy.from_dlpack(array))
        )
    return Producer(name="fctl", put=lambda image: _put(device, image), get=lambda array: _get(device, array))


def _put(device: Device, image: Pixels) -> DeviceArray:
    memory = device.allocate(image.nbytes)
    with device.active():
        stream = device.stream()
        stream.copy_in(memory.pointer, np.ascontiguousarray(image))
        stream.synchronize()
    return DeviceArray.dense(memory.pointer, image.shape, image.dtype, device=device.index, owner=memory)


def _get(device: Device, array: DeviceArray) -> NDArray[np.uint8]:
    found = np.empty(array.shape, np.uint8)
    with device.active():
        stream = device.stream()
        stream.copy_out(found, array.pointer)
        stream.synchronize()
    return found
