"""Panels, heat maps and squares with Pillow, for pictures of what a network sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

SIDE = 320
"""Of a panel, in pixels."""

GAP = 24
INK, FAINT = (34, 34, 34), (112, 112, 112)
COLOURS = ((0, 0, 0), (0, 158, 115), (213, 94, 0), (0, 114, 178), (204, 121, 167))
"""Of squares around windows: white with black around for the patch, then one for each context."""

_HEAT = np.array([(20, 11, 53), (101, 21, 110), (183, 55, 84), (237, 105, 37), (251, 180, 26), (252, 255, 164)])
_OPAQUE = 0.75  # how much of the hottest place is colour
_DIMMED = 0.55  # of the light of the image that remains below a heat map

Rgb = NDArray[np.uint8]
Box = tuple[float, float, float, float]
Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A picture with a title.

    Attributes:
        title: What stands above it.
        note: A second line, in grey.
        picture: The picture; None leaves its place empty.
    """

    title: str
    note: str = ""
    picture: Image.Image | None = None


def font(size: int = 17) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font of all texts, which Pillow brings along."""
    return ImageFont.load_default(size=size)


def scaled(pixels: Rgb, side: int = SIDE) -> Image.Image:
    """A square window (S, S, 3) at the size of a panel."""
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)


def heated(pixels: Rgb, heat: NDArray[np.float32], side: int = SIDE) -> Image.Image:
    """A window in grey with a heat map over it: the hotter, the less of the window shows through.

    Args:
        pixels: The window (S, S, 3).
        heat: From 0 to 1, (S, S).
        side: Side of the panel in pixels.

    Returns:
        The picture.
    """
    grey = pixels.astype(np.float32).mean(axis=2, keepdims=True) * _DIMMED
    share = np.clip(heat, 0, 1)[:, :, None]
    mixed = (grey * (1 - _OPAQUE * share) + warmth(heat) * _OPAQUE * share).clip(0, 255)
    return scaled(mixed.astype(np.uint8), side)


def warmth(heat: NDArray[np.float32]) -> NDArray[np.float32]:
    """Colours (..., 3) of values from 0 to 1, dark violet to light yellow."""
    steps = np.linspace(0, 1, len(_HEAT))
    channels = [np.interp(np.clip(heat, 0, 1), steps, channel) for channel in _HEAT.T]
    return np.stack(channels, axis=-1).astype(np.float32)


def frame(picture: Image.Image, box: Box, colour: Colour, width: int = 3) -> None:
    """Draw a square, with a thin white line around so that it shows on any ground."""
    draw = ImageDraw.Draw(picture)
    left, top, right, bottom = box
    draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=(255, 255, 255), width=width + 2)
    draw.rectangle(box, outline=colour, width=width)


def cross(picture: Image.Image, x: float, y: float) -> None:
    """Mark a point with a ring that shows on any ground."""
    draw = ImageDraw.Draw(picture)
    for radius, colour, width in ((9, (0, 0, 0), 5), (8, (255, 255, 255), 3)):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=colour, width=width)


def row_of(panels: Sequence[Panel], side: int = SIDE) -> Image.Image:
    """Panels side by side, with their titles above."""
    height = 50 + side
    row = Image.new("RGB", (len(panels) * (side + GAP) - GAP, height), "white")
    draw = ImageDraw.Draw(row)
    for index, panel in enumerate(panels):
        x = index * (side + GAP)
        draw.text((x, 0), panel.title, fill=INK, font=font())
        draw.text((x, 23), panel.note, fill=FAINT, font=font(15))
        if panel.picture:
            row.paste(panel.picture, (x, 50))
    return row


def stacked(rows: Sequence[Image.Image], gap: int = GAP) -> Image.Image:
    """Pictures one below the other, with a margin around all."""
    width, height = max(row.width for row in rows), sum(row.height + gap for row in rows) - gap
    page = Image.new("RGB", (width + 2 * GAP, height + 2 * GAP), "white")
    y = GAP
    for row in rows:
        page.paste(row, (GAP, y))
        y += row.height + gap
    return page
