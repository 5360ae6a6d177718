"""What decides on one pixel of a raster: where the network looks, and what it says without a context."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fctl.model.config import LOCAL
from fctl.runtime.bundle.manifest import SEGMENTER, ClassInfo, Manifest
from fctl.runtime.bundle.store import Bundle
from fctl.runtime.engines.choose import choose_engine
from fctl.runtime.errors import InputError
from fctl.runtime.segment.batches import PatchBatch, cut_batch, grid_of
from fctl.runtime.segment.blackout import BlackoutNetwork
from fctl.runtime.segment.network import EngineNetwork, segmenter_inputs
from fctl.runtime.segment.opening import load_network
from fctl.runtime.segment.sinks.preview import displayable
from fctl.runtime.tiling.contexts import Cells
from fctl.runtime.tiling.sources import Source
from fctl.runtime.tiling.temperature import tempered
from fctl.runtime.tiling.windows import Window

from .lens import Lens, Seen

ALL, NONE = "all contexts", "no context"

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class View:
    """One window that the network sees, and how far it leans on it. Cells are those of the features.

    Attributes:
        name: "local" for the patch itself, or the name of the context.
        window: Where it lies in the raster, in pixels of the size in which the network works.
        pixels: The window as the network gets it, (S, S, 3) uint8.
        attention: Where the chosen cell of the patch looks, (S, S) float32 spread over the pixels; the cells' own
            values sum to 1. None where the patch does not attend to itself.
        weight: The weight of the member at the chosen cell; None likewise.
        weights: The weights at all cells of the patch, (P, P) float32 spread over its pixels; None likewise.
        likeness: The share of likeness against position in the attention; None likewise.
    """

    name: str
    window: Window
    pixels: NDArray[np.uint8]
    attention: Array | None = None
    weight: float | None = None
    weights: Array | None = None
    likeness: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Verdict:
    """What the network says of the pixel, when some contexts are black.

    Attributes:
        shown: Which contexts it sees, in words.
        probabilities: Of the classes, float32.
    """

    shown: str
    probabilities: Array

    @property
    def best(self) -> int:
        """The class that it says."""
        return int(self.probabilities.argmax())


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What decides on one pixel.

    Attributes:
        at: Column and row of the pixel in the raster.
        pixel: Its row and column in the patch.
        classes: The classes, by id.
        views: The patch, then its contexts.
        verdicts: With all contexts, without each of them, and with none.
    """

    at: tuple[int, int]
    pixel: tuple[int, int]
    classes: tuple[ClassInfo, ...]
    views: tuple[View, ...]
    verdicts: tuple[Verdict, ...]


def explain(bundle: Bundle, source: Source, at: tuple[int, int], working: Window | None = None) -> Explanation:
    """Explain one pixel of a raster.

    The patch is the tile of a run that has the greatest say in the pixel. Contexts are encoded for it alone, by the
    fp32 graphs in ONNX Runtime.

    Args:
        bundle: The bundle.
        source: The raster, in the size in which the network works.
        at: Column and row of the pixel in the raster.
        working: The pixel in that size; None where it is the raster's own.

    Returns:
        What decides on it.

    Raises:
        InputError: The network has no LCF, or the pixel has no data.
        RasterError: The raster cannot be read.
        EngineError: ONNX Runtime is missing, or fails.
    """
    manifest, place = bundle.manifest, working or Window(at[1], at[0], 1, 1)
    valid = source.valid(Window(place.y, place.x, 1, 1))
    if valid is not None and not valid.any():
        raise InputError(subject="`at`", expected="a pixel with data", found=f"none at {at[0]},{at[1]}")
    path, _ = bundle.graph(SEGMENTER, "fp32")
    with closing(load_network(bundle, choose_engine("onnxruntime", "fp32"), 1)) as network:
        lens = Lens(path)
        tile = _tile_of(manifest, source, place)
        batch = cut_batch(manifest, source, (tile,), 1)
        contexts = [context.name for context in manifest.contexts]
        hidden = dict[str, list[str]]({ALL: []}) | (
            {f"without {name}": [name] for name in contexts} if len(contexts) > 1 else {}
        )
        hidden |= {NONE: contexts} if contexts else {}
        seen = {shown: _look(lens, network, batch, names) for shown, names in hidden.items()}
    pixel = place.y - tile.y, place.x - tile.x
    return Explanation(
        at=at,
        pixel=pixel,
        classes=manifest.classes,
        views=_views(manifest, source, batch, seen[ALL], pixel),
        verdicts=tuple(
            Verdict(shown=shown, probabilities=_probabilities(manifest, one.scores[:, pixel[0], pixel[1]]))
            for shown, one in seen.items()
        ),
    )


