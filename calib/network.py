"""A network over sessions of ONNX Runtime: graphs that are on their way into a bundle, or watched as they run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fctl.runtime.bundle.manifest import SEGMENTER, Context, Manifest
from fctl.runtime.segment.batches import PatchBatch, Positions, joined, on_host
from fctl.runtime.segment.network import Features, Network, Scores, gathering_inputs, segmenter_inputs
from fctl.runtime.segment.passes import Maps
from fctl.runtime.tiling.turns import Windows

from .onnx_session import InferenceSession

Array = NDArray[np.generic]


class Runs(Protocol):
    """A graph that can be run."""

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Outputs by name, from arrays by the names of the inputs."""
        ...


@dataclass(frozen=True)
class LoadedGraph:
    """A graph in ONNX Runtime.

    Attributes:
        session: The session.
    """

    session: InferenceSession

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """All outputs by name, from arrays by the names of the inputs."""
        names = [value.name for value in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, dict(inputs)), strict=True))


class GraphNetwork(Network):
    """Graphs of one bundle, run on one patch at a time, or on as many as the bundle's fixed batch.

    Args:
        manifest: The bundle's manifest.
        graphs: The graphs, by role.
    """

    def __init__(self, manifest: Manifest, graphs: Mapping[str, Runs]) -> None:
        super().__init__(manifest, manifest.fixed_batch or 1)
        self._graphs = graphs

    def encode(self, context: Context, windows: Windows) -> Features:
        """Features (N, C, H, W) of raw windows (N, bands, S, S)."""
        return self.encode_gathered(context, windows, {}) if context.encoder else on_host(windows)

    def maps_of_patches(
        self, context: Context, patch: Windows, features: Mapping[str, Features], positions: Mapping[str, Positions]
    ) -> Maps:
        """Maps (N, C, h, w) of raw patches (N, bands, P, P), by name."""
        assert context.gathering is not None
        inputs = gathering_inputs(self.manifest, context, patch, features, positions)
        made = self._graphs[context.gathering.encoder].run({name: np.asarray(one) for name, one in inputs.items()})
        return {one.name: made[f"features_{one.name}"] for one in context.gathering.maps}

    def encode_gathered(self, context: Context, window: Windows, gathered: Maps) -> Features:
        """Features (N, C, H, W) of raw windows (N, bands, S, S), with maps of the patches in them."""
        assert context.encoder is not None
        inputs = {"window": on_host(window)} | {f"gathered_{name}": one for name, one in gathered.items()}
        made = self._graphs[context.encoder].run(inputs)
        maps = tuple(made[name] for name in context.outputs)
        return maps if context.maps else maps[0]

    def join(self, context: Context, features: Sequence[Features]) -> Features:
        """The features of the one patch, or its window as often as a bundle whose batch is fixed asks for."""
        return features[0] if len(features) == 1 else np.concatenate([np.asarray(one) for one in features])

    def segment(self, patch: Windows, features: Mapping[str, Features], positions: Mapping[str, Positions]) -> Scores:
        """Scores (N, classes, P, P) of raw patches (N, bands, P, P)."""
        inputs = segmenter_inputs(self.manifest, patch, features, positions)
        arrays = {name: np.asarray(value) for name, value in inputs.items()}
        return self._graphs[SEGMENTER].run(arrays)[self.manifest.scores]

    def filled(self, batch: PatchBatch) -> PatchBatch:
        """A batch of one patch, repeated as often as a bundle whose batch is fixed asks for."""
        return joined([batch], self.batch)
