"""What a network scores on part 7 of every Dubai scene: python benchmarks/dubai.py DATA [--bundle B] [--backend E].

Each part goes through the runtime twice: cut out of its scene, with everything around it for context, and as an image
of its own, where contexts beyond the part are black. Confusion matrices are pooled over the scenes. --inside N leaves
out labels with another, or none, within N pixels: where classes meet, labels are a matter of taste. Networks with a
global context are not for this: a part is not the whole of a scene.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from fctl.runtime import Segmenter
from fctl.runtime.bundle.manifest import Manifest
from fctl.runtime.evaluate.metrics import IGNORE, Confusion
from fctl.runtime.tiling.windows import Window

SCENES, HELD_OUT, COLUMNS = tuple(range(1, 9)), 7, 3
COLOURS = ((60, 16, 152), (132, 41, 246), (110, 193, 228), (254, 221, 58), (226, 169, 41))  # as in docs/dubai.json
WITHIN, ALONE = "within its scene", "on its own"

Image8 = NDArray[np.uint8]
Segment = Callable[[Image8], Image8]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """All parts of a scene in their places: pixels (H, W, 3), labels (H, W), 255 where unlabelled; held: part 7."""

    pixels: Image8
    labels: Image8
    held: Window


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
    """Confusions pooled over the scenes. segment: pixels (H, W, 3) -> class ids (H, W); inside: see above."""
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
    """Labels with all within `margin` pixels alike; 255 for the others."""
    image = Image.fromarray(labels)
    least, most = (
        np.asarray(image.filter(kind(2 * margin + 1))) for kind in (ImageFilter.MinFilter, ImageFilter.MaxFilter)
    )
    return np.where(least == most, labels, IGNORE).astype(np.uint8)


def _row(name: str, confusion: Confusion) -> str:
    iou = " | ".join(f"{100 * value:.1f}" for value in confusion.iou())
    return f"| {name} | {100 * confusion.miou():.1f} | {100 * confusion.accuracy():.1f} | {iou} |"


def read_scene(data: Path, number: int) -> Scene:
    """One scene put together; rows and columns differ by a pixel or two, of which the smallest tells."""
    parts = {place: _read_part(data, number, place) for place in range(1, 9)}
    height, width = (min(pixels.shape[axis] for pixels, _ in parts.values()) for axis in (0, 1))
    pixels = np.zeros((COLUMNS * height, COLUMNS * width, 3), np.uint8)
    labels = np.full(pixels.shape[:2], IGNORE, np.uint8)
    windows = {place: _window(place, height, width) for place in parts}
    for place, (image, ids) in parts.items():
        pixels[at(windows[place])], labels[at(windows[place])] = image[:height, :width], ids[:height, :width]
    return Scene(pixels=pixels, labels=labels, held=windows[HELD_OUT])


def at(window: Window) -> tuple[slice, slice]:
    """The index of a window that lies inside."""
    return slice(window.y, window.bottom), slice(window.x, window.right)


def _window(place: int, height: int, width: int) -> Window:
    row, column = divmod(place - 1, COLUMNS)
    return Window(row * height, column * width, height, width)


def _with_contexts(scene: Scene, manifest: Manifest) -> Window:
    """Part 7 and as much around it as the contexts of its tiles see."""
    factor = max((float(context.factor) for context in manifest.contexts), default=1.0)
    margin, part = round(factor * manifest.tile), scene.held
    grown = Window(part.y - margin, part.x - margin, part.height + 2 * margin, part.width + 2 * margin)
    window = grown.within(*scene.labels.shape)
    assert window is not None
    return window


def _read_part(data: Path, scene: int, place: int) -> tuple[Image8, Image8]:
    folder, name = data / f"tile{scene}", f"image_part_{place:03d}"
    pixels, mask = (
        np.asarray(Image.open(path).convert("RGB"))
        for path in (folder / "images" / f"{name}.jpg", folder / "masks" / f"{name}.png")
    )
    ids = np.full(mask.shape[:2], IGNORE, np.uint8)
    for index, colour in enumerate(COLOURS):
        ids[(mask == colour).all(axis=2)] = index
    return pixels, ids


if __name__ == "__main__":
    main()
