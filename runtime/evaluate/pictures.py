"""Pictures of an evaluation: images beside truth, prediction and errors (§4.3, Fig. 8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..bundle.manifest import ClassInfo
from ..segment.sinks.preview import displayable
from ..tiling.resampling import Pixels
from .metrics import IGNORE

_SIDE = 560  # of a panel, at most
_GAP = 12
_TEXT, _LINE = 16, 24
_INK, _FAINT = (34, 34, 34), (120, 120, 120)
_STRIPES = ((236, 236, 236), (196, 196, 196))  # where there is no label or no data
_WRONG, _MISSED = (222, 45, 38), (33, 102, 235)  # red and blue as in Fig. 8: false positive, false negative
_OTHERS = ((255, 0, 255), (255, 225, 0), (0, 240, 255), (255, 128, 0), (0, 0, 0))  # where a class is like those
_ALIKE = 120  # distance of two colours that are taken for each other

TRUTH = "truth"

Rgb = NDArray[np.uint8]
Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What one run made of an image.

    Attributes:
        title: Title of its panel.
        ids: Class ids (height, width) uint8, 255 where the image has no data.
    """

    title: str
    ids: NDArray[np.uint8]


def panel_size(height: int, width: int) -> tuple[int, int]:
    """The size at which a raster is shown.

    Args:
        height: Rows of the raster.
        width: Columns of the raster.

    Returns:
        Height and width of its panel: at most 560 pixels, in the raster's aspect ratio.
    """
    scale = min(1.0, _SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def draw_comparison(
    caption: str,
    image: Pixels,
    truth: NDArray[np.uint8],
    predictions: Sequence[Prediction],
    classes: Sequence[ClassInfo],
    counted: Sequence[int],
    reference: str = TRUTH,
) -> Image.Image:
    """Draw an image, the truth, predictions and their error maps, with a legend.

    One prediction stands in a row with the rest. Several have a column each, with the errors below.

    Args:
        caption: What stands above all panels.
        image: Pixels (height, width, bands) of any dtype.
        truth: Class ids (height, width) uint8, 255 where unlabelled.
        predictions: What runs made of the image, of the same size.
        classes: Names and colours by class id.
        counted: Classes that count. Where there is only one, errors are false positives (red) and false negatives
            (blue) of it, as in Fig. 8; otherwise all wrong pixels are red, or of another colour that no class has.
        reference: The name of what predictions are compared with. Where it is not the truth, the maps are said to show
            differences instead of errors.

    Returns:
        The picture.
    """
    ground = displayable(image)
    single = counted[0] if len(counted) == 1 else None
    photo, labelled = ("image", ground), (reference, _coloured(truth, classes))
    masks = [(one.title, _coloured(one.ids, classes)) for one in predictions]
    what = "errors" if reference == TRUTH else "differences"
    colours = error_colours(classes if single is None else [])
    errors = [(what, _errors(ground, truth, one.ids, single, colours)) for one in predictions]
    rows = [[photo, labelled, masks[0], errors[0]]] if len(predictions) == 1 else [[photo, *masks], [labelled, *errors]]
    shown = [index for index in range(len(classes)) if any((ids == index).any() for ids in _all(truth, predictions))]
    entries: list[tuple[str, Colour | None]] = [(classes[index].name, classes[index].colour) for index in shown]
    entries += _error_legend(what, None if single is None else classes[single].name, colours)
    if any((ids == IGNORE).any() for ids in _all(truth, predictions)):
        entries.append(("no label or no data", None))
    return _sheet(caption, rows, entries)


def _all(truth: NDArray[np.uint8], predictions: Sequence[Prediction]) -> list[NDArray[np.uint8]]:
    """Class ids of the truth and of all predictions."""
    return [truth, *(one.ids for one in predictions)]


def _coloured(ids: NDArray[np.uint8], classes: Sequence[ClassInfo]) -> Rgb:
    """Class ids as colours; stripes where there is none."""
    table = np.zeros((IGNORE + 1, 3), np.uint8)
    table[: len(classes)] = [info.colour for info in classes]
    return np.where((ids == IGNORE)[:, :, None], _stripes(*ids.shape), table[ids])


def error_colours(classes: Sequence[ClassInfo]) -> tuple[Colour, Colour]:
    """The colours of false positives and false negatives, or of all errors first; none looks like a class."""
    found = [
        colour for colour in (_WRONG, _MISSED, *_OTHERS)
        if all(np.linalg.norm(np.subtract(colour, info.colour)) > _ALIKE for info in classes)
    ]  # fmt: skip
    candidates = [*found, *(colour for colour in (_WRONG, _MISSED) if colour not in found)]
    return candidates[0], candidates[1]


def _errors(
    ground: Rgb, truth: NDArray[np.uint8], ids: NDArray[np.uint8], single: int | None, colours: tuple[Colour, Colour]
) -> Rgb:
    """A pale grey image with what is wrong in colour."""
    grey = ground.astype(np.float32) @ np.array((0.299, 0.587, 0.114), np.float32)
    picture = np.repeat((255 - 0.45 * (255 - grey))[:, :, None], 3, axis=2).astype(np.uint8)
    wrong = truth != ids
    picture[wrong] = colours[0]
    if single is not None:
        picture[wrong & (truth == single)] = colours[1]
    unknown = (truth == IGNORE) | (ids == IGNORE)
    return np.where(unknown[:, :, None], _stripes(*ids.shape), picture)


def _error_legend(what: str, single: str | None, colours: tuple[Colour, Colour]) -> list[tuple[str, Colour | None]]:
    """Entries for the colours of errors. single: The one class that counts, or None."""
    if single is None:
        return [(f"{what}: another class", colours[0])]
    return [(f"{what}: false {single}", colours[0]), (f"{what}: missed {single}", colours[1])]


def _stripes(height: int, width: int) -> Rgb:
    """Diagonal stripes (height, width, 3)."""
    diagonal = (np.arange(height)[:, None] + np.arange(width)[None, :]) // 5 % 2
    stripes: Rgb = np.array(_STRIPES, np.uint8)[diagonal]
    return stripes


def _sheet(
    caption: str, rows: Sequence[Sequence[tuple[str, Rgb]]], entries: Sequence[tuple[str, Colour | None]]
) -> Image.Image:
    """Panels with their titles in rows, a caption above and a legend below."""
    font = _font(_TEXT)
    height, width = rows[0][0][1].shape[:2]
    wide = max(width, 220)  # room for a title
    across = max(max(len(row) for row in rows) * (wide + _GAP) + _GAP, _length(caption, font) + 2 * _GAP)
    lines = _flow(entries, across, font)
    top = _GAP + _LINE + 4
    down = top + len(rows) * (_LINE + height + _GAP) + len(lines) * (_LINE + 4) + _GAP
    canvas = Image.new("RGB", (across, down), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((_GAP, _GAP), caption, fill=_INK, font=font)
    for row, panels in enumerate(rows):
        y = top + row * (_LINE + height + _GAP)
        for column, (title, pixels) in enumerate(panels):
            x = _GAP + column * (wide + _GAP)
            draw.text((x, y), _cut(title, wide, font), fill=_FAINT, font=font)
            canvas.paste(Image.fromarray(pixels), (x, y + _LINE))
            draw.rectangle((x - 1, y + _LINE - 1, x + width, y + _LINE + height), outline=(150, 150, 150))
    y = top + len(rows) * (_LINE + height + _GAP)
    for index, line in enumerate(lines):
        _draw_legend(canvas, y + index * (_LINE + 4), line, font)
    return canvas


def _draw_legend(
    canvas: Image.Image, y: int, line: Sequence[tuple[int, str, Colour | None]], font: ImageFont.FreeTypeFont
) -> None:
    """Draw one line of the legend; entries without a colour have stripes."""
    draw = ImageDraw.Draw(canvas)
    for x, name, colour in line:
        canvas.paste(Image.fromarray(_stripes(16, 26)) if colour is None else colour, (x, y + 3, x + 26, y + 19))
        draw.rectangle((x, y + 3, x + 25, y + 18), outline=_INK)
        draw.text((x + 34, y + 2), name, fill=_INK, font=font)


def _flow(
    entries: Sequence[tuple[str, Colour | None]], across: int, font: ImageFont.FreeTypeFont
) -> list[list[tuple[int, str, Colour | None]]]:
    """Entries of a legend in lines, each with the column where it starts."""
    lines: list[list[tuple[int, str, Colour | None]]] = [[]]
    x = _GAP
    for name, colour in entries:
        needed = 34 + _length(name, font) + 24
        if x + needed > across and lines[-1]:
            lines.append([])
            x = _GAP
        lines[-1].append((x, name, colour))
        x += needed
    return lines


def _font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font."""
    font = ImageFont.load_default(size=size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


def _length(text: str, font: ImageFont.FreeTypeFont) -> int:
    """The width of a text in pixels."""
    return int(font.getlength(text)) + 1


def _cut(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """As much of a text as fits."""
    if _length(text, font) <= width:
        return text
    while text and _length(f"{text}...", font) > width:
        text = text[:-1]
    return f"{text}..."
