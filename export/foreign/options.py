"""What is said of a foreign network on the command line, and what is found out about its graph."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fctl.runtime.errors import InputError

Activation = Literal["logits", "softmax", "sigmoid", "labels"]
Layout = Literal["nchw", "nhwc"]
Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class ForeignOptions:
    """What a foreign network takes and gives.

    tile: side of a patch in pixels, None where the graph says. overlap: of neighbouring tiles, in pixels, None for an
    eighth of the tile. scale, mean, std: (raw * scale - mean) / std, one value or one per band. layout: axes of the
    image. activation: what it gives: logits, probabilities after a softmax or a sigmoid, or class ids. dtype: of the
    rasters, None for the graph's own where that is an integer, else uint8. bands: None where the graph says. output:
    which of several outputs. patches, licence, ground_sample_distance: as in `ExportOptions`.
    """

    classes: tuple[str, ...]
    tile: int | None = None
    overlap: int | None = None
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: Layout = "nchw"
    activation: Activation = "logits"
    dtype: str | None = None
    bands: int | None = None
    output: str | None = None
    patches: tuple[Path, ...] = ()
    licence: str | None = None
    ground_sample_distance: float | None = None


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What was found out about a graph: names, dtypes and static sides. batch: None where it takes any."""

    input: str
    output: str
    dtype: np.dtype[Any]
    raw: str
    bands: int
    tile: int
    batch: int | None
    scores: tuple[int, ...]  # shape of the output without its batch


def mean_and_std(contract: Contract, options: ForeignOptions) -> tuple[Array, Array]:
    """(raw - mean) / std, one value per band, float64."""
    values = []
    for flag, given in (("--mean", options.mean), ("--std", options.std)):
        if len(given) not in (1, contract.bands):
            raise InputError(f"{flag}: expected one value or {contract.bands}, one per band, found {len(given)}")
        values.append(np.broadcast_to(np.array(given, np.float64), (contract.bands,)))
    if not np.isfinite(values).all() or not 0 < options.scale < np.inf or not (values[1] > 0).all():
        raise InputError("--scale and --std: expected numbers above 0, and a finite --mean")
    return values[0] / options.scale, values[1] / options.scale


def channels_of(shape: tuple[int, ...], options: ForeignOptions) -> int:
    """Channels of an output, from its shape without batch."""
    return shape[0] if options.layout == "nchw" else shape[-1]


def first_line(error: Exception) -> str:
    """What an exception says, in one line."""
    return str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
