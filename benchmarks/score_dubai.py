"""What a bundle scores on the held-out parts of Dubai: python benchmarks/score_dubai.py DATA [--bundle B].

Part 7 of every scene goes through the runtime twice: cut out of its scene, with everything around it for context, and
as an image of its own, where contexts beyond the part are black. Confusion matrices are pooled over the scenes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from fctl.model.recipes.dubai import HELD_OUT, SCENES, part_window, pixels_of, read_scene
from fctl.runtime import Segmenter
from fctl.runtime.metrics import Confusion
from fctl.runtime.windows import Window


def main() -> None:
    """Print a Markdown table of per-class IoU."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--bundle", default="default")
    parser.add_argument("--backend", default="auto")
    arguments = parser.parse_args()

    with Segmenter(arguments.bundle, backend=arguments.backend) as segmenter:
        names = segmenter.manifest.class_names
        print(f"| run | mIoU | accuracy | {' | '.join(names)} |\n|{'---|' * (3 + len(names))}")
        pooled: dict[str, list[Confusion]] = {"within its scene": [], "on its own": []}
        for scene in SCENES:
            for run, confusion in _score(segmenter, arguments.data, scene).items():
                pooled[run].append(confusion)
                print(_row(f"scene {scene}, {run}", confusion), flush=True)
        for run, confusions in pooled.items():
            print(_row(f"**pooled, {run}**", sum(confusions[1:], confusions[0])))


def _score(segmenter: Segmenter, data: Path, scene: int) -> dict[str, Confusion]:
    whole, part = read_scene(data, scene), part_window(data, scene, HELD_OUT)
    around = _with_contexts(part, segmenter, whole.pixels.shape[0], whole.pixels.shape[1])
    inside = Window(part.y - around.y, part.x - around.x, part.height, part.width)
    truth, classes = whole.labels[pixels_of(part)], len(segmenter.manifest.classes)
    found = {
        "within its scene": segmenter.segment(whole.pixels[pixels_of(around)]).ids[pixels_of(inside)],
        "on its own": segmenter.segment(whole.pixels[pixels_of(part)]).ids,
    }
    return {run: Confusion.of(truth, ids, classes) for run, ids in found.items()}


def _with_contexts(part: Window, segmenter: Segmenter, height: int, width: int) -> Window:
    """The part and as much around it as the contexts of its tiles see."""
    factor = max(float(context.factor) for context in segmenter.manifest.contexts)
    margin = round(factor * segmenter.manifest.tile)
    grown = Window(part.y - margin, part.x - margin, part.height + 2 * margin, part.width + 2 * margin)
    window = grown.within(height, width)
    assert window is not None
    return window


def _row(name: str, confusion: Confusion) -> str:
    shares = " | ".join(f"{100 * value:.1f}" for value in confusion.iou())
    return f"| {name} | {100 * confusion.miou():.1f} | {100 * confusion.accuracy():.1f} | {shares} |"


if __name__ == "__main__":
    main()
