"""A case: a network, a tile, and what the network's own package makes of that tile. Needs numpy alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MIXED = 0.05
"""The share of the pixels that each of two classes must have: a mask of one class proves nothing."""

NEAR_TIE = 1e-4
"""Pixels whose two highest scores differ by less, as a part of max |score|, may get either class."""

Pixels = NDArray[np.generic]


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is known of a case but its arrays.

    Attributes:
        network: The network, in words.
        package: Its package and version.
        exporter: What made the file.
        file: The network's file.
        options: What `fctl-export` is told of it.
        remark: What else the table says.
    """

    network: str
    package: str
    exporter: str
    file: str
    options: list[str]
    remark: str


@dataclass(frozen=True, kw_only=True)
class Case:
    """A case.

    Attributes:
        card: What it is.
        tile: The raster (tile, tile, bands).
        patches: Another raster (height, width, bands), for the parity gate.
        scores: The package's scores (classes, tile, tile), before a class is chosen.
        mask: The package's class ids (tile, tile).
    """

    card: Card
    tile: Pixels
    patches: Pixels
    scores: Pixels
    mask: Pixels

    def write(self, folder: Path) -> None:
        """Write it into a folder that is made.

        Raises:
            SystemExit: Its mask has hardly more than one class.
        """
        if (second := second_share(self.mask)) < MIXED:
            sys.exit(f"{self.card.network}: the second class has only {second:.1%} of the pixels")
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {"tile": self.tile, "patches": self.patches, "scores": self.scores, "mask": self.mask}
        np.savez(folder / "case.npz", **arrays)
        (folder / "case.json").write_text(json.dumps(asdict(self.card), indent=2))

    @staticmethod
    def read(folder: Path) -> Case:
        """Read a case."""
        with np.load(folder / "case.npz") as arrays:
            card = Card(**json.loads((folder / "case.json").read_text()))
            return Case(card=card, **{name: arrays[name] for name in arrays.files})

    def near_ties(self) -> NDArray[np.bool_]:
        """Where (tile, tile) the two highest scores hardly differ."""
        lower, higher = np.sort(self.scores.astype(np.float64), 0)[-2:]
        return higher - lower <= NEAR_TIE * np.abs(self.scores).max()


def second_share(mask: Pixels) -> float:
    """The share of the pixels that the second most frequent class has."""
    _, counts = np.unique(mask, return_counts=True)
    return float(sorted(counts)[-2] / mask.size) if len(counts) > 1 else 0.0


def with_bands(image: NDArray[np.uint8], bands: int, dtype: str) -> Pixels:
    """An aerial image with as many bands, and in the dtype, that a network wants.

    Bands beyond the third are mixed from its colours, for there is no other imagery in the repository.

    Args:
        image: Red, green and blue (height, width, 3).
        bands: How many bands.
        dtype: uint8 as it came, uint16 up to 10200, or float32 up to 1.

    Returns:
        The image (height, width, bands).
    """
    red, green, blue = np.moveaxis(image.astype(np.float64), 2, 0)
    made = (red, green, blue, (red + 2 * green) / 3, 0.5 * red + 0.2 * blue, 0.8 * green - 0.3 * blue)[:bands]
    pixels = np.clip(np.stack(made, 2), 0, 255)
    if dtype == "uint8":
        return np.rint(pixels).astype(np.uint8)
    return np.rint(pixels * 40).astype(np.uint16) if dtype == "uint16" else (pixels / 255).astype(np.float32)


def most_mixed(images: Iterable[Pixels], side: int, segment: Callable[[Pixels], Pixels]) -> tuple[Pixels, Pixels]:
    """The place where a trained network sees more than one class, of images that are not what it was trained for.

    Args:
        images: Images (height, width, bands).
        side: Side of a tile, in pixels.
        segment: From a tile to class ids.

    Returns:
        The first tile with three times the mixture that is demanded, or else the most mixed; and its image.
    """
    best, found = -1.0, None
    for whole, tile in ((image, tile) for image in images for tile in tiles_of(image, side)):
        if (share := second_share(segment(tile))) > best:
            best, found = share, (tile, whole)
        if best >= 3 * MIXED:
            break
    assert found is not None
    return found


def tiles_of(image: Pixels, side: int) -> Iterator[Pixels]:
    """The tiles of an image, side by side."""
    for top in range(0, image.shape[0] - side + 1, side):
        for left in range(0, image.shape[1] - side + 1, side):
            yield np.ascontiguousarray(image[top : top + side, left : left + side])


def middle(image: Pixels, side: int = 768) -> Pixels:
    """The middle of an image, from which the parity gate takes patches."""
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    return np.ascontiguousarray(image[top : top + side, left : left + side])


def listed(values: object) -> str:
    """Numbers as `fctl-export` takes them; every digit is kept."""
    return ",".join(repr(float(value)) for value in np.asarray(values, np.float64).ravel())
