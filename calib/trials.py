"""A bundle's graphs with some layers in int8, on patches: how many pixels keep their class.

ONNX Runtime rounds where Q/DQ says so and computes convolutions in fp32 in between: what is seen here is what int8
makes of weights and activations, in any engine.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from fctl.runtime.bundle.manifest import SEGMENTER
from fctl.runtime.bundle.store import Bundle
from fctl.runtime.segment.batches import PatchBatch
from fctl.runtime.tiling.merge import Strip

from .macs import macs
from .onnx_session import InferenceSession, load_session
from .plain import plain
from .quantise import Layer, layers, quantised
from .watch import filled, segmenter_inputs

Arrays = Mapping[str, NDArray[Any]]
Names = Mapping[str, Collection[str]]  # layers, by the role of their graph
Ids = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """What int8 layers need, by the role of a graph.

    amax: range of each activation, by tensor. biases: what is added to biases (channels,), by layer.
    """

    amax: Mapping[str, Mapping[str, float]]
    biases: Mapping[str, Arrays]


@dataclass(frozen=True, kw_only=True)
class Fp32Graphs:
    """A bundle's fp32 graphs by role, made `plain`: their layers that may be int8, and the work of all products."""

    bundle: Bundle
    models: Mapping[str, onnx.ModelProto]
    layers: Mapping[str, tuple[Layer, ...]]
    macs: Mapping[str, Mapping[str, int]]

    @classmethod
    def of(cls, bundle: Bundle) -> Fp32Graphs:
        """Raises BundleError for a graph that cannot become int8."""
        models = {}
        for graph in bundle.manifest.graphs:
            if graph.precision == "fp32":
                path = bundle.folder / graph.file
                models[graph.role] = plain(onnx.load(path), str(path), "int8")
        return cls(
            bundle=bundle,
            models=models,
            layers={role: layers(model) for role, model in models.items()},
            macs={role: macs(model) for role, model in models.items()},
        )

    @property
    def names(self) -> dict[str, frozenset[str]]:
        """All layers that may be int8."""
        return {role: frozenset(layer.name for layer in found) for role, found in self.layers.items()}

    def work(self, chosen: Names) -> int:
        """Multiply-accumulates of some layers for one patch; an encoder's count for each context that it encodes."""
        return sum(self._times(role) * self.macs[role][name] for role, names in chosen.items() for name in names)

    def share(self, chosen: Names) -> float:
        """Share of all multiply-accumulates that is in some layers."""
        return self.work(chosen) / max(1, self.work(self.macs))

    def int8(self, role: str, chosen: Collection[str], numbers: Numbers) -> onnx.ModelProto:
        """One graph with layers in int8."""
        biases = {name: bias for name, bias in numbers.biases.get(role, {}).items() if name in chosen}
        return quantised(self.models[role], chosen, numbers.amax[role], biases)

    def _times(self, role: str) -> int:
        return max(1, sum(context.encoder == role for context in self.bundle.manifest.contexts))


@dataclass(frozen=True, kw_only=True)
class Changed:
    """What int8 makes of a patch: its number, raw pixels (bands, P, P), and class ids (P, P) in fp32 and in int8."""

    number: int
    pixels: NDArray[Any]
    fp32: Ids
    int8: Ids

    @property
    def kept(self) -> int:
        """Pixels that keep their class."""
        return int(np.count_nonzero(self.fp32 == self.int8))


class Trials:
    """Patches, what fp32 makes of them, and what is left of that in int8. Patches and features are kept in memory."""

    def __init__(self, graphs: Fp32Graphs, batches: Iterable[PatchBatch]) -> None:
        self.graphs, self._manifest = graphs, graphs.bundle.manifest
        self._fp32 = {role: load_session(model) for role, model in graphs.models.items()}
        self._batches = [filled(batch, self._manifest.fixed_batch) for batch in batches]
        self._features = [self._encode(batch, {}, {}) for batch in self._batches]
        self._ids = [
            self._segment(batch, features, self._fp32[SEGMENTER])
            for batch, features in zip(self._batches, self._features, strict=True)
        ]

    def __len__(self) -> int:
        return len(self._batches)

    def agreement(self, chosen: Names, numbers: Numbers, patches: int | None = None) -> float:
        """Share of the pixels that keep their class where layers are int8, of all patches or so many, evenly spaced."""
        kept, pixels = 0, 0
        for one in self._changed(chosen, numbers, min(patches or len(self), len(self))):
            kept, pixels = kept + one.kept, pixels + one.fp32.size
        return kept / pixels

    def worst(self, chosen: Names, numbers: Numbers) -> Changed:
        """The patch of which most pixels change."""
        return min(self._changed(chosen, numbers, len(self)), key=lambda one: one.kept)

    def _changed(self, chosen: Names, numbers: Numbers, count: int) -> Iterator[Changed]:
        int8 = {role: load_session(self.graphs.int8(role, names, numbers)) for role, names in chosen.items() if names}
        segmenter = int8.get(SEGMENTER, self._fp32[SEGMENTER])
        for number in (index * len(self) // count for index in range(count)):
            batch = self._batches[number]
            found = self._segment(batch, self._encode(batch, int8, self._features[number]), segmenter)
            yield Changed(number=number, pixels=batch.patch[0], fp32=self._ids[number], int8=found)

    def _encode(self, batch: PatchBatch, int8: Mapping[str, InferenceSession], known: Arrays) -> Arrays:
        """Features of all contexts by name, computed anew where their encoder is int8 or they are not known."""
        found = {}
        for context in self._manifest.contexts:
            window, role = batch.contexts[context.name], context.encoder
            if role is None:
                found[context.name] = window
            elif role in int8 or context.name not in known:
                session = int8.get(role, self._fp32[role])
                found[context.name] = session.run(["features"], {"window": window})[0]
            else:
                found[context.name] = known[context.name]
        return found

    def _segment(self, batch: PatchBatch, features: Arrays, session: InferenceSession) -> Ids:
        scores = session.run([self._manifest.scores], segmenter_inputs(self._manifest, batch, features))[0][0]
        return Strip(0, scores, self._manifest.scores).ids()
