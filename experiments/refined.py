"""Masks that one bundle makes and another one refines, in memory: what CascadePSP is scored by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from fctl.runtime import Segmenter
from fctl.runtime.evaluate.datasets import Dataset
from fctl.runtime.evaluate.metrics import Confusion
from fctl.runtime.evaluate.pairs import open_labels

from .costs import pixels_of
from .scenes import Image8


def masks(bundle: Path, images: Iterable[Path], coarse: Sequence[Image8] | None = None) -> Iterator[Image8]:
    """Segment images, or refine masks of them, in ONNX Runtime.

    Args:
        bundle: The bundle.
        images: Images of three bands of uint8.
        coarse: For a bundle that refines masks, class ids (height, width) of each image.

    Yields:
        Class ids (height, width) of each image.
    """
    with Segmenter(bundle, backend="onnxruntime") as segmenter:
        for index, image in enumerate(images):
            yield segmenter.segment(pixels_of(image), coarse=coarse[index] if coarse else None).ids


def score(dataset: Dataset, maker: Path, refiner: Path) -> Confusion:
    """Compare refined masks with labels.

    Args:
        dataset: The labelled images, whose classes are those of the bundles.
        maker: The bundle that makes masks.
        refiner: The one that refines them.

    Returns:
        The confusion, pooled over the images.
    """
    images, classes = [sample.image for sample in dataset.samples], len(dataset.description.classes)
    total = Confusion.empty(classes)
    refined = masks(refiner, images, list(masks(maker, images)))
    for sample, ids in zip(dataset.samples, refined, strict=True):
        with open_labels(sample, dataset.description.labels) as labels:
            total += Confusion.of(labels.read(0, labels.height), ids, classes)
    return total
