"""What a user states about a foreign network, and what is found out about its graph."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fctl.runtime.errors import InputError
from fctl.runtime.tiling.resampling import Resampling

from ..choices import Activation, Crop, Layout

Array = NDArray[np.generic]

_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")  # colours

STRIDE = 32
"""By which most networks shrink their image; a multiple of it suits nearly all."""


@dataclass(frozen=True, kw_only=True)
class ForeignContext:
    """A window that a foreign network takes beside the patch.

    Attributes:
        name: What the bundle calls it.
        input: The graph's input, or the argument of the module's forward, that takes it.
        window: Side in pixels of the raster of a window with the patch's centre; "global" for the whole raster.
        scene: Of a global one, the side in pixels of the training images, which the network saw whole; None if it is
            not known.
        size: Side in pixels after resampling; None for what the graph states, else the tile's.
        resampling: The filter that shrinks the window.
        scale: As in `ForeignOptions`; None for the patch's.
        mean: As in `ForeignOptions`; None for the patch's.
        std: As in `ForeignOptions`; None for the patch's.
    """

    name: str
    input: str
    window: int | Literal["global"] = "global"
    scene: int | None = None
    size: int | None = None
    resampling: Resampling = "box"
    scale: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class ForeignOptions:
    """What a foreign network takes and gives.

    Attributes:
        classes: The names of the classes, in the order of the network's outputs.
        input: The input that takes the patch; None for the only one that no context has.
        contexts: The windows that the network takes beside the patch.
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
    input: str | None = None
    contexts: tuple[ForeignContext, ...] = ()
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
class ImageInput:
    """An image that a graph takes: the patch, or a context's window.

    Attributes:
        name: The name of the input.
        side: Its side, in pixels.
        dtype: Its dtype.
        scale: The graph takes (raw * scale - mean) / std.
        mean: One value, or one per band.
        std: One value, or one per band.
        context: The context that it shows; None for the patch.
    """

    name: str
    side: int
    dtype: np.dtype[np.generic]
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    context: ForeignContext | None = None

    @property
    def floating(self) -> bool:
        """Whether it takes scaled values, rather than raw integers."""
        return self.dtype.kind == "f"

    @property
    def unscaled(self) -> bool:
        """Whether its values are the raw ones."""
        return (self.scale, set(self.mean), set(self.std)) == (1.0, {0.0}, {1.0})


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What was found out about a graph.

    Attributes:
        images: The images that it takes, the patch first.
        output: The name of its output.
        raw: The dtype of the rasters.
        bands: The bands of its images.
        batch: The batch that it takes; None where it takes any.
        scores: The shape of its output, without the batch.
        scores_layout: The order of the axes of its scores.
        margin: How many pixels at each edge of the patch's image it gives no scores for.
    """

    images: tuple[ImageInput, ...]
    output: str
    raw: str
    bands: int
    batch: int | None
    scores: tuple[int, ...]
    scores_layout: Layout
    margin: int = 0

    @property
    def patch(self) -> ImageInput:
        """The image of the patch."""
        return self.images[0]

    @property
    def tile(self) -> int:
        """The side of the patch's image, in pixels."""
        return self.patch.side

    @property
    def scored(self) -> int:
        """The side of what it gives scores for, in pixels: that of a tile of the bundle."""
        return self.tile - 2 * self.margin


def mean_and_std(image: ImageInput, bands: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Express the scaling of raw pixels as (raw - mean) / std.

    Args:
        image: What takes them.
        bands: How many bands they have.

    Returns:
        The mean and the standard deviation of raw pixels, each (bands,) float64.

    Raises:
        InputError: The values are not one, nor one per band; or one of them is out of range.
    """
    values, where = [], f"`context` {image.context.name}: " if image.context else ""
    for name, given in (("mean", image.mean), ("std", image.std)):
        if len(given) not in (1, bands):
            subject = f"{where}{name}" if where else f"`{name}`"
            raise InputError(subject=subject, expected=f"one value or {bands}, one per band", found=len(given))
        values.append(np.broadcast_to(np.array(given, np.float64), (bands,)))
    if not np.isfinite(values).all() or not 0 < image.scale < np.inf or not (values[1] > 0).all():
        subject = f"{where}scale and std" if where else "`scale` and `std`"
        raise InputError("expected numbers above 0, and a finite `mean`", subject=subject)
    return values[0] / image.scale, values[1] / image.scale


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
