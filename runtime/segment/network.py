"""The one way to run a network: encode the contexts, then segment the patches (§3.1).

A network keeps features and scores wherever its engine works: on the host (`host`), on a GPU (`gpu.network`), or in
PyTorch (`fctl.model.serving`). An accumulator averages and merges them there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..bundle.manifest import Context, Manifest
from ..bundle.store import Bundle
from ..engines.base import Engine, graphs_for
from ..stopwatch import STOPPED, Stopwatch
from ..tiling.lattice import Lattice, Piece, Place
from ..tiling.merge import FinishedRows, Merger
from ..tiling.turns import UPRIGHT, Turn, Windows
from ..tiling.windows import Region, Window
from .batches import LatticeWindows, PatchBatch, Positions, SharedWindow, turned
from .passes import Maps, gathered_maps

Features: TypeAlias = object
"""Features (N, C, H, W) of a context, or a tuple of such where it has several maps.

They lie where their network works, and only that network looks inside.
"""

_Item = TypeVar("_Item")

Scores: TypeAlias = object
"""Scores (N, classes, P, P) of patches, which likewise belong to their network; `Network.on_host` makes an array."""


class FeatureKey(NamedTuple):
    """What features of a shared context belong to; it does not keep the window's pixels.

    Attributes:
        context: The context's name.
        window: The window, in pixels of its raster.
        serial: The window's number among those of all rasters.
        turn: How it was turned.
    """

    context: str
    window: Window
    serial: int
    turn: Turn


FeatureCache = dict[FeatureKey, Features]
"""Features (1, C, H, W) of shared contexts."""


class Cut(NamedTuple):
    """Where the cells lie that one patch needs of a context which is encoded once a raster.

    Attributes:
        rows: Which rows of which windows.
        columns: Which columns of which windows.
        windows: Features (1, C, H, W) of these windows, by piece of `rows` and piece of `columns`.
    """

    rows: Place
    columns: Place
    windows: tuple[tuple[Features, ...], ...]

    @property
    def parts(self) -> list[list[tuple[Features, Piece, Piece]]]:
        """By piece of `rows` and piece of `columns`: a window, and which rows and columns of its cells are taken."""
        return [
            [(window, row, column) for column, window in zip(self.columns.pieces, windows, strict=True)]
            for row, windows in zip(self.rows.pieces, self.windows, strict=True)
        ]


class Accumulator(Protocol):
    """Averages the scores of tiles over turns, merges overlapping tiles, and hands out what is finished."""

    @property
    def at_once(self) -> bool:
        """Whether finished pixels are ready when they are handed out; else the next batch should be under way first."""
        ...

    def add(self, tiles: Sequence[Window], infer: Callable[[Turn], Scores]) -> Iterator[FinishedRows]:
        """Add a batch.

        Args:
            tiles: The tiles, in reading order.
            infer: Gives the batch's scores in one turn, valid until it is called again.

        Yields:
            What lies above the tiles, which is finished.
        """
        ...

    def flush(self) -> Iterator[FinishedRows]:
        """What is left after the last tile."""
        ...


class Network(ABC):
    """A network that is loaded for batches of a fixed size.

    Args:
        manifest: How its windows are cut, and what its classes are.
        batch: How many patches it takes at once.
        lattices: By name, the windows of contexts that it encodes once a raster instead of once for each patch.

    Attributes:
        in_any_thread: Whether it may run in another thread than the one that loaded it, and its scores stay valid.
    """

    in_any_thread = False

    def __init__(self, manifest: Manifest, batch: int, lattices: Mapping[str, Lattice] | None = None) -> None:
        self.manifest, self.batch, self.lattices = manifest, batch, lattices or {}
        self.warned: set[str] = set()  # what was said already of the rasters that were run
        self._black: dict[str, Features] = {}  # of black windows, which many rasters have, and which no turn changes

    @abstractmethod
    def encode(self, context: Context, windows: Windows) -> Features:
        """Features of raw context windows.

        Args:
            context: The context.
            windows: Windows (N, bands, S, S), where N is `batch_of` the context.

        Returns:
            Features (N, C, H, W), or the windows themselves where the segmenter takes those.
        """

    @abstractmethod
    def join(self, context: Context, features: Sequence[Features]) -> Features:
        """Features (1, C, H, W) of a shared context, one for each patch, as features (N, C, H, W)."""

    def encode_once(self, context: Context, window: Windows) -> Features:
        """Features (1, C, H, W) of a raw window (1, bands, S, S) of the context's lattice; they outlive the batch.

        This and `gather` are asked only of networks that have `lattices`.
        """
        raise NotImplementedError(f"{type(self).__name__} encodes each context once a patch")

    def gather(self, context: Context, cuts: Sequence[Cut]) -> Features:
        """Features (N, C, H, W) of a context, from the cells that each patch needs.

        Between two cells they are interpolated linearly, along rows and then along columns.

        Args:
            context: The context.
            cuts: Where they lie, one for each patch.

        Returns:
            The features.
        """
        raise NotImplementedError(f"{type(self).__name__} encodes each context once a patch")

    def maps_of_patches(
        self, context: Context, patch: Windows, features: Mapping[str, Features], positions: Mapping[str, Positions]
    ) -> Maps:
        """Maps of raw patches, which a context gathers.

        This and `encode_gathered` are asked only for contexts with `gathering`.

        Args:
            context: The context.
            patch: Patches (N, bands, P, P).
            features: Features of the context that patches are encoded with, of `join`.
            positions: Where the patches lie in it, (N, 2, h) float32, if it wants to know.

        Returns:
            Maps (N, C, h, w) on the host, by name.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot encode a window with what patches know")

    def encode_gathered(self, context: Context, window: Windows, gathered: Maps) -> Features:
        """Features (1, C, H, W) of a raw window (1, bands, S, S), with maps (1, C, H, W) of the patches in it."""
        raise NotImplementedError(f"{type(self).__name__} cannot encode a window with what patches know")

    @abstractmethod
    def segment(self, patch: Windows, features: Mapping[str, Features], positions: Mapping[str, Positions]) -> Scores:
        """Scores of raw patches.

        Args:
            patch: Patches (N, bands, P, P).
            features: By context, features of `encode` or `join`.
            positions: By context, where the patches lie in it, (N, 2, h) float32, for graphs that need to know.

        Returns:
            Scores (N, classes, P, P), valid until the next batch.
        """

    def on_host(self, scores: Scores) -> NDArray[np.float32]:
        """Scores as an array (N, classes, P, P) in the host's memory; waits for them."""
        assert isinstance(scores, np.ndarray)
        return scores

    def accumulator(self, region: Region, turns: tuple[Turn, ...], probabilities: bool) -> Accumulator:
        """What averages and merges the tiles of a raster, or of a region of it.

        Args:
            region: The region that is wanted.
            turns: The ways in which each batch is segmented.
            probabilities: Whether they will be asked for probabilities.

        Returns:
            An accumulator where the network works: here, on the host.
        """
        return HostAccumulator(self, region, turns)

    def batch_of(self, context: Context) -> int:
        """How many windows of a context are encoded at once: 1 of a shared one, which serves many patches."""
        return 1 if context.window.shared else self.batch

    def run(
        self,
        batch: PatchBatch,
        turn: Turn = UPRIGHT,
        cache: FeatureCache | None = None,
        stopwatch: Stopwatch = STOPPED,
    ) -> Scores:
        """Encode the contexts of a batch, then segment its patches.

        Args:
            batch: Upright patches with their contexts, as many as the network takes.
            turn: How everything is turned before it goes in; the scores stay turned.
            cache: Features of shared contexts to use again, and to add to; None forgets them.
            stopwatch: What takes the time of encoding and segmenting. On a GPU that is the time to queue them.

        Returns:
            Scores (N, classes, P, P), valid until the next batch.

        Raises:
            EngineError: The engine failed.
        """
        batch = turned(self.manifest, batch, turn)
        features = self.encode_contexts(batch, turn, cache, stopwatch=stopwatch)
        with stopwatch.stage("segment"):
            return self.segment(batch.patch, features, batch.positions)

    def encode_contexts(
        self,
        batch: PatchBatch,
        turn: Turn = UPRIGHT,
        cache: FeatureCache | None = None,
        names: Collection[str] | None = None,
        *,
        stopwatch: Stopwatch = STOPPED,
    ) -> dict[str, Features]:
        """Features of a batch's contexts, by name.

        Args:
            batch: The batch, turned already but for its shared windows.
            turn: How it was turned.
            cache: As in `run`.
            names: The contexts to encode; None for all.
            stopwatch: As in `run`.

        Returns:
            Features (N, C, H, W) by context.
        """
        cache = {} if cache is None else cache
        with stopwatch.stage("gather"):
            return {
                context.name: self._features_of(context, batch, turn, cache, stopwatch)
                for context in self.manifest.contexts
                if names is None or context.name in names
            }

    def _features_of(
        self, context: Context, batch: PatchBatch, turn: Turn, cache: FeatureCache, stopwatch: Stopwatch
    ) -> Features:
        """Features (N, C, H, W) of one context, whose shared windows are encoded unless the cache has them."""

        def of(scene: SharedWindow, encode: Callable[[Context, Windows], Features]) -> Features:
            if scene.black and context.name in self._black:
                return self._black[context.name]
            key = FeatureKey(context.name, scene.window, scene.serial, turn)
            if key not in cache:
                assert scene.pixels is not None, "the batch that first needs a window brings its pixels"
                with stopwatch.stage("encode"):
                    cache[key] = encode(context, turn.windows(scene.pixels))
            if scene.black:
                self._black[context.name] = cache[key]
            return cache[key]

        if context.name in batch.lattices:
            windows = batch.lattices[context.name]
            encoded = {numbers: of(scene, self.encode_once) for numbers, scene in windows.windows.items()}
            return self.gather(context, self._filled([_cut(windows, encoded, tile, turn) for tile in batch.tiles]))
        if context.gathering:
            base = self.manifest.gathered_with(context)
            scenes = zip(batch.shared[base.name], batch.shared[context.name], strict=True)
            found = [
                of(scene, partial(self._encode_again, scene=scene, base=(base, first), turn=turn, cache=cache))
                for first, scene in scenes
            ]
            return self.join(context, self._filled(found))
        if context.window.shared:
            return self.join(context, self._filled([of(scene, self.encode) for scene in batch.shared[context.name]]))
        with stopwatch.stage("encode"):
            return self.encode(context, batch.contexts[context.name])

    def _encode_again(
        self,
        context: Context,
        window: Windows,
        *,
        scene: SharedWindow,
        base: tuple[Context, SharedWindow],
        turn: Turn,
        cache: FeatureCache,
    ) -> Features:
        """Features of a window, from maps of the patches in it. base: The context they are encoded with, its window."""
        first, its = base
        key = FeatureKey(first.name, its.window, its.serial, turn)
        if key not in cache:
            assert its.pixels is not None, "windows of a context that others gather with keep their pixels"
            cache[key] = self.encode(first, turn.windows(its.pixels))
        features = {first.name: self.join(first, [cache[key]] * self.batch)}
        maps = gathered_maps(
            self.manifest, context, scene, turn, self.batch,
            lambda patch, positions: self.maps_of_patches(context, patch, features, positions),
        )  # fmt: skip
        return self.encode_gathered(context, window, maps)

    def _filled(self, items: list[_Item]) -> list[_Item]:
        """One item for each patch of a full batch: the last one again for those that are missing."""
        return items + items[-1:] * (self.batch - len(items))

    def close(self) -> None:  # noqa: B027 - a network without an engine has nothing to release
        """Release the graphs and the engine."""


