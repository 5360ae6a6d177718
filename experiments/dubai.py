"""What a bundle scores on part 7 of every Dubai scene: python -m experiments.dubai DATA [--bundle B] [--backend E].

Each part goes through the runtime twice: cut out of its scene, with everything around it for context, and as an image
of its own, where contexts beyond the part are black. Confusion matrices are pooled over the scenes. --inside N leaves
out labels with another, or none, within N pixels: where classes meet, labels are a matter of taste. Networks with a
global context are not for this: a part is not all of a scene.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from fctl.runtime import Segmenter
from fctl.runtime.bundle.manifest import Manifest
from fctl.runtime.evaluate.metrics import IGNORE, Confusion
from fctl.runtime.tiling.windows import Window

from .scenes import SCENES, Image8, Scene, at, read_scene

WITHIN, ALONE = "within its scene", "on its own"

Segment = Callable[[Image8], Image8]
"""Makes class ids (height, width) of pixels (height, width, 3)."""


def main() -> None:
    """Print a Markdown table of per-class IoU."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--bundle", default="default")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--inside", type=int, default=0, metavar="N")
    arguments = parser.parse_args()

    with Segmenter(arguments.bundle, backend=arguments.backend) as segmenter:
        names = segmenter.manifest.class_names
        print(f"| run | mIoU | accuracy | {' | '.join(names)} |\n|{'---|' * (3 + len(names))}")
        pooled = {run: Confusion.empty(len(names)) for run in (WITHIN, ALONE)}
        for number in SCENES:
            found = score(
                segmenter.manifest,
                lambda pixels: segmenter.segment(pixels).ids,
                arguments.data,
                [number],
                inside=arguments.inside,
            )
            for run, confusion in found.items():
                pooled[run] += confusion
                print(_row(f"scene {number}, {run}", confusion), flush=True)
        for run, confusion in pooled.items():
            print(_row(f"**pooled, {run}**", confusion))


def score(
    manifest: Manifest,
    segment: Segment,
    data: Path,
    numbers: Sequence[int] = SCENES,
    runs: Sequence[str] = (WITHIN, ALONE),
    inside: int = 0,
) -> Mapping[str, Confusion]:
    """Segment part 7 of some scenes and compare it with its labels.

    Args:
        manifest: How the network cuts contexts, and what its classes are.
        segment: Segments an image.
        data: The folder of the data set.
        numbers: The scenes.
        runs: How each part is segmented: `WITHIN`, `ALONE` or both.
        inside: Labels with another, or none, within so many pixels are left out.

    Returns:
        By run, the confusion matrix pooled over the scenes.
    """
    classes = len(manifest.classes)
    pooled = {run: Confusion.empty(classes) for run in runs}
    for number in numbers:
        scene = read_scene(data, number)
        truth = _inside(scene.labels[at(scene.held)], inside)
        for run in runs:
            around = _with_contexts(scene, manifest) if run == WITHIN else scene.held
            held = Window(scene.held.y - around.y, scene.held.x - around.x, scene.held.height, scene.held.width)
            pooled[run] += Confusion.of(truth, segment(scene.pixels[at(around)])[at(held)], classes)
    return pooled


def _inside(labels: Image8, margin: int) -> Image8:
    """Labels that have only their like within `margin` pixels; 255 in place of the others."""
    image = Image.fromarray(labels)
    least, most = (
        np.asarray(image.filter(kind(2 * margin + 1))) for kind in (ImageFilter.MinFilter, ImageFilter.MaxFilter)
    )
    return np.where(least == most, labels, IGNORE).astype(np.uint8)


def _with_contexts(scene: Scene, manifest: Manifest) -> Window:
    """Part 7 and as much around it as the contexts of its tiles see."""
    factor = max((float(context.factor) for context in manifest.contexts), default=1.0)
    margin, part = round(factor * manifest.tile), scene.held
    grown = Window(part.y - margin, part.x - margin, part.height + 2 * margin, part.width + 2 * margin)
    window = grown.within(*scene.labels.shape)
    assert window is not None
    return window


def _row(name: str, confusion: Confusion) -> str:
    iou = " | ".join(f"{100 * value:.1f}" for value in confusion.iou())
    return f"| {name} | {100 * confusion.miou():.1f} | {100 * confusion.accuracy():.1f} | {iou} |"


if __name__ == "__main__":
    main()
