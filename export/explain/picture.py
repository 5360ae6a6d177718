"""The picture of an explanation, as in Figs. 10 and 11."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from fctl.model.config import LOCAL

from .drawing import COLOURS, FAINT, GAP, INK, SIDE, Panel, cross, font, frame, heated, row_of, scaled, stacked
from .explanation import Explanation, View

_LINE = 26
_PERCENT = 58  # width of what stands behind a bar
_FLAT = 1e-3  # weights that differ by less are the same everywhere


def draw(found: Explanation, name: str) -> Image.Image:
    """Draw what the network sees, where it looks, how it weighs that, and what it says.

    Args:
        found: The explanation.
        name: What the raster is called.

    Returns:
        The picture.
    """
    best = found.verdicts[0]
    said = f"{found.classes[best.best].name} ({percent(best.probabilities[best.best])})"
    title = _text(f"{name}, pixel {found.at[0]},{found.at[1]}: {said}", 22)
    rows = [_seen(found), _looked(found), _weighed(found)]
    return stacked([title, *rows, _said(found, max(rows[0].width, 3 * SIDE + 2 * GAP))])


def percent(share: float) -> str:
    """A share from 0 to 1 in percent."""
    return f"{100 * share:.0f} %"


def caption(view: View) -> str:
    """A window in words."""
    side = f"{view.window.width} x {view.window.height} pixels"
    return "the patch (local)" if view.name == LOCAL else f"context {view.name}: {side}"


def _seen(found: Explanation) -> Image.Image:
    panels = []
    for index, view in enumerate(found.views):
        picture = scaled(view.pixels)
        if index:
            frame(picture, _patch_in(view, found), COLOURS[0], 2)
        cross(picture, *_point_in(view, found))
        size = len(view.pixels)
        panels.append(Panel(title=caption(view), note=f"as the network gets it: {size} x {size}", picture=picture))
    return row_of(panels)


def _looked(found: Explanation) -> Image.Image:
    panels = []
    for view in found.views:
        if view.attention is None:
            panels.append(Panel(title="", note="the patch does not attend to itself"))
            continue
        picture = heated(view.pixels, np.sqrt(view.attention / view.attention.max()))  # what is faint shows too
        cross(picture, *_point_in(view, found))
        share = view.likeness or 0.0
        kinds = f"{percent(share)} by likeness, {percent(1 - share)} by position"
        panels.append(Panel(title="where the pixel's cell looks", note=kinds, picture=picture))
    return row_of(panels)


def _weighed(found: Explanation) -> Image.Image:
    panels = []
    for view in found.views:
        if view.weights is None:
            panels.append(Panel(title=""))
            continue
        least, most = float(view.weights.min()), float(view.weights.max())
        picture = heated(found.views[0].pixels, (view.weights - least) / max(most - least, _FLAT))
        cross(picture, *_point_in(found.views[0], found))
        note = f"in the patch from {least:.2f} (dark) to {most:.2f} (bright)"
        panels.append(Panel(title=f"weight of {view.name} here: {view.weight:.2f}", note=note, picture=picture))
    return row_of(panels)


def _said(found: Explanation, total: int) -> Image.Image:
    """Bars of the probabilities, a column for each verdict."""
    left = 12 + 10 * max(len(one.name) for one in found.classes)
    width = max(180, (total - left) // len(found.verdicts))
    bar = width - _PERCENT
    table = Image.new("RGB", (left + width * len(found.verdicts), 30 + _LINE * len(found.classes)), "white")
    pen = ImageDraw.Draw(table)
    for column, verdict in enumerate(found.verdicts):
        x = left + width * column
        pen.text((x, 0), f"{verdict.shown}: {found.classes[verdict.best].name}", fill=INK, font=font())
        for index, one in enumerate(found.classes):
            y, share = 30 + _LINE * index, float(verdict.probabilities[index])
            pen.rectangle((x, y + 2, x + bar - 1, y + _LINE - 7), fill=(238, 238, 238))
            if filled := round(bar * share):
                pen.rectangle((x, y + 2, x + filled - 1, y + _LINE - 7), fill=one.colour)
            pen.text((x + bar + 6, y), percent(share), fill=INK if index == verdict.best else FAINT, font=font(15))
    for index, one in enumerate(found.classes):
        pen.text((0, 30 + _LINE * index), one.name, fill=INK, font=font(16))
    return table


def _text(text: str, size: int) -> Image.Image:
    left, _, right, bottom = ImageDraw.Draw(Image.new("RGB", (1, 1))).textbbox((0, 0), text, font=font(size))
    line = Image.new("RGB", (round(right - left) + 4, round(bottom) + 6), "white")
    ImageDraw.Draw(line).text((0, 0), text, fill=INK, font=font(size))
    return line


def _patch_in(view: View, found: Explanation) -> tuple[float, float, float, float]:
    """The patch in the panel of a context."""
    patch = found.views[0].window
    down, across = SIDE / view.window.height, SIDE / view.window.width
    left, top = (patch.x - view.window.x) * across, (patch.y - view.window.y) * down
    return left, top, left + patch.width * across, top + patch.height * down


def _point_in(view: View, found: Explanation) -> tuple[float, float]:
    """The pixel in the panel of a window: across and down."""
    patch, (row, column) = found.views[0].window, found.pixel
    x, y = patch.x + column + 0.5 - view.window.x, patch.y + row + 0.5 - view.window.y
    return x * SIDE / view.window.width, y * SIDE / view.window.height
