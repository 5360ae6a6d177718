"""The curve of a training: losses and validation scores over steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_SIZE = (1000, 560)  # width, height
_PLOT = (80, 50, 920, 500)  # left, top, right, bottom of the axes
_INK, _FAINT, _GRID = (34, 34, 34), (120, 120, 120), (225, 225, 225)
_LOSS, _PALE, _SCORE = (33, 102, 235), (196, 214, 250), (222, 45, 38)
_SMOOTHED = 50  # points of the smoothed curve's window, at most

Point = tuple[float, float]


def draw_curve(title: str, losses: Sequence[Point], scores: Sequence[Point], stages: Sequence[int]) -> Image.Image:
    """Loss (blue, left) and validation mIoU in percent (red, right) over steps.

    losses, scores: (step, value) in order. stages: the last step of each stage, marked by a line.
    """
    font = ImageFont.load_default(size=15)
    canvas = Image.new("RGB", _SIZE, "white")
    draw = ImageDraw.Draw(canvas)
    left, top, right, bottom = _PLOT
    last = max([1.0, *(step for step, _ in [*losses, *scores])])
    highest = _rounded_up(max((value for _, value in losses), default=1.0))
    for tick in range(6):
        y = bottom + (top - bottom) * tick / 5
        draw.line((left, y, right, y), fill=_GRID)
        draw.text((left - 8, y), f"{highest * tick / 5:.3g}", fill=_LOSS, font=font, anchor="rm")
        draw.text((right + 8, y), f"{20 * tick}", fill=_SCORE, font=font, anchor="lm")
        x = left + (right - left) * tick / 5
        draw.text((x, bottom + 8), f"{last * tick / 5:.0f}", fill=_FAINT, font=font, anchor="mt")
    for step in stages:
        x = left + (right - left) * step / last
        draw.line((x, top, x, bottom), fill=_FAINT)
    _line(draw, losses, last, highest, _PALE, 1)
    _line(draw, _smoothed(losses), last, highest, _LOSS, 2)
    _line(draw, scores, last, 1.0, _SCORE, 2, dots=True)
    draw.text((left, 18), title, fill=_INK, font=font)
    draw.text((right, 18), "loss (left), validation mIoU in % (right) over steps", fill=_FAINT, font=font, anchor="ra")
    return canvas


def _line(
    draw: ImageDraw.ImageDraw,
    points: Sequence[Point],
    last: float,
    highest: float,
    colour: tuple[int, int, int],
    width: int,
    dots: bool = False,
) -> None:
    left, top, right, bottom = _PLOT
    placed = [
        (left + (right - left) * step / last, bottom + (top - bottom) * min(value / highest, 1.0))
        for step, value in points
        if math.isfinite(value)
    ]
    if len(placed) > 1:
        draw.line(placed, fill=colour, width=width)
    for x, y in placed if dots or len(placed) == 1 else ():
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour)


def _smoothed(points: Sequence[Point]) -> list[Point]:
    """A running mean; the ends keep their places."""
    width = min(_SMOOTHED, max(1, len(points) // 5))
    values = np.array([value for _, value in points])
    return [
        (step, float(values[max(0, index + 1 - width) : index + 1].mean())) for index, (step, _) in enumerate(points)
    ]


def _rounded_up(value: float) -> float:
    """The next of 1, 2, 5, 10... times a power of ten."""
    if not math.isfinite(value) or value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= value)
