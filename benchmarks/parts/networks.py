"""Batches through networks, wherever those work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fctl.runtime.bundle.manifest import Manifest
from fctl.runtime.raster.source import open_raster
from fctl.runtime.segment.batches import PatchBatch
from fctl.runtime.segment.network import Network
from fctl.runtime.segment.pipeline import segment_rows
from fctl.runtime.tiling.resampling import Pixels
from fctl.runtime.tiling.sources import ArraySource
from fctl.runtime.tiling.windows import Window


def stacked(batches: Sequence[PatchBatch]) -> PatchBatch:
    """Several batches as one. Of contexts that move, one window for each patch."""
    first = batches[0]
    return PatchBatch(
        tiles=tuple(tile for batch in batches for tile in batch.tiles),
        patch=np.concatenate([batch.patch for batch in batches]),
        contexts={name: np.concatenate([batch.contexts[name] for batch in batches]) for name in first.contexts},
        scenes={name: tuple(window for batch in batches for window in batch.scenes[name]) for name in first.scenes},
        positions={name: np.concatenate([batch.positions[name] for batch in batches]) for name in first.positions},
    )


def scores_of(network: Network[Any, Any], batch: PatchBatch) -> Any:
    """Scores of a stacked batch, every patch with all of its contexts encoded; where the network keeps them."""
    features = {}
    for context in network.manifest.contexts:
        windows = batch.contexts[context.name]
        if context.window.moves:
            features[context.name] = network.join(
                context, [network.encode(context, window[None]) for window in windows]
            )
        else:
            features[context.name] = network.encode(context, windows)
    return network.segment(batch.patch, features, batch.positions)


def scores_of_all(network: Network[Any, Any], patches: Sequence[PatchBatch]) -> NDArray[np.float32]:
    """Scores (patches, classes, P, P) on the host, in as many runs as that takes."""
    padded = [*patches, *patches[-1:] * (-len(patches) % network.batch)]
    groups = [padded[start : start + network.batch] for start in range(0, len(padded), network.batch)]
    return np.concatenate([network.on_host(scores_of(network, stacked(group))) for group in groups])[: len(patches)]


def ids_of(network: Network[Any, Any], image: Pixels) -> NDArray[np.uint8]:
    """The mask (height, width) of an image, as `Segmenter.segment` makes it."""
    return np.concatenate([rows.ids for rows in segment_rows(network, ArraySource(image))])


def picture(manifest: Manifest, images: Sequence[Path], height: int, width: int) -> Pixels:
    """An image of any size (height, width, bands): real ones side by side, each mirrored and repeated as needed."""
    strips, side = [], -(-width // len(images))
    for path in images:
        with open_raster(path, manifest.input, None, height) as source:
            pixels = source.read(Window(0, 0, min(source.height, height), min(source.width, side)))
        ends = ((0, height - pixels.shape[0]), (0, side - pixels.shape[1]), (0, 0))
        strips.append(np.pad(pixels, ends, mode="symmetric"))
    return np.ascontiguousarray(np.concatenate(strips, axis=1)[:, :width])
