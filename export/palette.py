"""Colours of classes that come without."""

from __future__ import annotations

import colorsys


def colour_of(index: int) -> tuple[int, int, int]:
    """Colours that stay apart for any number of classes: hues a golden angle from each other."""
    red, green, blue = (round(255 * v) for v in colorsys.hsv_to_rgb(index * 0.618034 % 1, 0.7, 0.9 - 0.3 * (index % 2)))
    return red, green, blue
