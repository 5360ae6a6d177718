"""Checkpoint -> module -> ONNX -> parity -> bundle."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fctl.calib.sample import sample_patches
from fctl.model.backbones import backbone_class, stage_of
from fctl.model.config import GLOBAL, ConfigError, NetworkConfig
from fctl.model.network import FCtL
from fctl.model.presets import Preset, preset
from fctl.model.serving.manifest import draft_manifest
from fctl.model.weights.checkpoints import Card, Checkpoint, ClassLabel, differences, load_network, read_checkpoint
from fctl.model.weights.published import (
    RELEASES,
    is_published_segformer,
    load_release,
    release_classes,
    segformer_classes,
    segformer_weights,
)
from fctl.runtime.bundle.manifest import SEGMENTER, GraphSpec, Manifest
from fctl.runtime.bundle.store import Bundle, sha256, write_manifest
from fctl.runtime.errors import CheckpointError, InputError
from fctl.runtime.raster.atomic import atomic_write, refuse_existing
from fctl.runtime.segment.batches import PatchBatch

from .graphs import EncoderGraph, FusedGraph, SegmenterGraph, encoder_roles, frozen, round_weights
from .palette import colour_of
from .patches import PARITY_PATCHES, parity_images
from .provenance import provenance
from .tracing import export_onnx
from .verify import Reference, Samples, verify

log = logging.getLogger(__name__)

Array = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What to make of a checkpoint.

    arch: a preset's name, for bare weights (a checkpoint of ours knows). classes: names, for bare weights.
    context_files: by context, the files of the public release beside its main one. windows: by context, the side of its
    window in pixels of the raster, for bare weights. scene: side of the images whose whole was the global context.
    graph: "staged", one graph per context and the segmenter, or "fused", all in one. patches: images or folders for the
    parity gate; empty: those shipped with fctl. half_weights: round weights to fp16 and store them so. licence,
    ground_sample_distance: override the checkpoint's.
    """

    arch: str | None = None
    classes: tuple[str, ...] = ()
    context_files: Mapping[str, Path] = field(default_factory=dict)
    windows: Mapping[str, int] = field(default_factory=dict)
    scene: int | None = None
    graph: Literal["staged", "fused"] = "staged"
    patches: tuple[Path, ...] = ()
    half_weights: bool = False
    licence: str | None = None
    ground_sample_distance: float | None = None


def export_bundle(checkpoint: Path, out: Path, options: ExportOptions) -> Manifest:
    """Export a checkpoint to the bundle folder `out`, verified, and return its manifest.

    Raises CheckpointError, InputError, RasterError, OutputError, BundleError, EngineError or ParityError; then nothing
    is left behind.
    """
    refuse_existing(out, remedy="bundles are never changed: choose another --out, or remove it")
    card, network = _load(checkpoint, options)
    exported = frozen(network)
    if options.half_weights:
        round_weights(exported)
    images, source = parity_images(card.network.bands, options.patches)
    with atomic_write(out) as folder, torch.inference_mode():
        folder.mkdir()
        graphs = _write_graphs(exported, folder, card, options)
        files = {"": checkpoint, **options.context_files}
        draft = _manifest(out.stem, card, {name: sha256(path) for name, path in files.items()}, graphs, options.graph)
        write_manifest(folder, draft)
        samples = Samples(batches=sample_patches(draft, images, PARITY_PATCHES, seed=0), source=source)
        manifest = replace(
            draft, parity=(verify(Bundle(folder, draft), _reference(network, exported, options), samples),)
        )
        write_manifest(folder, manifest)
    return manifest


