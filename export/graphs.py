"""The network as modules to trace: one encoder per context and the segmenter (staged), or all in one (fused).

`frozen` makes the copy that is traced. In it, batch norm is folded into the convolutions, and everything that depends
only on geometry and learned constants (crop matrices, position matrices, gates) is a constant.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fctl.model.config import NetworkConfig
from fctl.model.decoder import SegFormerDecoder
from fctl.model.geometry import apply_separable, crop_matrix
from fctl.model.interface import ContextNetwork, SharingNetwork
from fctl.model.layers import ConvBn
from fctl.model.lcf import ContextAttention, LocalityAwareContextFusion, Offsets, PositionTerm
from fctl.model.network import FCtL, Placement


class EncoderGraph(nn.Module):
    """The encoder of one context: from its raw window to its features.

    Args:
        network: A frozen network.
        name: The name of the context.
    """

    def __init__(self, network: ContextNetwork, name: str) -> None:
        super().__init__()
        self.network, self.name = network, name

    def forward(self, window: Tensor) -> Tensor:
        """Encode raw windows (N, bands, S, S).

        Args:
            window: The windows, of the dtype of the rasters.

        Returns:
            Features (N, C, H, W) float32.
        """
        return self.network.encode(self.name, window)


class OnceGraph(EncoderGraph):
    """The encoder of one context, for windows of its raster in which it is encoded once for many patches."""

    def forward(self, window: Tensor) -> Tensor:
        """Encode raw windows (N, bands, S, S), of which the outer cells will be dropped, as `EncoderGraph.forward`."""
        return self.network.encode_once(self.name, window)


class MapsGraph(nn.Module):
    """The encoder of one context that hands over several maps, or gathers those of patches.

    Args:
        network: A frozen network.
        name: The name of the context.
        gathered: Names of the maps that it gathers.
    """

    def __init__(self, network: SharingNetwork, name: str, gathered: Sequence[str]) -> None:
        super().__init__()
        self.network, self.name, self.gathered = network, name, gathered

    def forward(self, window: Tensor, *gathered: Tensor) -> tuple[Tensor, ...]:
        """Encode raw windows.

        Args:
            window: The windows (N, bands, S, S), of the dtype of the rasters.
            *gathered: Maps (N, C, H, W) of the patches in them, in the order of their names.

        Returns:
            Maps (N, C, H, W) float32, or the features alone.
        """
        return self.network.encode_maps(self.name, window, dict(zip(self.gathered, gathered, strict=True)))


class PatchesGraph(nn.Module):
    """What a context gathers of patches.

    Args:
        network: A frozen network.
        name: The context that patches are encoded with.
        made: Names of the maps, in the order of the outputs.
    """

    def __init__(self, network: SharingNetwork, name: str, made: Sequence[str]) -> None:
        super().__init__()
        self.network, self.name, self.made = network, name, made
        self.names = network.feature_names(name)

    def forward(self, patch: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        """Encode raw patches.

        Args:
            patch: Raw patches (N, bands, P, P).
            *rest: Maps (N, C, H, W) of the context, then positions (N, 2, h) in it.

        Returns:
            Maps (N, C, h, w) float32.
        """
        *features, positions = rest
        contexts = dict(zip(self.names, features, strict=True))
        found = self.network.maps_of_patches(patch, contexts, {self.name: positions})
        return tuple(found[one] for one in self.made)


class SegmenterGraph(nn.Module):
    """The segmenter: from a raw patch, the features of all contexts and positions to logits.

    Args:
        network: A frozen network.
    """

    def __init__(self, network: ContextNetwork) -> None:
        super().__init__()
        self.network = network
        self.contexts = feature_names(network)
        self.placed = network.config.placed
        self.sees_patch = network.config.sees_patch

    def forward(self, first: Tensor, *rest: Tensor) -> Tensor:
        """Segment raw patches.

        Args:
            first: Raw patches (N, bands, P, P), unless the network does not look at them.
            *rest: Features (N, C, H, W) of each context, then positions (N, 2, h) of each context that is not centred
                on its patch.

        Returns:
            Logits (N, classes, P, P) float32.
        """
        patch, rest = (first, rest) if self.sees_patch else (torch.zeros(0), (first, *rest))
        features = dict(zip(self.contexts, rest[: len(self.contexts)], strict=True))
        positions = dict(zip(self.placed, rest[len(self.contexts) :], strict=True))
        return self.network.segment(patch, self.encoded(features), positions)

    def encoded(self, contexts: dict[str, Tensor]) -> dict[str, Tensor]:
        """The features of the contexts by name, from this graph's inputs for them: here the features themselves."""
        return contexts


class FusedGraph(SegmenterGraph):
    """The segmenter with all encoders: it takes the raw window (N, bands, S, S) of each context, not its features."""

    def encoded(self, contexts: dict[str, Tensor]) -> dict[str, Tensor]:
        """The features of the contexts by name, from this graph's inputs for them: here their raw windows."""
        return {name: self.network.encode(name, window) for name, window in contexts.items()}


def feature_names(network: ContextNetwork) -> tuple[str, ...]:
    """The features that a network segments patches with, by context, or by context and map."""
    names: list[str] = []
    for name in network.config.context_names:
        names += network.feature_names(name) if isinstance(network, SharingNetwork) else (name,)
    return tuple(names)


def frozen(network: ContextNetwork) -> ContextNetwork:
    """Copy a network for tracing.

    Args:
        network: The network; it is not changed.

    Returns:
        A copy in evaluation mode that computes the same, with constants in place of everything that never changes.
    """
    network = copy.deepcopy(network).eval().requires_grad_(False)
    if isinstance(network, FCtL):
        _freeze_places(network)
    _fold(network)
    return network


