"""Colours of classes that come without a colour."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Sequence

Colour = tuple[int, int, int]

_KNOWN: dict[Colour, str] = {
    (32, 96, 192): "water river rivers lake sea ocean pond waterbody waterbodies",
    (34, 110, 50): "forest forests tree trees woodland wood woods canopy",
    (67, 160, 71): "vegetation greenery plant plants",
    (140, 200, 90): "grass grassland meadow lawn pasture rangeland",
    (170, 190, 80): "shrub shrubs shrubland bush scrub",
    (240, 200, 60): "agriculture agricultural crop crops cropland farmland field fields",
    (200, 60, 65): "building buildings roof roofs house houses",
    (190, 110, 150): "urban built builtup city settlement",
    (90, 94, 104): "road roads street streets pavement asphalt highway",
    (130, 120, 140): "impervious parking runway concrete railway rail",
    (150, 90, 200): "car cars vehicle vehicles",
    (205, 165, 110): "land bare barren soil ground sand desert rock",
    (80, 170, 160): "wetland wetlands marsh swamp mangrove",
    (225, 240, 250): "snow ice glacier",
    (245, 245, 250): "cloud clouds",
    (90, 90, 130): "shadow shadows",
    (30, 140, 110): "kelp seagrass algae",
    (110, 110, 110): "background unknown other others clutter unlabelled unlabeled",
}
_BY_WORD = {word: colour for colour, words in _KNOWN.items() for word in words.split()}


_WEAK = {"land", "ground", "field", "fields", "other", "others"}  # "forest land" is forest


def colours_of(names: Sequence[str]) -> list[Colour]:
    """The colours of classes that come without one; no two of them are the same.

    Classes with well-known names, as water or forest, have the colours of maps; of several words, the last one that is
    known counts ("low vegetation", "bare soil"). For all others, hues lie a golden angle from each other, so that
    colours stay distinct for any number of classes.

    Args:
        names: Names of the classes, by id.

    Returns:
        Red, green and blue of each class, from 0 to 255.
    """
    found: list[Colour] = []
    for index, name in enumerate(names):
        words = [word for word in re.findall("[a-z]+", name.lower()) if word in _BY_WORD]
        words = [word for word in words if word not in _WEAK] or words
        turn, colour = index, _BY_WORD[words[-1]] if words else _hue(index)
        while colour in found:
            colour, turn = _hue(turn), turn + 1
        found.append(colour)
    return found


def _hue(turn: int) -> Colour:
    """A colour, as far as can be from those of other turns."""
    red, green, blue = (round(255 * v) for v in colorsys.hsv_to_rgb(turn * 0.618034 % 1, 0.7, 0.9 - 0.3 * (turn % 2)))
    return red, green, blue