def _load(path: Path, options: ExportOptions) -> tuple[Card, FCtL]:
    """What a checkpoint says of itself, completed by the options, and its network."""
    read = read_checkpoint(path)
    card = _card(read, path, options)
    if options.arch in RELEASES and read.card is None:
        wanted = {name: f"--{name}" for name in card.network.context_names}
        if set(options.context_files) != set(wanted):
            flags = " and ".join(wanted.values())
            raise InputError(f"{options.arch} keeps every context's encoder in a file of its own: give {flags}")
        files = {name: (file, _bare_state(file)) for name, file in options.context_files.items()}
        network = load_release(options.arch, card.network, (path, read.state), files)
        return replace(card, network=network.config), network
    if options.context_files:
        flags = " and ".join(f"--{name}" for name in options.context_files)
        if read.card:
            raise InputError(f"{flags}: {path} is a checkpoint of fctl and holds its contexts' encoders: leave it out")
        raise InputError(f"{flags}: only {' and '.join(RELEASES)} have files of their own for contexts")
    state = read.state
    if is_published_segformer(state):
        if card.network.contexts:
            raise CheckpointError(
                f"{path}: a SegFormer without contexts, expected weights of {options.arch}: choose --arch segformer-b0 "
                "to segformer-b5, or train FCtL from it"
            )
        state = segformer_weights(FCtL(card.network), state, str(path))
    return card, load_network(card.network, state, str(path))


def _bare_state(path: Path) -> Mapping[str, Tensor]:
    read = read_checkpoint(path)
    if read.card:
        raise CheckpointError(f"{path}: expected a file of the public release, found a checkpoint of fctl")
    return read.state


def _card(read: Checkpoint, path: Path, options: ExportOptions) -> Card:
    card = read.card or _card_of_bare(read, path, options)
    if read.card and options.arch:
        asked = _preset(options.arch, card.network.classes).network
        if changed := differences(card.network, asked):
            raise CheckpointError(
                f"{path}: its network differs from {options.arch} in {', '.join(changed)}; leave out --arch"
            )
    if read.card and options.classes:
        if len(options.classes) != card.network.classes:
            raise InputError(f"--classes: expected {card.network.classes} names, found {len(options.classes)}")
        card = replace(
            card,
            classes=tuple(replace(old, name=name) for old, name in zip(card.classes, options.classes, strict=True)),
        )
    if read.card and options.windows:
        raise InputError("--contexts: a checkpoint of fctl knows the windows that it was trained with; leave it out")
    if options.scene is not None:
        card = replace(card, serving=replace(card.serving, scene=_scene(card.network, options.scene)))
    distance = card.ground_sample_distance
    if options.ground_sample_distance is not None:
        distance = options.ground_sample_distance
        if not distance > 0:
            raise InputError(f"--gsd: expected metres above 0, found {distance:g}")
    return replace(card, licence=options.licence or card.licence, ground_sample_distance=distance)


def _card_of_bare(read: Checkpoint, path: Path, options: ExportOptions) -> Card:
    """Bare weights say nothing about themselves: the command line must."""
    if not options.arch or not options.classes:
        raise CheckpointError(
            f"{path}: bare weights say neither what network nor what classes: give --arch and --classes"
        )
    found = _preset(options.arch, len(options.classes))
    scored = _scored_classes(read.state, options.arch)
    if scored not in (None, len(options.classes)):
        raise InputError(f"--classes: {path} scores {scored} classes, found {len(options.classes)} names")
    labels = (ClassLabel(name=name, colour=colour_of(index)) for index, name in enumerate(options.classes))
    return Card(
        network=_with_windows(found.network, options.windows), serving=found.serving, classes=tuple(labels),
        ground_sample_distance=None, licence=None, training={},
    )  # fmt: skip


def _scored_classes(state: Mapping[str, Tensor], arch: str) -> int | None:
    if arch in RELEASES:
        return release_classes(state)
    if is_published_segformer(state):
        return segformer_classes(state)
    own = state.get("decoder.score.bias")
    return int(own.shape[0]) if own is not None and own.dim() else None


def _with_windows(network: NetworkConfig, windows: Mapping[str, int]) -> NetworkConfig:
    """The network with contexts cut from windows of other sides, in pixels of the raster."""
    for name in windows:
        if name not in network.context_names:
            known = ", ".join(network.context_names) or "none"
            raise InputError(f"--contexts: unknown context {name!r}; this network has {known}")
        if any(context.name == name and context.factor == GLOBAL for context in network.contexts):
            raise InputError(f"--contexts: context {name!r} is the whole image; see --scene-size")
    try:
        contexts = tuple(
            replace(context, factor=windows[context.name] / network.patch) if context.name in windows else context
            for context in network.contexts
        )
        return replace(network, contexts=contexts)
    except ConfigError as error:
        raise InputError(f"--contexts: {error}") from error


