"""A network in training against labelled images, cut and merged by the runtime as its bundle will be (§4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fctl.runtime.evaluate.datasets import Dataset
from fctl.runtime.evaluate.labels import open_mask
from fctl.runtime.evaluate.metrics import Confusion
from fctl.runtime.progress import StageProgress
from fctl.runtime.raster.source import open_raster
from fctl.runtime.segment.pipeline import segment_rows

from ..network import FCtL
from ..serving.module_network import ModuleNetwork
from ..weights.checkpoints import Card


def validate(
    network: FCtL,
    card: Card,
    dataset: Dataset,
    bands: Sequence[int] | None = None,
    progress: StageProgress | None = None,
) -> Confusion:
    """Segment all images of a data set whose classes are the card's, one by one, in fp32: their pooled confusion.

    The network is left in evaluation mode. Raises RasterError for a damaged image.
    """
    module = ModuleNetwork(network.eval(), card)
    classes, labels = len(card.classes), dataset.description.labels
    total = Confusion.empty(classes)
    for index, sample in enumerate(dataset.samples):
        cached = 4 * module.manifest.tile
        with (
            torch.inference_mode(),
            open_raster(sample.image, module.manifest.input, bands, cached) as source,
            open_mask(sample.mask, labels) as mask,
        ):
            for rows in segment_rows(module, source):
                total += Confusion.of(mask.read(rows.y, len(rows.ids)), rows.ids, classes)
        if progress:
            progress("validating", index + 1, len(dataset.samples))
    return total
