"""Colours of classes that come without a colour."""

from __future__ import annotations

import colorsys


def colour_of(index: int) -> tuple[int, int, int]:
    """The colour of a class that comes without one.

    Hues lie a golden angle from each other, so that colours stay distinct for any number of classes.

    Args:
        index: The id of the class.

    Returns:
        Red, green and blue, from 0 to 255 each.
    """
    red, green, blue = (round(255 * v) for v in colorsys.hsv_to_rgb(index * 0.618034 % 1, 0.7, 0.9 - 0.3 * (index % 2)))
    return red, green, blue