def round_weights(network: ContextNetwork) -> None:
    """Round the weights of convolutions and linear layers to values that fp16 holds exactly, in place.

    Args:
        network: A frozen network.
    """
    for parameter in network.parameters():
        if parameter.dim() > 1:
            parameter.copy_(parameter.half().float())


class _FoldedConv(nn.Module):
    """A ConvBn with its batch norm folded in."""

    def __init__(self, layer: ConvBn) -> None:
        super().__init__()
        weight, bias = layer.eval().folded()
        self.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
        self.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
        self.padding, self.stride = layer.padding, layer.conv.stride
        self.dilation, self.groups = layer.conv.dilation, layer.conv.groups

    def forward(self, x: Tensor) -> Tensor:
        """The convolution and batch norm of `ConvBn`, as one convolution."""
        before, after = self.padding
        if before != after:  # becomes the convolution's own padding in ONNX (onnx_graph.merge_pads)
            x, before = F.pad(x, (before, after, before, after)), 0
        return F.conv2d(x, self.weight, self.bias, self.stride, before, self.dilation, self.groups)


class _StaticCrop(nn.Module):
    """The placement of a context that does not move: crop matrices as constants, offsets no longer needed."""

    def __init__(self, place: Placement) -> None:
        super().__init__()
        self.matrix: Tensor
        self.register_buffer("matrix", crop_matrix(place.static, place.count))
        self.place = [place]  # in a list: its buffers are not part of this module

    def crop(self, features: Tensor, positions: Tensor | None) -> Tensor:
        """As `Placement.crop`, at the one place where the context always lies."""
        return apply_separable(self.matrix, features, self.matrix)

    def offsets(self, positions: Tensor | None) -> Offsets:
        """As `Placement.offsets`."""
        return self.place[0].offsets(positions)


class _StaticPosition(nn.Module):
    """A position term whose matrices and gate are constants."""

    def __init__(self, term: PositionTerm, offsets: Offsets | None) -> None:
        super().__init__()
        self.term = None if offsets else [term]
        rows, columns = term.matrices(offsets) if offsets else (torch.zeros(0), torch.zeros(0))
        self.rows: Tensor
        self.columns: Tensor
        self.gate: Tensor
        self.register_buffer("rows", rows.detach())
        self.register_buffer("columns", columns.detach())
        self.register_buffer("gate", term.share().detach())

    def matrices(self, offsets: Offsets) -> tuple[Tensor, Tensor]:
        """As `PositionTerm.matrices`, from constants where offsets never change."""
        return self.term[0].matrices(offsets) if self.term else (self.rows, self.columns)

    def share(self) -> Tensor:
        """As `PositionTerm.share`, from a constant."""
        return self.gate


def _freeze_places(network: FCtL) -> None:
    """Make constants of all that depends on where centred contexts lie."""
    if network.lcf is not None:
        _freeze_positions(network, network.lcf)
    for context in network.config.contexts:
        if context.centred:
            network.place[context.name] = _StaticCrop(network.placement(context.name))


def _freeze_positions(network: FCtL, lcf: LocalityAwareContextFusion) -> None:
    """Make constants of position terms, except for contexts whose distance from the patch varies."""
    moving = {context.name for context in network.config.contexts if not context.centred}
    on_the_ground = network.config.lcf is not None and network.config.lcf.position == "ground"
    for name, module in lcf.attention.items():
        attention = cast(ContextAttention, module)
        if attention.position is not None:
            fixed = name not in moving or not on_the_ground
            offsets = network.placement(name).offsets(None) if fixed else None
            attention.register_module("position", _StaticPosition(attention.position, offsets))


class _MergedSegFormer(nn.Module):
    """A SegFormerDecoder with one constant 1x1 convolution per stage."""

    def __init__(self, decoder: SegFormerDecoder) -> None:
        super().__init__()
        self.decoder = [decoder]  # in a list: its own weights are not part of this module
        self.score = decoder.score
        layers = decoder.merged(*decoder.eval().fuse.folded())
        for name, (weight, bias) in layers.items():
            self.register_parameter(f"{name}_weight", nn.Parameter(weight.detach().clone(), requires_grad=False))
            self.register_parameter(f"{name}_bias", nn.Parameter(bias.detach().clone(), requires_grad=False))

    def forward(self, features: dict[str, Tensor], size: int) -> Tensor:
        """As `SegFormerDecoder.forward`: logits of the features of all stages, at the given size in pixels."""
        decoder = self.decoder[0]
        merged = {name: (getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias")) for name in decoder.order}
        return decoder.scored(decoder.fused(features, merged), size)


def _fold(module: nn.Module) -> None:
    """Fold batch norm into convolutions, in place, in all submodules."""
    for name, child in module.named_children():
        if isinstance(child, ConvBn):
            setattr(module, name, _FoldedConv(child))
        elif isinstance(child, SegFormerDecoder):
            setattr(module, name, _MergedSegFormer(child))
        else:
            _fold(child)


def encoder_roles(config: NetworkConfig) -> dict[str, str]:
    """Name the encoder graph of each context.

    Args:
        config: The network.

    Returns:
        The role of its graph, by context. Contexts of one size share the graph of a shared encoder.
    """
    if config.encoders == "separate":
        return {context.name: f"encoder_{context.name}" for context in config.contexts}
    sizes = {context.size for context in config.contexts}
    return {context.name: "encoder" if len(sizes) == 1 else f"encoder_{context.size}" for context in config.contexts}