class EngineNetwork(Network):
    """A bundle's graphs in an inference engine.

    Args:
        bundle: The bundle.
        engine: The engine, which the network closes.
        batch: The batch size asked for; a bundle whose batch is fixed decides itself.
        once: Whether contexts that can be are encoded once a raster.
    """

    def __init__(self, bundle: Bundle, engine: Engine, batch: int, *, once: bool = False) -> None:
        manifest = bundle.manifest
        super().__init__(manifest, manifest.fixed_batch or batch, manifest.lattices if once else None)
        self.bundle, self.engine = bundle, engine
        self.precision = graphs_for(engine.precision)

    def close(self) -> None:
        """Release the graphs and the engine."""
        self.engine.close()


def _cut(windows: LatticeWindows, encoded: Mapping[tuple[int, int], Features], tile: Window, turn: Turn) -> Cut:
    """Where a tile finds its cells, after a turn of the tile and of all windows."""
    starts = (tile.y, tile.x)
    (rows_of, rows_flipped), (columns_of, columns_flipped) = turn.axes
    rows = windows.lattice.place(starts[rows_of], flipped=rows_flipped)
    columns = windows.lattice.place(starts[columns_of], flipped=columns_flipped)

    def number(row: int, column: int) -> tuple[int, int]:
        return (row, column) if rows_of == 0 else (column, row)

    found = tuple(tuple(encoded[number(row.number, column.number)] for column in columns.pieces) for row in rows.pieces)
    return Cut(rows=rows, columns=columns, windows=found)


