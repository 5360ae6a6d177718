"""An image on the GPU -> its mask on the GPU, without a trip through the host."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ...cuda.arrays import DeviceArray, as_device_array
from ...cuda.tensors import Tensor
from ...errors import RasterError
from ...tiling.turns import Turn
from ..batches import grid_of
from ..notices import warn_of_scores
from ..pipeline import Pipeline
from .accumulate import DeviceAccumulator, Target
from .network import DeviceNetwork
from .windows import DeviceSource


def segment_on_device(
    network: DeviceNetwork, image: object, turns: tuple[Turn, ...], probabilities: bool
) -> tuple[DeviceArray, DeviceArray | None]:
    """Segment an image that lies on the network's GPU.

    Args:
        network: The network.
        image: An array (height, width, bands) of any library with DLPack or ``__cuda_array_interface__``.
        turns: The ways in which each patch is segmented before scores are averaged (§4.2).
        probabilities: Whether probabilities are wanted.

    Returns:
        Class ids (height, width) uint8, and probabilities (classes, height, width) float32 or None. They are ready.
        Ids are 255 and probabilities NaN where floats have no data or a score is not finite.

    Raises:
        InputError: The array does not lie on a GPU.
        RasterError: The array has another dtype, another number of bands, or lies on another GPU.
        DeviceMemoryError: The sums and the mask do not fit into the GPU's memory.
    """
    source, work = DeviceSource(_checked(network, image)), network.work
    size = (source.height, source.width)
    region = grid_of(network.manifest, *size).region()
    with work.active():
        ids = Tensor.allocate(work.device, size, "uint8")
        planes = (len(network.manifest.classes), *size)
        found = Tensor.allocate(work.device, planes, "float32") if probabilities else None
        lost = Tensor.allocate(work.device, (1,), "uint32")
        work.compute.fill(lost.pointer, 0, lost.nbytes)
        target = Target(ids, found, lost)
        accumulator = DeviceAccumulator(work, network.manifest, region, turns, probabilities, target)
        with ThreadPoolExecutor(1, "fctl-cut") as reader:
            for _ in Pipeline(network, source, turns=turns).strips(region, accumulator, reader):
                pass
        if network.manifest.input.dtype == "float32":
            work.kernels.mask_missing(
                work.compute, source.image, planes[0], ids.pointer, found.pointer if found else None
            )
        count = np.zeros(1, np.uint32)
        work.compute.copy_out(count, lost.pointer)
        work.compute.synchronize()
        work.kernels.tidy()
    warn_of_scores(source.name, int(count[0]))
    return _array(network, ids), _array(network, found) if found else None


def _checked(network: DeviceNetwork, image: object) -> DeviceArray:
    """The image, once the work that fills it is waited for; raises what `segment_on_device` does."""
    spec, work = network.manifest.input, network.work
    with work.active():
        array = as_device_array(image, work.compute)
        if isinstance(array.stream, int):
            work.compute.follow(array.stream)
    if len(array.shape) != 3 or array.shape[2] != spec.bands or array.dtype != spec.dtype or 0 in array.shape:
        raise RasterError(
            expected=f"an image (height, width, {spec.bands}) of {spec.dtype}",
            found=f"{array.shape} of {array.dtype}",
        )
    if array.device not in (None, work.device.index):
        raise RasterError(
            expected=f"an image on GPU {work.device.index}", found=f"one on GPU {array.device}", remedy="move it"
        )
    return array


def _array(network: DeviceNetwork, tensor: Tensor) -> DeviceArray:
    tensor.memory.give_away()  # it may outlive the segmenter
    return DeviceArray.dense(
        tensor.pointer, tensor.shape, tensor.dtype, device=network.work.device.index, owner=tensor.memory
    )
