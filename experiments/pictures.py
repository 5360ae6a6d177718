"""Pictures of contexts for docs/contexts.md: python -m experiments.pictures [DUBAI].

windows.jpg shows what the network sees of one patch of the sample. With the data set, contexts-decide.jpg shows a
square of the sample where the shipped network needs its contexts most: that in which they mend most pixels, less those
that they spoil. The sample was never seen in training.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fctl.export.explain.drawing import COLOURS, SIDE, Panel, frame, row_of, scaled, stacked
from fctl.export.explain.explanation import Explanation, explain
from fctl.export.explain.picture import caption
from fctl.runtime.bundle.store import Bundle, read_bundle
from fctl.runtime.engines.choose import choose_engine
from fctl.runtime.evaluate.metrics import IGNORE
from fctl.runtime.evaluate.pictures import Prediction, draw_comparison
from fctl.runtime.raster.source import open_raster
from fctl.runtime.segment.blackout import BlackoutNetwork
from fctl.runtime.segment.opening import load_network
from fctl.runtime.segment.pipeline import segment_rows
from fctl.runtime.tiling.sources import Source
from fctl.runtime.tiling.windows import Window

from .scenes import at, read_scene

DOCS, SAMPLE = Path("docs"), Path("samples/dubai.tif")
AT = (1100, 700)  # a lake between lawns and villas
SCENE = 8  # of which the sample is the lower left

_SQUARE, _STEP = 384, 16  # side of the square that is searched for, and distance of candidates, in pixels
_QUALITY = 76

Ids = NDArray[np.uint8]


def main() -> None:
    """Draw the pictures into docs/."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="?", help="the folder of the Dubai data set")
    data = parser.parse_args().data
    bundle = read_bundle("default")
    with open_raster(SAMPLE, bundle.manifest.image, None) as raster:
        _save(_windows(explain(bundle, raster, AT), raster), "windows")
        if data:
            labels = read_scene(data, SCENE).labels[-raster.height :, : raster.width]
            _save(_decided(bundle, raster, labels), "contexts-decide")


def _windows(found: Explanation, raster: Source) -> Image.Image:
    """The raster with all windows, then each window as the network gets it, framed in its colour."""
    pixels = np.asarray(raster.read(Window(0, 0, raster.height, raster.width))).astype(np.uint8)
    whole, panels = Image.fromarray(pixels), []
    whole.thumbnail((SIDE, SIDE))
    across, down = whole.width / raster.width, whole.height / raster.height
    for view, colour in zip(found.views, COLOURS, strict=False):
        window = view.window
        box = window.x * across, window.y * down, window.right * across, window.bottom * down
        frame(whole, box, colour)
        picture, size = scaled(view.pixels), len(view.pixels)
        ImageDraw.Draw(picture).rectangle((0, 0, SIDE - 1, SIDE - 1), outline=colour, width=5)
        panels.append(Panel(title=caption(view), note=f"as the network gets it: {size} x {size}", picture=picture))
    note = f"{raster.width} x {raster.height} pixels"
    return stacked([row_of([Panel(title=raster.name.split("/")[-1], note=note, picture=whole), *panels])])


def _decided(bundle: Bundle, raster: Source, labels: Ids) -> Image.Image:
    """The square in which contexts decide most, without and with them."""
    names = [context.name for context in bundle.manifest.contexts]
    without, whole = _segmented(bundle, raster, names), _segmented(bundle, raster, [])
    counted = labels != IGNORE
    gain = (counted & (whole == labels)).astype(np.int32) - (counted & (without == labels))
    place = _best(gain)
    truth, none, each = (ids[at(place)] for ids in (labels, without, whole))
    known = truth != IGNORE
    right = [f"{100 * (ids == truth)[known].mean():.0f} % right" for ids in (none, each)]
    print(f"x {place.x}, y {place.y}, {_SQUARE} pixels a side: {right[0]} without contexts, {right[1]} with")
    titles = [f"no context: {right[0]}", f"all contexts: {right[1]}"]
    return draw_comparison(
        f"{SAMPLE.name}, {_SQUARE} x {_SQUARE} pixels from {place.x},{place.y}",
        raster.read(place),
        truth,
        [Prediction(title=title, ids=ids) for title, ids in zip(titles, (none, each), strict=True)],
        bundle.manifest.classes,
        range(len(bundle.manifest.classes)),
    )


def _segmented(bundle: Bundle, raster: Source, hidden: Sequence[str]) -> Ids:
    """Class ids (height, width) of a raster, while some contexts are black."""
    network = load_network(bundle, choose_engine("onnxruntime", "fp32"), 4)
    with closing(BlackoutNetwork(network, hidden)) as some:
        return np.concatenate([rows.ids for rows in segment_rows(some, raster)])


def _best(gain: NDArray[np.int32]) -> Window:
    """The square with the largest sum."""
    sums = np.pad(gain.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    squares = sums[_SQUARE:, _SQUARE:] - sums[:-_SQUARE, _SQUARE:] - sums[_SQUARE:, :-_SQUARE]
    squares = (squares + sums[:-_SQUARE, :-_SQUARE])[::_STEP, ::_STEP]
    row, column = np.unravel_index(squares.argmax(), squares.shape)
    return Window(int(row) * _STEP, int(column) * _STEP, _SQUARE, _SQUARE)


def _save(picture: Image.Image, name: str) -> None:
    path = DOCS / f"{name}.jpg"
    picture.save(path, quality=_QUALITY, subsampling=0)  # sharp lines of colour
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
