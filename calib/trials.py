"""Trials of a bundle's graphs with some layers in int8: how many pixels of patches keep their class.

ONNX Runtime rounds where Q/DQ pairs stand, and computes convolutions in fp32 between them. So trials show what int8
makes of weights and activations in any engine.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from fctl.runtime.bundle.store import Bundle
from fctl.runtime.evaluate.metrics import Confusion
from fctl.runtime.segment.batches import PatchBatch
from fctl.runtime.segment.network import Features
from fctl.runtime.tiling.merge import Strip

from .classes import confusion_of
from .layers import Layer, layers
from .macs import macs
from .network import GraphNetwork, LoadedGraph
from .onnx_session import InferenceSession, load_session
from .plain import plain
from .quantise import quantised
from .sample import shown

Biases = Mapping[str, NDArray[np.float32]]
"""What is added to the bias of a layer, (channels,), by layer."""

Names = Mapping[str, Collection[str]]
"""Names of layers, by the role of their graph."""

Ids = NDArray[np.uint8]
"""Class ids (P, P) of a patch."""


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """What int8 layers need, by the role of their graph.

    Attributes:
        amax: The range of each activation, by tensor.
        biases: What is added to biases.
    """

    amax: Mapping[str, Mapping[str, float]]
    biases: Mapping[str, Biases]


@dataclass(frozen=True, kw_only=True)
class Fp32Graphs:
    """A bundle's fp32 graphs.

    Attributes:
        bundle: The bundle.
        models: The graphs by role, made `plain`.
        layers: Their layers that may be int8, by role.
        macs: Multiply-accumulates of all products, by role and node.
    """

    bundle: Bundle
    models: Mapping[str, onnx.ModelProto]
    layers: Mapping[str, tuple[Layer, ...]]
    macs: Mapping[str, Mapping[str, int]]

    @classmethod
    def of(cls, bundle: Bundle) -> Fp32Graphs:
        """Read the graphs.

        Args:
            bundle: The bundle.

        Returns:
            Its graphs.

        Raises:
            BundleError: A graph cannot become int8.
        """
        models = {}
        for graph in bundle.manifest.graphs:
            if graph.precision == "fp32" and graph.role not in bundle.manifest.shared_roles:
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
        """The names of all layers that may be int8, by role."""
        return {role: frozenset(layer.name for layer in found) for role, found in self.layers.items()}

    def work(self, chosen: Names) -> int:
        """Multiply-accumulates of some layers for one patch; those of an encoder count for each of its contexts."""
        return sum(self._times(role) * self.macs[role][name] for role, names in chosen.items() for name in names)

    def share(self, chosen: Names) -> float:
        """The share of all multiply-accumulates that some layers have, from 0 to 1."""
        return self.work(chosen) / max(1, self.work(self.macs))

    def int8(self, role: str, chosen: Collection[str], numbers: Numbers) -> onnx.ModelProto:
        """Make a graph with some layers in int8.

        Args:
            role: The role of the graph.
            chosen: Names of the layers.
            numbers: Their ranges and biases.

        Returns:
            The graph.
        """
        biases = {name: bias for name, bias in numbers.biases.get(role, {}).items() if name in chosen}
        return quantised(self.models[role], chosen, numbers.amax[role], biases)

    def _times(self, role: str) -> int:
        """How often a graph runs for one patch."""
        return max(1, sum(context.encoder == role for context in self.bundle.manifest.contexts))


@dataclass(frozen=True, kw_only=True)
class Changed:
    """What int8 makes of a patch.

    Attributes:
        number: The number of the patch.
        pixels: Its raw pixels (bands, P, P).
        fp32: Its class ids (P, P) in fp32.
        int8: Its class ids (P, P) in int8.
    """

    number: int
    pixels: NDArray[np.generic]
    fp32: Ids
    int8: Ids

    @property
    def kept(self) -> int:
        """How many pixels keep their class."""
        return int(np.count_nonzero(self.fp32 == self.int8))


class Trials:
    """Patches that graphs with int8 layers are tried on. Patches and their features in fp32 are kept in memory.

    Args:
        graphs: The graphs in fp32.
        batches: Batches of one patch.
    """

    def __init__(self, graphs: Fp32Graphs, batches: Iterable[PatchBatch]) -> None:
        self.graphs, self._manifest = graphs, graphs.bundle.manifest
        self._fp32 = {role: load_session(model) for role, model in graphs.models.items()}
        network = self._network({})
        self._batches = [network.filled(batch) for batch in batches]
        self._features = [network.encode_contexts(batch) for batch in self._batches]
        self._ids = [
            self._segment(network, batch, features)
            for batch, features in zip(self._batches, self._features, strict=True)
        ]

    def __len__(self) -> int:
        return len(self._batches)

    def agreement(self, chosen: Names, numbers: Numbers, patches: int | None = None) -> float:
        """The share of pixels that keep their class where some layers are int8.

        Args:
            chosen: The layers that are int8.
            numbers: Their ranges and biases.
            patches: How many patches to look at, evenly spaced; None for all.

        Returns:
            A share from 0 to 1.
        """
        return self.confusion(chosen, numbers, patches).accuracy()

    def confusion(self, chosen: Names, numbers: Numbers, patches: int | None = None) -> Confusion:
        """Count which class of fp32 becomes which where some layers are int8.

        Args:
            chosen: The layers that are int8.
            numbers: Their ranges and biases.
            patches: How many patches to look at, evenly spaced; None for all.

        Returns:
            Counts (classes + 1, classes + 1), fp32 by row, as `classes.confusion_of` has them.
        """
        classes = len(self._manifest.classes)
        total = Confusion.empty(classes + 1)
        for one in self._changed(chosen, numbers, min(patches or len(self), len(self))):
            total += confusion_of(one.fp32, one.int8, classes)
        return total

    def worst(self, chosen: Names, numbers: Numbers) -> Changed:
        """The patch in which most pixels change their class.

        Args:
            chosen: The layers that are int8.
            numbers: Their ranges and biases.

        Returns:
            What int8 makes of that patch.
        """
        return min(self._changed(chosen, numbers, len(self)), key=lambda one: one.kept)

    def _changed(self, chosen: Names, numbers: Numbers, count: int) -> Iterator[Changed]:
        """What int8 makes of some patches, evenly spaced."""
        int8 = {role: load_session(self.graphs.int8(role, names, numbers)) for role, names in chosen.items() if names}
        network = self._network(int8)
        encoded = self._encoded_by(int8)
        for number in (index * len(self) // count for index in range(count)):
            batch = self._batches[number]
            features = self._features[number] | network.encode_contexts(batch, names=encoded)
            found = self._segment(network, batch, features)
            pixels = shown(self._manifest, batch)
            yield Changed(number=number, pixels=pixels, fp32=self._ids[number], int8=found)

    def _encoded_by(self, roles: Collection[str]) -> list[str]:
        """The contexts whose features some graphs compute, or what these gather."""
        names = list[str]()
        for context in self._manifest.contexts:
            gathering = context.gathering
            if context.encoder in roles or (gathering and {gathering.encoder, gathering.context} & {*roles, *names}):
                names.append(context.name)
        return names

    def _network(self, int8: Mapping[str, InferenceSession]) -> GraphNetwork:
        """The graphs in fp32, with some of them replaced."""
        return GraphNetwork(self._manifest, {role: LoadedGraph(one) for role, one in {**self._fp32, **int8}.items()})

    def _segment(self, network: GraphNetwork, batch: PatchBatch, features: Mapping[str, Features]) -> Ids:
        """Class ids of a patch."""
        scores = network.on_host(network.segment(batch.patch, features, batch.positions))[0]
        return Strip(0, 0, scores, self._manifest.scores).ids()