def segmenter_inputs(
    manifest: Manifest, patch: Windows, features: Mapping[str, Features], positions: Mapping[str, Positions]
) -> dict[str, object]:
    """What a segmenter graph takes, by the names of its inputs; arguments as in `Network.segment`."""
    inputs: dict[str, object] = {"patch": patch} if manifest.sees_patch else {}
    for context in manifest.contexts:
        inputs |= _context_inputs(context, features, positions)
    return inputs


def gathering_inputs(
    manifest: Manifest,
    context: Context,
    patch: Windows,
    features: Mapping[str, Features],
    positions: Mapping[str, Positions],
) -> dict[str, object]:
    """What the graph takes whose maps a context gathers; arguments as in `Network.maps_of_patches`."""
    return {"patch": patch} | _context_inputs(manifest.gathered_with(context), features, positions)


def _context_inputs(
    context: Context, features: Mapping[str, Features], positions: Mapping[str, Positions]
) -> dict[str, object]:
    """What a graph takes of one context."""
    inputs = dict(zip(context.inputs, parts_of(context, features[context.name]), strict=True))
    return inputs | ({context.positions: positions[context.name]} if context.cells else {})


def parts_of(context: Context, features: Features) -> tuple[object, ...]:
    """The features of each map of a context; those of a context without several are the only ones."""
    if not context.maps:
        return (features,)
    assert isinstance(features, tuple), "a context of several maps"
    return features


