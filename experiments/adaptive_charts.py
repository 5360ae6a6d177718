"""The pictures of docs/adaptive.md: risk and gain against coverage, and where contexts decide in a scene."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fctl.export.explain.drawing import FAINT, GAP, INK, font, warmth
from fctl.runtime.evaluate.plots import BLUE, GREEN, GREY, VERMILION, Chart, Panel, stacked

from .adaptive_tiles import CHEAPER, MEDIUM, NONE, Tiles
from .risk import curve
from .scenes import Image8, read_scene

_SIDE = 560  # width of a picture of the map in pixels
_TILE, _EDGE = 256, 32  # side of a tile, and half of what it shares with the next, in pixels
_MOST = 0.4  # the share of changed pixels at which the scale ends
_OPAQUE = 0.65
_QUALITY = 80
_BESIDE: dict[str, Any] = {"fontsize": 9, "edgecolor": "none", "loc": "center left", "bbox_to_anchor": (1, 0.5)}
_NAMES = {"default": "", "dropout": ", context dropout"}


def draw_curves(looked: Mapping[str, Tiles], figures: Mapping[str, Any]) -> Chart:
    """Risk and gain against coverage.

    Args:
        looked: The tiles of each bundle.
        figures: The figures of docs/adaptive.json.

    Returns:
        The chart.
    """
    chart, (risk, gain) = stacked(
        "What changes, and what is saved, where the surest tiles do with less", 2, "tiles that do with less, %"
    )
    chart.figure.set_size_inches(12.4, 7.2)
    for name, tiles in looked.items():
        _risk_lines(risk, tiles.of(tiles.held >= 0.5), name)
    for shown, colour in ((NONE, VERMILION), (MEDIUM, BLUE)):
        rule = figures["networks"]["default"][shown]["bounds"]["betting"]
        risk.plot(100 * rule["coverage"], 100 * rule["risk"], "o", color=colour)
    limit = 100 * figures["limit"]
    risk.axhline(limit, color=GREY, linewidth=1)
    risk.text(1, limit + 0.08, f"at most {limit:g} %", color=GREY, fontsize=9)
    risk.set_ylim(0, 5)
    risk.set_ylabel("pixels that change, %")
    risk.legend(**_BESIDE)
    _gain_lines(gain, figures["gains"])
    gain.axhline(10, color=GREY, linewidth=1)
    gain.text(1, 10.6, "10 %", color=GREY, fontsize=9)
    gain.axhline(0, color=GREY, linewidth=1)
    gain.set_ylim(-32, 32)
    gain.set_ylabel("time saved, %")
    gain.legend(**_BESIDE)
    gain.set_xlim(0, 100)
    return chart


def draw_map(data: Path, number: int, tiles: Tiles, path: Path) -> None:
    """Draw where contexts decide: a scene, and how much of each tile changes without them.

    Args:
        data: The folder of the data set.
        number: The scene, all of whose tiles were looked at.
        tiles: The tiles of the default bundle.
        path: The picture.
    """
    scene = read_scene(data, number)
    here = tiles.of(tiles.scene == number)
    height, width = scene.labels.shape
    panels = [("the scene", Image.fromarray(scene.pixels))]
    for shown, title in ((NONE, "no context"), (MEDIUM, "the medium context alone")):
        changed = here.changed[:, CHEAPER.index(shown)]
        heat = np.full((height, width), np.nan, np.float32)
        for y, x, value in zip(here.y, here.x, changed, strict=True):
            heat[_cell(y, height), _cell(x, width)] = np.sqrt(min(value / _MOST, 1))
        text = f"{title}: {100 * changed.mean():.1f} % of the pixels change"
        panels.append((text, Image.fromarray(_heated(scene.pixels, heat))))
    tall = round(_SIDE * height / width)
    page = Image.new("RGB", (3 * _SIDE + 4 * GAP, tall + 62 + 2 * GAP), "white")
    draw = ImageDraw.Draw(page)
    for index, (title, picture) in enumerate(panels):
        x = GAP + index * (_SIDE + GAP)
        draw.text((x, GAP), title, fill=INK, font=font())
        page.paste(picture.resize((_SIDE, tall), Image.Resampling.BICUBIC), (x, GAP + 30))
    _scale(page, draw, tall + GAP + 40)
    _frame(draw, scene.held.y, scene.held.x, scene.held.height, scene.held.width, _SIDE / width)
    page.save(path, quality=_QUALITY)


def _cell(start: int, end: int) -> slice:
    """The pixels of a tile that lie nearer to its middle than to that of the next one, along an axis."""
    return slice(start + _EDGE if start else 0, start + _TILE - _EDGE if start + _TILE < end else end)


def _heated(pixels: Image8, heat: NDArray[np.float32]) -> Image8:
    """Pixels in grey with a heat map over it, where that is a number."""
    grey = pixels.astype(np.float32).mean(axis=2, keepdims=True) * (1 - _OPAQUE)
    known = np.isfinite(heat)[:, :, None]
    return np.where(known, grey + _OPAQUE * warmth(np.nan_to_num(heat)), pixels).astype(np.uint8)


def _risk_lines(panel: Panel, tiles: Tiles, name: str) -> None:
    """Risk of part 7 of all scenes, and of the scene that is left out of a calibration."""
    dashed = name != "default"
    for shown, colour, label in ((NONE, VERMILION, "no context"), (MEDIUM, BLUE, "the medium alone")):
        index = CHEAPER.index(shown)
        lines = [(tiles, "--" if dashed else "-", 2.0, f"{label}{_NAMES[name]}")]
        if not dashed:
            lines += [
                (tiles.of(tiles.scene == number), style, 1.0, f"{label}, scene {number}")
                for number, style in ((7, ":"), (8, "-."))
            ]
        for some, style, width, text in lines:
            coverage, risk = curve(some.margin[:, index], some.changed[:, index])
            panel.plot(100 * coverage, 100 * risk, style, color=colour, linewidth=width, label=text)


def _gain_lines(panel: Panel, gains: Mapping[str, Any]) -> None:
    """Gain of the gates of both networks."""
    lines = (
        ("default", NONE, "gain", VERMILION, "-", "default, no context: a gate that costs nothing"),
        ("default", NONE, "gain, looked at first", VERMILION, ":", "default, no context: its margin is computed first"),
        ("default", MEDIUM, "gain", BLUE, "-", "default, the medium alone: a gate that costs nothing"),
        ("fctl-vgg16", NONE, "gain", GREEN, "-", "fctl-vgg16, no context: a gate that costs nothing"),
    )
    for network, shown, key, colour, style, label in lines:
        rows = gains[network][shown]
        coverage, share = ([100 * row[name] for row in rows] for name in ("coverage", key))
        panel.plot(coverage, share, style, color=colour, label=label)


def _scale(page: Image.Image, draw: ImageDraw.ImageDraw, y: int) -> None:
    """A scale of the colours below the pictures."""
    left, length = GAP + _SIDE + GAP, 300
    colours = warmth(np.linspace(0, 1, length, dtype=np.float32)[None].repeat(14, axis=0))
    page.paste(Image.fromarray(colours.astype(np.uint8)), (left, y))
    for value in (0.0, _MOST / 4, _MOST):
        place = left + length * (value / _MOST) ** 0.5
        draw.text((place, y + 16), f"{100 * value:g} %", fill=FAINT, font=font(14))
    draw.text((left + length + 60, y), "framed: part 7, which was not trained on", fill=FAINT, font=font(15))


def _frame(draw: ImageDraw.ImageDraw, y: int, x: int, height: int, width: int, scale: float) -> None:
    """Frame part 7 in every picture."""
    for index in range(3):
        left, top = GAP + index * (_SIDE + GAP), GAP + 30
        box = (left + x * scale, top + y * scale, left + (x + width) * scale, top + (y + height) * scale)
        draw.rectangle(box, outline=(0, 114, 178), width=3)
