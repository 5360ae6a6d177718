"""What all rasters say of one place."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..raster.files import reading
from ..raster.frames import samples_at
from ..raster.source import open_any
from ..tiling.merge import NODATA
from .layers import Layer, View
from .tiles import TOP


def at(view: View, longitude: float, latitude: float) -> dict[str, object]:
    """Read every raster at a place.

    Args:
        view: What is shown.
        longitude: In degrees.
        latitude: In degrees.

    Returns:
        `row` and `column` of the mask's pixel, or None for both beside the mask; `x` and `y` in its system; and by the
        roles of rasters what they say: `mask`, `other` and `labels` class ids, `confidence` a probability,
        `probabilities` one for each class, `image` its samples. None where a raster has no data.

    Raises:
        RasterError: A raster cannot be read.
    """
    frame = view.mask.frame
    pixel = frame.pixel_at(longitude, latitude)
    x, y = frame.coordinates_at(longitude, latitude) if frame.is_placed else (None, None)
    found: dict[str, object] = {"row": None, "column": None, "x": x, "y": y}
    if pixel:
        found |= {"row": pixel[0], "column": pixel[1]}
    for role, layer in view.layers.items():
        with open_any(layer.path) as dataset, reading(layer.path, "a pixel"):
            samples = samples_at(dataset, layer.frame, longitude, latitude)
        found[role] = None if samples is None else _said(layer, samples)
    shares = found.get("probabilities")
    if isinstance(shares, list) and "confidence" not in view.layers:
        found["confidence"] = max((share for share in shares if share is not None), default=None)
    return found


def _said(layer: Layer, samples: NDArray[np.generic]) -> object:
    """The samples of one pixel, (bands,), in words of JSON."""
    if layer.kind == "ids":
        return None if samples[0] == NODATA else int(samples[0])
    if layer.kind == "image":
        return [_number(sample) for sample in samples.tolist()]
    shares = [_share(sample, exact=samples.dtype != np.uint8) for sample in samples.tolist()]
    return shares[0] if layer.role == "confidence" else shares


def _share(sample: float, *, exact: bool) -> float | None:
    if exact:
        return _number(sample)
    return None if sample == NODATA else round(sample / TOP, 4)


def _number(sample: float) -> float | None:
    return sample if math.isfinite(sample) else None
