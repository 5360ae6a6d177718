"""Bundles of presets with random weights: parity and speed need no trained ones. Needs torch and onnx."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import onnx
import torch
from torch import nn

from fctl.calib.sample import sample_patches, shipped_images
from fctl.calib.watch import peaks
from fctl.export.card import ExportOptions
from fctl.export.onnx_graph import save_model
from fctl.export.pipeline import export_bundle
from fctl.export.precision.half import to_half
from fctl.model.build import build
from fctl.model.config import NetworkConfig, ServingConfig
from fctl.model.interface import ContextNetwork, SharingNetwork
from fctl.model.presets import PRESETS, narrow, preset
from fctl.model.serving.manifest import moving_cells
from fctl.model.weights.checkpoints import Card, ClassLabel, save_checkpoint
from fctl.runtime.bundle.store import Bundle, read_bundle, sha256, write_manifest

_PATCHES = 4


@dataclass(frozen=True, kw_only=True)
class Made:
    """A preset as a bundle.

    Attributes:
        bundle: The bundle.
        checkpoint: The checkpoint that it was exported from.
        network: The network, in evaluation mode.
    """

    bundle: Bundle
    checkpoint: Path
    network: ContextNetwork


def make_preset(
    name: str, folder: Path, *, classes: int, width: float = 1.0, graph: Literal["staged", "fused"] = "staged"
) -> Made:
    """Export a preset with random weights.

    Args:
        name: The preset.
        folder: Where checkpoint and bundle are written.
        classes: How many classes it has.
        width: What every number of channels is multiplied by.
        graph: Whether contexts are encoded by graphs of their own ("staged") or by one graph for all ("fused").

    Returns:
        The bundle and what it was made from.

    Raises:
        ConfigError: There is no such preset.
        ParityError: The graphs do not compute what the network does.
    """
    chosen = preset(name, classes=classes)
    return make_network(name, chosen.network, folder, serving=chosen.serving, width=width, graph=graph)


def make_network(
    name: str,
    config: NetworkConfig,
    folder: Path,
    *,
    serving: ServingConfig,
    width: float = 1.0,
    graph: Literal["staged", "fused"] = "staged",
) -> Made:
    """Export a network with random weights.

    Args:
        name: What its files are called.
        config: The network.
        folder: Where checkpoint and bundle are written.
        serving: How it is run over a raster.
        width: What every number of channels is multiplied by.
        graph: As in `make_preset`.

    Returns:
        The bundle and what it was made from.

    Raises:
        ParityError: The graphs do not compute what the network does.
    """
    config = config if width == 1 else narrow(config, width)
    network = stirred(config)
    labels = tuple(ClassLabel(name=f"class {i}", colour=(40 * i, 0, 0)) for i in range(config.classes))
    card = Card(network=config, serving=serving, classes=labels, ground_sample_distance=None, licence=None, training={})
    checkpoint, out = folder / f"{name}.pt", folder / f"{name}.fctl"
    save_checkpoint(checkpoint, card, network.state_dict())
    export_bundle(checkpoint, out, ExportOptions(graph=graph))
    return Made(bundle=read_bundle(out), checkpoint=checkpoint, network=network)


def with_half(bundle: Bundle, out: Path) -> Bundle:
    """Copy a bundle and add fp16 graphs as `fctl.export.precision` makes them, but without its parity gate.

    Random weights have near ties, with which fp16 graphs may miss the gate.

    Args:
        bundle: A bundle of fp32 graphs.
        out: The folder of the copy, which must not exist.

    Returns:
        The copy.
    """
    ranges = peaks(bundle, sample_patches(bundle.manifest, shipped_images(), _PATCHES, seed=0))
    shutil.copytree(bundle.folder, out)
    halves = []
    for graph in bundle.manifest.graphs:
        path = out / f"{Path(graph.file).stem}.fp16.onnx"
        half = to_half(onnx.load(bundle.folder / graph.file), graph.file, ranges[graph.role])
        ins, outs = save_model(half.model, path)
        halves.append(replace(graph, precision="fp16", file=path.name, sha256=sha256(path), inputs=ins, outputs=outs))
    write_manifest(out, replace(bundle.manifest, graphs=(*bundle.manifest.graphs, *halves)))
    return read_bundle(out)


def stirred(config: NetworkConfig) -> ContextNetwork:
    """A random network in which every part matters, scaled so that signals neither fade nor explode."""
    torch.manual_seed(0)
    network = build(config)
    for name, parameter in network.named_parameters():
        if name.endswith("gamma"):
            nn.init.uniform_(parameter, 0.5, 1.0)
        elif config.backbone == "vgg16" and parameter.dim() == 4 and parameter.requires_grad:
            nn.init.kaiming_normal_(parameter)  # VGG16 has no norms to scale signals
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # a plain mean over all that it is shown
    if isinstance(network, SharingNetwork):  # all norms are in its encoders
        with torch.no_grad():
            for encoder in network.train().encoders():
                encoder(_noise(config, config.patch))
    elif norms:
        contexts = {context.name: _noise(config, context.size) for context in config.contexts}
        cells = moving_cells(config, config.patch).patch.count
        positions = {name: torch.zeros(2, 2, cells) for name in config.placed}
        with torch.no_grad():
            network.train()(_noise(config, config.patch), contexts, positions)
    return network.eval()


def segmenting() -> list[str]:
    """The names of all presets that make masks; refiners with random weights are chaotic, and pass no gate."""
    return [name for name, one in PRESETS.items() if not one.network.refines]


def _noise(config: NetworkConfig, size: int) -> torch.Tensor:
    return torch.randint(0, 256, (2, config.bands, size, size), dtype=torch.uint8)
