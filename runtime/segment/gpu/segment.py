"""An image on the GPU -> its mask on the GPU, without a trip through the host."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ...cuda.arrays import DeviceArray, as_device_array
from ...cuda.tensors import Tensor
from ...errors import RasterError
from ...tiling.turns import Turn
from ..batches import grid_of
from ..pipeline import segment_strips
from .merge import DeviceMerger, Target
from .network import DeviceNetwork
from .windows import DeviceSource


def segment_on_device(
    network: DeviceNetwork, image: Any, turns: tuple[Turn, ...], probabilities: bool
) -> tuple[DeviceArray, DeviceArray | None]:
    """Image (height, width, bands) of any library -> ids (height, width) uint8, and probabilities (classes, height,
    width) float32 where they are asked for. They are ready when this returns.

    Raises InputError for an array that is not on a GPU, RasterError for another dtype or number of bands,
    DeviceMemoryError where the sums and the mask do not fit.
    """
    source = DeviceSource(_checked(network, image))
    grid = grid_of(network.manifest, source.height, source.width)
    size = (source.height, source.width)
    with network.device.active():
        ids = Tensor.allocate(network.device, size, "uint8")
        planes = (len(network.manifest.classes), *size)
        shares = Tensor.allocate(network.device, planes, "float32") if probabilities else None
        merger = DeviceMerger(network, grid, probabilities, Target(ids, shares))
        with ThreadPoolExecutor(1, "fctl-cut") as reader:
            for _ in segment_strips(network, source, grid, merger, reader, turns, None):
                pass
        network.compute.synchronize()
        network.kernels.tidy()
    return _array(network, ids), _array(network, shares) if shares else None


def _checked(network: DeviceNetwork, image: Any) -> DeviceArray:
    spec = network.manifest.input
    with network.device.active():
        array = as_device_array(image, network.compute)
        if isinstance(array.stream, int):
            network.compute.follow(array.stream)
    if len(array.shape) != 3 or array.shape[2] != spec.bands or array.dtype != spec.dtype or 0 in array.shape:
        raise RasterError(
            f"expected an image (height, width, {spec.bands}) of {spec.dtype}, found {array.shape} of {array.dtype}"
        )
    if array.device not in (None, network.device.index):
        raise RasterError(f"expected an image on GPU {network.device.index}, found one on GPU {array.device}; move it")
    return array


def _array(network: DeviceNetwork, tensor: Tensor) -> DeviceArray:
    tensor.memory.give_away()  # it may outlive the segmenter
    return DeviceArray.dense(
        tensor.pointer, tensor.shape, tensor.dtype, device=network.device.index, owner=tensor.memory
    )