def _scene(network: NetworkConfig, side: int) -> int:
    if not any(context.factor == GLOBAL for context in network.contexts):
        raise InputError("--scene-size: this network has no global context; leave it out")
    if side <= network.patch:
        raise InputError(f"--scene-size: expected more than the {network.patch} pixels of a patch, found {side}")
    return side


def _preset(name: str, classes: int) -> Preset:
    try:
        return preset(name, classes=classes)
    except ConfigError as error:
        raise InputError(f"--arch: {error}") from error


def _reference(network: FCtL, rounded: FCtL, options: ExportOptions) -> Reference:
    """What the graphs must compute: the network, or what rounding made of it."""
    name = f"PyTorch {torch.__version__} fp32"
    if not options.half_weights:
        return Reference(name=name, scores=in_torch(network), original=None)
    return Reference(name=f"{name}, weights rounded to fp16", scores=in_torch(rounded), original=in_torch(network))


def in_torch(network: FCtL) -> Callable[[PatchBatch], Array]:
    """Logits of a batch, raw patches with raw contexts, in PyTorch."""

    def scores(batch: PatchBatch) -> Array:
        contexts = {name: torch.from_numpy(window) for name, window in batch.contexts.items()}
        positions = {name: torch.from_numpy(places) for name, places in batch.positions.items()}
        with torch.inference_mode():
            logits: Array = network(torch.from_numpy(batch.patch), contexts, positions).numpy()
        return logits

    return scores


def _write_graphs(network: FCtL, folder: Path, card: Card, options: ExportOptions) -> tuple[GraphSpec, ...]:
    """Every encoder graph once, then the segmenter; fused, the segmenter alone."""
    graphs: dict[str, GraphSpec] = {}
    config, half = card.network, options.half_weights
    contexts: dict[str, Tensor] = {}
    for context in config.contexts:
        window = torch.zeros(2, config.bands, context.size, context.size, dtype=torch.uint8)
        if options.graph == "fused":
            contexts[f"window_{context.name}"] = window
            continue
        contexts[f"features_{context.name}"] = network.encode(context.name, window)
        role = encoder_roles(config)[context.name]
        if role not in graphs:
            encoder = EncoderGraph(network, context.name)
            graphs[role] = _write_graph(folder / f"{role}.onnx", encoder, {"window": window}, "features", half)
    patch = torch.zeros(2, config.bands, config.patch, config.patch, dtype=torch.uint8)
    cells = backbone_class(config.backbone).grid(config.patch, stage_of(config.backbone, config.stage))
    inputs = {"patch": patch, **contexts, **{f"positions_{name}": torch.zeros(2, 2, cells) for name in config.placed}}
    module = FusedGraph(network) if options.graph == "fused" else SegmenterGraph(network)
    graphs[SEGMENTER] = _write_graph(folder / f"{SEGMENTER}.onnx", module, inputs, "logits", half)
    return tuple(graphs.values())


def _write_graph(
    path: Path, module: torch.nn.Module, inputs: dict[str, Tensor], output: str, half_weights: bool
) -> GraphSpec:
    role = path.stem
    log.info("exporting %s", role)
    ins, outs = export_onnx(module, path, inputs, output, half_weights=half_weights)
    return GraphSpec(role=role, precision="fp32", file=path.name, sha256=sha256(path), inputs=ins, outputs=outs)


def _manifest(name: str, card: Card, checkpoints: Mapping[str, str], graphs: tuple[GraphSpec, ...], kind: str) -> Manifest:
    """checkpoints: sha256 of the main file under "", and of each context's own."""
    roles = encoder_roles(card.network)
    others = {context: digest for context, digest in checkpoints.items() if context}
    extensions = {"training": card.training} | {"context_checkpoints": others}
    return replace(
        draft_manifest(name, card, dict.fromkeys(roles) if kind == "fused" else roles),
        graphs=graphs,
        provenance=provenance(checkpoints[""], card.licence),
        extensions={key: value for key, value in extensions.items() if value},
    )
