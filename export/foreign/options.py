"""What a user states about a foreign network, and what is found out about its graph."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fctl.runtime.errors import InputError

from ..choices import Activation, Crop, Layout

Array = NDArray[np.generic]

_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")  # colours

STRIDE = 32
"""By which most networks shrink their image; a multiple of it suits nearly all."""


@dataclass(frozen=True, kw_only=True)
class ForeignOptions:
    """What a foreign network takes and gives.

    Attributes:
        classes: The names of the classes, in the order of the network's outputs.
        tile: Side of a patch, in pixels; None where the graph states it.
        overlap: Overlap of neighbouring tiles, in pixels; None for an eighth of the tile.
        scale: The network takes (raw * scale - mean) / std.
        mean: One value, or one per band.
        std: One value, or one per band.
        layout: The order of the axes of the network's image.
        activation: What the network gives: logits, probabilities after a softmax or a sigmoid, or class ids; "auto"
            tells it by the scores of the gate's patches.
        crop: What scores that are smaller than the tile show: "none", all of the tile at a coarser grid; "valid", only
            its middle, as networks without padding do; "auto" tells it by shifting the image.
        dtype: The dtype of the rasters; None for the graph's own where that is an integer, else uint8.
        bands: The bands of the image; None where the graph states them, else 3.
        output: The name of the output to use, where there are several.
        patches: Images or folders of images for the parity gate; empty for those shipped with fctl.
        licence: The licence of the weights.
        ground_sample_distance: The side of a pixel of the training images, in metres.
    """

    classes: tuple[str, ...]
    tile: int | None = None
    overlap: int | None = None
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: Layout = "nchw"
    activation: Activation = "auto"
    crop: Crop = "auto"
    dtype: str | None = None
    bands: int | None = None
    output: str | None = None
    patches: tuple[Path, ...] = ()
    licence: str | None = None
    ground_sample_distance: float | None = None


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What was found out about a graph.

    Attributes:
        input: The name of its image.
        output: The name of its output.
        dtype: The dtype of its image.
        raw: The dtype of the rasters.
        bands: The bands of its image.
        tile: The side of its image, in pixels.
        batch: The batch that it takes; None where it takes any.
        scores: The shape of its output, without the batch.
        scores_layout: The order of the axes of its scores.
        margin: How many pixels at each edge of its image it gives no scores for.
    """

    input: str
    output: str
    dtype: np.dtype[np.generic]
    raw: str
    bands: int
    tile: int
    batch: int | None
    scores: tuple[int, ...]
    scores_layout: Layout
    margin: int = 0

    @property
    def scored(self) -> int:
        """The side of what it gives scores for, in pixels: that of a tile of the bundle."""
        return self.tile - 2 * self.margin


def mean_and_std(contract: Contract, options: ForeignOptions) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Express the scaling of raw pixels as (raw - mean) / std.

    Args:
        contract: What was found out about the graph.
        options: What the user states about the network.

    Returns:
        The mean and the standard deviation of raw pixels, each (bands,) float64.

    Raises:
        InputError: The values are not one, nor one per band; or one of them is out of range.
    """
    values = []
    for name, given in (("mean", options.mean), ("std", options.std)):
        if len(given) not in (1, contract.bands):
            raise InputError(
                subject=f"`{name}`", expected=f"one value or {contract.bands}, one per band", found=len(given)
            )
        values.append(np.broadcast_to(np.array(given, np.float64), (contract.bands,)))
    if not np.isfinite(values).all() or not 0 < options.scale < np.inf or not (values[1] > 0).all():
        raise InputError("expected numbers above 0, and a finite `mean`", subject="`scale` and `std`")
    return values[0] / options.scale, values[1] / options.scale


def channels_of(shape: tuple[int, ...], layout: Layout) -> int:
    """The channels of an output of a shape without the batch."""
    return shape[0] if layout == "nchw" else shape[-1]


def side_of(contract: Contract) -> int:
    """The side of a network's scores, or of its class ids, in cells."""
    shape = contract.scores
    if len(shape) == 2 or 1 in shape:
        return max(shape)
    return shape[1] if contract.scores_layout == "nchw" else shape[0]


def sides_remedy(side: int) -> str:
    """What to do where a network runs with tiles of this side, in pixels, and not with those that were asked for."""
    return f"give `tile` {side}, with which it runs: the network wants sides that are multiples of its stride"


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, cut to 160 characters; its type where it has no message."""
    text = _ESCAPES.sub("", str(error)).strip()
    return text.splitlines()[0][:160] if text else type(error).__name__
