"""Validation of a network in training: tiles are cut and merged by the runtime, as those of its bundle will be (§4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fctl.runtime.evaluate.datasets import Dataset
from fctl.runtime.evaluate.metrics import Confusion
from fctl.runtime.evaluate.pairs import open_labels
from fctl.runtime.progress import StageProgress
from fctl.runtime.raster.source import open_raster
from fctl.runtime.segment.pipeline import segment_rows
from fctl.runtime.tiling.coarse import CoarseArray, CoarseSource
from fctl.runtime.tiling.sources import Source

from ..interface import ContextNetwork
from ..serving.manifest import draft_manifest
from ..serving.module_network import ModuleNetwork
from ..weights.checkpoints import Card
from .coarse import CoarseMasks


def validate(
    network: ContextNetwork,
    card: Card,
    dataset: Dataset,
    bands: Sequence[int] | None = None,
    progress: StageProgress | None = None,
    scale_range: str | None = None,
    *,
    once: bool = False,
    coarse: CoarseMasks | None = None,
) -> Confusion:
    """Segment all images of a data set, one by one and in fp32, and compare them with their masks.

    Args:
        network: The network; it is left in evaluation mode.
        card: How the network is run, and its classes.
        dataset: Images whose classes are the card's.
        bands: Bands of the images, from 1, or None for all but alpha.
        progress: Called after every image.
        scale_range: Which values become the lowest and the highest of the network's, or None.
        once: Whether contexts that can be are encoded once an image.
        coarse: The masks that a refiner refines; None for another network.

    Returns:
        The confusion, pooled over the images.

    Raises:
        RasterError: An image is damaged.
    """
    encoders = {name: name for name in card.network.context_names}
    module = ModuleNetwork(draft_manifest("in training", card, encoders), network.eval(), once=once)
    classes, labels = len(card.classes), dataset.description.labels
    total = Confusion.empty(classes)
    for index, sample in enumerate(dataset.samples):
        cached = 4 * module.manifest.tile
        with (
            torch.inference_mode(),
            open_raster(sample.image, module.manifest.image, bands, cached, scale_range=scale_range) as image,
            open_labels(sample, labels) as mask,
        ):
            source: Source = image
            if coarse:
                source = CoarseSource(image, CoarseArray(coarse.ids(sample, image, mask)), classes)
            for rows in segment_rows(module, source):
                total += Confusion.of(mask.read(rows.y, len(rows.ids)), rows.ids, classes)
        if progress:
            progress("validating", index + 1, len(dataset.samples))
    return total
