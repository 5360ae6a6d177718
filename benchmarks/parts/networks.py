"""Networks that are ready to run, and what they make of patches and of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fctl.runtime.bundle.manifest import Manifest
from fctl.runtime.bundle.store import Bundle
from fctl.runtime.engines.base import RunPrecision
from fctl.runtime.engines.choose import choose_engine
from fctl.runtime.raster.source import open_raster
from fctl.runtime.segment.batches import PatchBatch, joined
from fctl.runtime.segment.network import EngineNetwork, Network
from fctl.runtime.segment.opening import load_network
from fctl.runtime.segment.pipeline import segment_rows
from fctl.runtime.tiling.resampling import Pixels
from fctl.runtime.tiling.sources import ArraySource
from fctl.runtime.tiling.windows import Window


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A network that is ready to run.

    Attributes:
        network: The network.
        device: The device that runs it, as its library names it; "CPU" for the processor.
    """

    network: Network
    device: str


def load_engine(bundle: Bundle, backend: str, precision: RunPrecision, batch: int) -> EngineNetwork:
    """Load a bundle's graphs into one engine, in exactly the batch size that is asked for.

    Args:
        bundle: The bundle.
        backend: The engine's name.
        precision: In what precision to run.
        batch: Patches at once.

    Returns:
        The network.

    Raises:
        EngineError: The engine is not installed, or refuses the bundle.
        DeviceMemoryError: The batch is too large for the GPU's memory.
    """
    engine = choose_engine(backend, precision, bundle, batch=batch)
    try:
        return load_network(bundle, engine, batch)
    except BaseException:
        engine.close()
        raise


def runs(network: Network, batch: PatchBatch) -> Callable[[], NDArray[np.float32]]:
    """What is timed of a network: one batch, from arrays on the host to scores (N, classes, P, P) on the host."""
    return lambda: network.on_host(network.run(batch))


def scores_of(network: Network, patches: Sequence[PatchBatch]) -> NDArray[np.float32]:
    """Scores of patches, every one with all of its contexts encoded.

    Args:
        network: The network.
        patches: Batches of one patch.

    Returns:
        Scores (patches, classes, P, P) on the host.
    """
    size = network.batch
    groups = (joined(patches[start : start + size], size) for start in range(0, len(patches), size))
    return np.concatenate([network.on_host(network.run(group)) for group in groups])[: len(patches)]


def mask_of(network: Network, image: Pixels) -> NDArray[np.uint8]:
    """The class ids (height, width) of an image (height, width, bands), as `Segmenter.segment` makes them."""
    return np.concatenate([rows.ids for rows in segment_rows(network, ArraySource(image))])


def mosaic(manifest: Manifest, images: Sequence[Path], height: int, width: int) -> Pixels:
    """An image of any size: real ones side by side, each mirrored and repeated as needed.

    Args:
        manifest: The bundle that the images must fit.
        images: The images; each gives a strip of the same width.
        height: Height of the result in pixels.
        width: Width of the result in pixels.

    Returns:
        Pixels (height, width, bands).

    Raises:
        RasterError: An image does not fit the bundle.
    """
    strips, side = [], -(-width // len(images))
    for path in images:
        with open_raster(path, manifest.input, None, height) as source:
            pixels = source.read(Window(0, 0, min(source.height, height), min(source.width, side)))
        ends = ((0, height - pixels.shape[0]), (0, side - pixels.shape[1]), (0, 0))
        strips.append(np.pad(pixels, ends, mode="symmetric"))
    return np.ascontiguousarray(np.concatenate(strips, axis=1)[:, :width])