def _tile_of(manifest: Manifest, source: Source, place: Window) -> Window:
    """The tile of a run whose centre is nearest to a pixel: it weighs most where tiles are merged."""
    grid, half = grid_of(manifest, source.height, source.width), manifest.tile / 2
    y = min(grid.rows, key=lambda start: abs(start + half - place.y))
    x = min(grid.columns, key=lambda start: abs(start + half - place.x))
    return Window(y, x, manifest.tile, manifest.tile)


def _look(lens: Lens, network: EngineNetwork, batch: PatchBatch, hidden: list[str]) -> Seen:
    """Segment a patch while some of its contexts are black."""
    features = BlackoutNetwork(network, hidden).encode_contexts(batch)
    return lens.look(segmenter_inputs(network.manifest, batch.patch, features, batch.positions))


def _probabilities(manifest: Manifest, scores: Array) -> Array:
    """Probabilities (classes,) of the scores (classes,) of a pixel."""
    if manifest.scores == "logits":
        powers = np.exp(scores - scores.max())
        scores = (powers / powers.sum()).astype(np.float32)
    found: Array = tempered(scores[:, None, None], manifest.temperature)[:, 0, 0]
    return found


def _views(
    manifest: Manifest, source: Source, batch: PatchBatch, seen: Seen, pixel: tuple[int, int]
) -> tuple[View, ...]:
    """The patch and its contexts, with what a cell of the patch makes of them."""
    tile, cells = batch.tiles[0], _cells_of(manifest, seen)
    row, column = (_nearest(cells, place) for place in pixel)
    pixels = {LOCAL: batch.patch} | {context.name: batch.pixels_of(context.name) for context in manifest.contexts}
    windows = {LOCAL: tile} | {one.name: one.window.around(tile, source) for one in manifest.contexts}
    views = []
    for name, window in windows.items():
        image = displayable(np.asarray(pixels[name])[0].transpose(1, 2, 0))
        if name not in seen.attention:
            views.append(View(name=name, window=window, pixels=image))
            continue
        attention, weights = seen.attention[name], seen.weights[name]
        looked = attention.total[row * cells.count + column]
        views.append(
            View(
                name=name,
                window=window,
                pixels=image,
                attention=_spread(looked.reshape(math.isqrt(looked.size), -1), cells, len(image)),
                weight=float(weights[row, column]),
                weights=_spread(weights, cells, manifest.tile),
                likeness=attention.share,
            )
        )
    return tuple(views)


def _cells_of(manifest: Manifest, seen: Seen) -> Cells:
    """Where the patch's cells lie in it. The cells of its contexts lie alike in their windows, but for their number."""
    count = math.isqrt(len(next(iter(seen.attention.values())).likeness))
    known = [context.cells.patch for context in manifest.contexts if context.cells]
    known += [context.sharing.cells for context in manifest.contexts if context.sharing]
    if known:
        return replace(known[0], count=count)
    stride = round(manifest.tile / count)  # spread evenly, where the bundle does not say
    return Cells(stride=stride, offset=(stride - 1) / 2, count=count)


def _nearest(cells: Cells, place: int) -> int:
    """The cell whose centre is nearest to a pixel, along one axis."""
    return min(max(round((place - cells.offset) / cells.stride), 0), cells.count - 1)


def _spread(values: Array, cells: Cells, side: int) -> Array:
    """Values (H, W) of cells as values (side, side) of pixels: linear between the centres of cells."""
    rows, columns = (_between(count, cells, side) for count in values.shape)
    spread: Array = np.linalg.multi_dot([rows, values, columns.T])
    return spread


def _between(count: int, cells: Cells, side: int) -> Array:
    """How much of each cell goes into each pixel along one axis, (side, count) float32."""
    places = ((np.arange(side) - cells.offset) / cells.stride).clip(0, count - 1)
    shares: Array = np.maximum(0, 1 - abs(np.arange(count) - places[:, None])).astype(np.float32)
    return shares
