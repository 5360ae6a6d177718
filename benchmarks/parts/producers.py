"""Images on the GPU as applications have them, for `segment_device`."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fctl.runtime.cuda.arrays import DeviceArray
from fctl.runtime.cuda.driver import Device


@dataclass(frozen=True, kw_only=True)
class Producer:
    """A library of GPU arrays. put: host array -> its array; get: fctl's array -> host array, through DLPack."""

    name: str
    put: Callable[[NDArray[Any]], Any]
    get: Callable[[DeviceArray], NDArray[Any]]


def producer(device: Device) -> Producer:
    """PyTorch or CuPy where they are installed and see the GPU, else fctl's own arrays."""
    if importlib.util.find_spec("torch"):
        import torch

        if torch.cuda.is_available():
            place = f"cuda:{device.index}"
            return Producer(
                name=f"PyTorch {torch.__version__}",
                put=lambda image: torch.from_numpy(image).to(place),
                get=lambda array: torch.from_dlpack(array).cpu().numpy(),
            )
    if importlib.util.find_spec("cupy"):
        import cupy

        return Producer(
            name=f"CuPy {cupy.__version__}", put=cupy.asarray, get=lambda array: cupy.asnumpy(cupy.from_dlpack(array))
        )
    return Producer(name="fctl", put=lambda image: _put(device, image), get=lambda array: _get(device, array))


def _put(device: Device, image: NDArray[Any]) -> DeviceArray:
    memory = device.allocate(image.nbytes)
    with device.active():
        stream = device.stream()
        stream.copy_in(memory.pointer, np.ascontiguousarray(image))
        stream.synchronize()
    return DeviceArray.dense(memory.pointer, image.shape, image.dtype, device=device.index, owner=memory)


def _get(device: Device, array: DeviceArray) -> NDArray[Any]:
    found = np.empty(array.shape, array.dtype)
    with device.active():
        stream = device.stream()
        stream.copy_out(found, array.pointer)
        stream.synchronize()
    return found
