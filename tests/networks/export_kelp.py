"""Runs one model of Kelp-O-Matic: python -m tests.networks.export_kelp NAME IMAGERY OUT.

The package gives masks alone, of images that it cuts into overlapping tiles. Scores are those of one of its tiles; the
package's mask of the whole image shows that they are its own.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import kelp_o_matic
import numpy as np
import rasterio
import torch
from kelp_o_matic import find_kelp, find_mussels, models
from numpy.typing import NDArray

from .case import Card, Case, Pixels, listed, middle

TILE = 512
UPRIGHT = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of `_Model.transform`


@dataclass(frozen=True)
class Model:
    """A model of the package, and where the sample has something like what it looks for.

    Attributes:
        network: The network, in words.
        kind: Its class in the package.
        classes: Its classes.
        place: Top and left of the tile.
        mixture: Each band as red, green and blue of the sample, from their mean grey.
        grey: What that grey becomes in each band.
        segment: The package's function for whole images.
        base: What the package adds to this model's classes.
    """

    network: str
    kind: type[models._Model]
    classes: str
    place: tuple[int, int]
    mixture: tuple[tuple[float, float, float], ...]
    grey: tuple[float, ...]
    segment: Callable[..., None]
    base: int = 0

    def recoloured(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The sample (height, width, 3) in colours that the model takes for what it looks for: Dubai has no kelp."""
        pixels = (image - 128.0) @ np.array(self.mixture).T + self.grey
        return np.rint(np.clip(pixels, 0, 255)).astype(np.uint8)


MODELS = {
    "kelp-rgb": Model(
        "LR-ASPP, MobileNetV3, kelp", models.KelpRGBPresenceSegmentationModel, "background,kelp", (600, 600),
        ((-0.4, -0.1, -0.1), (-0.1, 0.4, 0.1), (0.1, 0.0, -0.3)), (80, 100, 170), find_kelp,
    ),
    "species-rgb": Model(
        "LR-ASPP, MobileNetV3, species", models.KelpRGBSpeciesSegmentationModel, "macrocystis,nereocystis", (0, 512),
        ((-1, 0, 0), (0, -1, 0), (0, 0, -1)), (127, 127, 127), lambda *images, **options: find_kelp(
            *images, species=True, **options
        ), base=2,
    ),
    "mussels-rgb": Model(
        "LR-ASPP, MobileNetV3, mussels", models.MusselRGBPresenceSegmentationModel, "background,mussels", (512, 0),
        UPRIGHT, (120, 130, 140), find_mussels,
    ),
    "kelp-rgbi": Model(
        "U-Net++, EfficientNet-B4, kelp", models.KelpRGBIPresenceSegmentationModel, "background,kelp", (600, 600),
        ((0.2, 0.5, 0.2), (-0.8, 0.6, 0.3), (-0.3, 0.4, 0.2), (0.2, 0.0, 0.3)), (200, 80, 120, 30),
        lambda *images, **options: find_kelp(*images, use_nir=True, **options),
    ),
}  # fmt: skip


def main(name: str, imagery: str, out: str) -> None:
    """Write the case."""
    model = MODELS[name]
    image = model.recoloured(np.load(imagery))
    top, left = model.place
    tile = np.ascontiguousarray(image[top : top + TILE, left : left + TILE])
    package = model.kind(use_gpu=False)
    with torch.no_grad():
        scores = package.model(package.transform(tile / 255)[None])[0].numpy()
    mask = scores.argmax(0).astype(np.uint8)
    confirm(mask, tile, model)
    mean, std, raster = MEAN, STD, tile
    if len(model.grey) == 4:  # the package stretches each tile from its second smallest value on, and clips below
        smallest, largest = np.unique(tile)[1], tile.max()
        raster = np.maximum(tile, smallest)
        mean, std = (smallest / 255,), ((largest - smallest) / 255 + 1e-8,)
    card = Card(
        network=model.network,
        package=f"kelp-o-matic {kelp_o_matic.__version__}",
        exporter="as shipped, TorchScript",
        file=str(package.torchscript_path),
        options=[
            "--classes", model.classes, "--tile", str(TILE), "--band-count", str(len(model.grey)), "--scale", "1/255",
            "--mean", listed(mean), "--std", listed(std),
        ],
        remark="logits; trained" + ("" if mean is MEAN else "; stretched by the tile's own values"),
    )  # fmt: skip
    Case(card=card, tile=raster, patches=middle(image, 1024), scores=scores, mask=mask).write(Path(out) / "shipped")


def confirm(mask: Pixels, tile: Pixels, model: Model) -> None:
    """Check that the package gives the same mask where only one of its tiles has a say: in the upper left quarter."""
    with tempfile.TemporaryDirectory() as folder:
        source, found = Path(folder) / "tile.tif", Path(folder) / "mask.tif"
        height, width, bands = tile.shape
        with rasterio.open(
            source, "w", driver="GTiff", height=height, width=width, count=bands, dtype=tile.dtype
        ) as dataset:
            dataset.write(tile.transpose(2, 0, 1))
        model.segment(source, found, crop_size=TILE, use_gpu=False)
        with rasterio.open(found) as dataset:
            whole = dataset.read(1)[: TILE // 2, : TILE // 2]
    ours = mask[: TILE // 2, : TILE // 2] + model.base
    seen = whole > 0 if model.base else np.ones_like(whole, bool)  # species are told only where there is kelp
    assert (whole[seen] == ours[seen]).all(), "the package gives another mask"


if __name__ == "__main__":
    main(*sys.argv[1:])