class HostAccumulator:
    """Averages and merges in the host's memory, the scores of any network; it can count how far tiles agree."""

    at_once = True

    def __init__(self, network: Network, region: Region, turns: tuple[Turn, ...], *, votes: bool = False) -> None:
        manifest = network.manifest
        self._on_host, self._turns = network.on_host, turns
        self._merger = Merger(region, len(manifest.classes), manifest.merge, manifest.scores, votes=votes)

    def add(self, tiles: Sequence[Window], infer: Callable[[Turn], Scores]) -> Iterator[FinishedRows]:
        """Add a batch; yields what lies above its tiles."""
        return self.merge(tiles, self.averaged(infer))

    def flush(self) -> Iterator[FinishedRows]:
        """What is left after the last tile."""
        return self._merger.flush()

    def merge(self, tiles: Sequence[Window], scores: NDArray[np.float32]) -> Iterator[FinishedRows]:
        """Add what `averaged` gives for some tiles; yields what lies above them."""
        return self._merger.add(tiles, scores)

    def averaged(self, infer: Callable[[Turn], Scores]) -> NDArray[np.float32]:
        """Scores (N, classes, P, P) of a batch in each turn, turned back and averaged."""
        first, *others = self._turns
        total = first.back(self._on_host(infer(first)))
        for turn in others:
            total = total + turn.back(self._on_host(infer(turn)))
        return total / np.float32(len(self._turns)) if others else total
