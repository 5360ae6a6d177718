"""A bundle's graphs in an engine that takes host arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..bundle.manifest import SEGMENTER, Context, GraphSpec
from ..bundle.store import Bundle
from ..engines.base import HostEngine, Session
from ..tiling.lattice import Place
from ..tiling.turns import Windows
from .batches import Positions, on_host
from .network import Cut, EngineNetwork, Features, gathering_inputs, parts_of, segmenter_inputs
from .passes import Maps


class HostNetwork(EngineNetwork):
    """A network whose features and scores are host arrays.

    Raises:
        EngineError: The engine refuses a graph.
    """

    def __init__(self, bundle: Bundle, engine: HostEngine, batch: int, *, once: bool = False) -> None:
        super().__init__(bundle, engine, batch, once=once)
        self._host, self.in_any_thread = engine, not engine.interruptible
        self._sessions: dict[tuple[str, int], Session] = {}
        self._session(SEGMENTER, self.batch)
        for context in self.manifest.contexts:
            if context.name in self.lattices:
                self._shared_session(context)
            elif context.encoder:
                self._session(context.encoder, self.batch_of(context))
            if context.gathering:
                self._session(context.gathering.encoder, self.batch)

    def encode(self, context: Context, windows: Windows) -> Features:
        """Features (N, C, H, W) of raw windows (N, bands, S, S)."""
        return self.encode_gathered(context, windows, {}) if context.encoder else on_host(windows)

    def join(self, context: Context, features: Sequence[Features]) -> Features:
        """Features (1, C, H, W), one for each patch, as features (N, C, H, W)."""
        maps = zip(*(parts_of(context, part) for part in features), strict=True)
        return _features(context, [np.concatenate([_array(part) for part in one]) for one in maps])

    def maps_of_patches(
        self, context: Context, patch: Windows, features: Mapping[str, Features], positions: Mapping[str, Positions]
    ) -> Maps:
        """Maps (N, C, h, w) of raw patches (N, bands, P, P), by name."""
        assert context.gathering is not None
        inputs = gathering_inputs(self.manifest, context, patch, features, positions)
        arrays = {name: _array(value) for name, value in inputs.items()}
        made = self._session(context.gathering.encoder, self.batch).run(arrays)
        return {one.name: made[f"features_{one.name}"] for one in context.gathering.maps}

    def encode_gathered(self, context: Context, window: Windows, gathered: Maps) -> Features:
        """Features (N, C, H, W) of raw windows (N, bands, S, S), with maps of the patches in them."""
        assert context.encoder is not None
        inputs = {"window": on_host(window)} | {f"gathered_{name}": one for name, one in gathered.items()}
        made = self._session(context.encoder, self.batch_of(context)).run(inputs)
        return _features(context, [made[name] for name in context.outputs])

    def encode_once(self, context: Context, window: Windows) -> NDArray[np.generic]:
        """Features (1, C, H, W) of a raw window (1, bands, S, S) of the context's lattice."""
        return self._shared_session(context).run({"window": on_host(window)})["features"]

    def gather(self, context: Context, cuts: Sequence[Cut]) -> NDArray[np.generic]:
        """Features (N, C, H, W) of a context, from the cells that each patch needs."""
        return np.concatenate([gathered(cut) for cut in cuts])

    def segment(
        self, patch: Windows, features: Mapping[str, Features], positions: Mapping[str, Positions]
    ) -> NDArray[np.generic]:
        """Scores (N, classes, P, P) float32 of raw patches (N, bands, P, P)."""
        inputs = segmenter_inputs(self.manifest, patch, features, positions)
        arrays = {name: _array(value) for name, value in inputs.items()}
        return self._session(SEGMENTER, self.batch).run(arrays)[self.manifest.scores]

    def _session(self, role: str, batch: int) -> Session:
        return self._opened(*self.bundle.graph(role, self.precision), batch)

    def _shared_session(self, context: Context) -> Session:
        return self._opened(*self.bundle.shared_graph(context, self.precision), 1)

    def _opened(self, path: Path, graph: GraphSpec, batch: int) -> Session:
        if (graph.role, batch) not in self._sessions:
            self._sessions[graph.role, batch] = self._host.session(path, graph, batch)
        return self._sessions[graph.role, batch]


def _features(context: Context, maps: Sequence[NDArray[np.generic]]) -> Features:
    """The maps of a context as its features; one alone where it has no several."""
    return tuple(maps) if context.maps else maps[0]


def _array(value: object) -> NDArray[np.generic]:
    assert isinstance(value, np.ndarray)
    return value


def gathered(cut: Cut) -> NDArray[np.generic]:
    """The cells that one patch needs of a context which is encoded once a raster.

    Args:
        cut: Where they lie.

    Returns:
        Features (1, C, H, W), interpolated between cells in their own dtype.
    """
    strips = [
        np.concatenate([_array(window)[:, :, row.cells, column.cells] for window, row, column in parts], axis=3)
        for parts in cut.parts
    ]
    cells = np.concatenate(strips, axis=2)
    return _between(_between(cells, cut.rows, 2), cut.columns, 3)


def _between(cells: NDArray[np.generic], place: Place, axis: int) -> NDArray[np.generic]:
    """Interpolate along an axis, which one cell shortens it by, where the patch's cells lie between those at hand."""
    if not place.beyond:
        return cells
    near = np.take(cells, range(cells.shape[axis] - 1), axis)
    far = np.take(cells, range(1, cells.shape[axis]), axis)
    share = cells.dtype.type(float(place.beyond))
    between: NDArray[np.generic] = near + (far - near) * share
    return between
