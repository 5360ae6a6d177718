"""What the page is told before it asks for any tile."""

from __future__ import annotations

import math

from ..raster.frames import TILE
from ..raster.source import open_any
from .layers import Layer, View
from .tiles import names_of

_SIDE = 4096  # pixels of a raster that one tile may take without overviews


def described(view: View) -> dict[str, object]:
    """All that the page needs to know of the rasters.

    Args:
        view: What is shown.

    Returns:
        Values that JSON knows: `title`, `classes`, `layers` in the order of the page, and where the mask lies.
    """
    frame = view.mask.frame
    return {
        "title": view.mask.path.name,
        "files": {role: layer.path.name for role, layer in view.layers.items()},
        "classes": [
            {"id": index, "name": info.name, "colour": list(info.colour)} for index, info in enumerate(view.classes)
        ],
        "named": view.is_named,
        "layers": [_layer(view, name, title) for name, title in names_of(view).items()],
        "bounds": list(frame.bounds),
        "placed": frame.is_placed,
        "system": frame.system,
        "width": frame.width,
        "height": frame.height,
    }


def _layer(view: View, name: str, title: str) -> dict[str, object]:
    """What is known of one layer of tiles; one that compares two rasters changes with both."""
    layers = _behind(view, name)
    return {
        "name": name, "title": title, "version": "-".join(layer.version for layer in layers),
        "classes": all(layer.kind == "ids" for layer in layers) and len(layers) == 1,
        "shares": layers[0].kind == "shares",
        "bounds": list(layers[-1].frame.bounds),
        "minzoom": max(lowest_zoom(layer) for layer in layers), "maxzoom": max(layer.zoom for layer in layers),
    }  # fmt: skip


def _behind(view: View, name: str) -> list[Layer]:
    """The rasters that a layer is made of."""
    if name in ("differences", "errors"):
        return [view.mask, view.layers["other" if name == "differences" else "labels"]]
    return [view.layers["probabilities" if name.startswith("probability-") else name]]


def lowest_zoom(layer: Layer) -> int:
    """The zoom from which on a tile takes no more pixels than can be read at once: without overviews, not the world."""
    with open_any(layer.path) as dataset:
        factors = [1, *dataset.overviews(1)]
    longest = max(layer.frame.height, layer.frame.width) / max(factors)
    if longest <= 2 * _SIDE:
        return 0
    return max(0, layer.zoom - int(math.log2(max(factors) * _SIDE / TILE)))
