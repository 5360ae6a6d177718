"""The images of the parity gate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fctl.calib.sample import find_images, shipped_images
from fctl.runtime.errors import InputError

PARITY_PATCHES = 8


def parity_images(bands: int, places: Sequence[Path], dtype: str = "uint8") -> tuple[Sequence[Path], str]:
    """Find the images that the parity gate takes patches from.

    Args:
        bands: The bands that the network takes.
        places: A user's images, or folders of images; empty for the images shipped with fctl.
        dtype: The dtype of the rasters that the network takes.

    Returns:
        The files, and a name for all of them together.

    Raises:
        InputError: There are no images, or those shipped with fctl do not fit the network.
    """
    if places:
        return find_images(places), ", ".join(map(str, places))
    if bands != 3 or dtype != "uint8":
        raise InputError(
            f"the shipped images have 3 bands of uint8, this network wants {bands} of {dtype}: give images of yours "
            "with `patches`"
        )
    return shipped_images(), "the images shipped with fctl"
