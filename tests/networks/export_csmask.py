"""Runs one model of ukis-csmask: python -m tests.networks.export_csmask NAME IMAGERY OUT.

The package gives masks alone, of images that it mirrors at their edges and cuts into overlapping tiles. Scores are
those of one of its tiles; the package's mask of the whole image shows that they are its own.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from ukis_csmask.mask import CSmask

from .case import Card, Case, Pixels, listed, middle, most_mixed, with_bands

NAMES = ["blue", "green", "red", "nir", "swir16", "swir22"]
TILE = 256
EDGE = 51  # pixels that the package mirrors, and by which its tiles overlap
BRIGHTNESS = (1.0, 1.6, 2.5, 4.0)  # the sample is dark beside clouds


def main(name: str, imagery: str, out: str) -> None:
    """Write the case."""
    bands, level = name.split("_")
    names, image = NAMES[: int(bands[0])], np.load(imagery)
    package = run(np.zeros((TILE, TILE, len(names)), np.float32), names, level)
    tile, raster = most_mixed(bright(image, len(names)), TILE, lambda tile: scores_of(package, tile).argmax(0))
    scores = scores_of(package, tile)
    mask = scores.argmax(0).astype(np.uint8)
    confirm(package, tile, names, level)
    card = Card(
        network=f"U-Net, EfficientNet-B4, {name}",
        package=f"ukis-csmask {importlib.metadata.version('ukis-csmask')}",
        exporter="as shipped, ONNX",
        file=package.model_file,
        options=[
            "--classes", "background,clouds,shadows", "--dtype", "float32",
            "--mean", listed(package.band_mean), "--std", listed(package.band_std),
        ],
        remark="logits; open batch; trained",
    )  # fmt: skip
    Case(card=card, tile=tile, patches=middle(raster), scores=scores, mask=mask).write(Path(out) / "shipped")


def bright(image: NDArray[np.uint8], bands: int) -> Iterator[Pixels]:
    """The image as reflectances, as it is and brighter; blue comes first."""
    order = [2, 1, 0, *range(3, bands)]
    for factor in BRIGHTNESS:
        yield np.clip(with_bands(image, bands, "float32")[..., order] * np.float32(factor), 0, 1)


def run(image: Pixels, names: list[str], level: str) -> CSmask:
    """The package, run on an image of reflectances."""
    return CSmask(img=image, band_order=names, product_level=level)


def scores_of(package: CSmask, tile: Pixels) -> NDArray[np.float32]:
    """Scores (classes, tile, tile) of one tile: scaled and run by the package's functions."""
    scaled = package.normalize(tile.copy(), package.band_mean, package.band_std)
    found = package.session.run(None, {package.input_names: scaled.transpose(2, 0, 1)[None]})
    scores: NDArray[np.float32] = found[0][0]
    return scores


def confirm(package: CSmask, tile: Pixels, names: list[str], level: str) -> None:
    """Check that the package's mask of a whole image is what `scores_of` gives, where only one of its tiles has a say.

    That tile begins `EDGE` pixels above and left of the image, in what the package mirrors.
    """
    mirrored = np.pad(tile, ((EDGE, 0), (EDGE, 0), (0, 0)), mode="symmetric")[:TILE, :TILE]
    alone = slice(EDGE, TILE - EDGE - 1)
    own = scores_of(package, mirrored).argmax(0)[alone, alone]
    whole = run(tile, names, level).csm[: len(own), : len(own), 0]
    assert (whole == own).all(), "the package gives another mask"


if __name__ == "__main__":
    main(*sys.argv[1:])
