"""Checkpoint -> module -> ONNX -> parity -> bundle."""

from __future__ import annotations

import colorsys
import datetime
import logging
import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor

from fctl.calib.sample import find_images, sample_patches, shipped_images
from fctl.model.backbones import backbone_class, stage_of
from fctl.model.checkpoints import Card, Checkpoint, ClassLabel, differences, load_network, read_checkpoint
from fctl.model.config import GLOBAL, ConfigError, NetworkConfig
from fctl.model.network import FCtL
from fctl.model.presets import Preset, preset
from fctl.runtime.bundle import (
    SCHEMA,
    SEGMENTER,
    Bundle,
    ClassInfo,
    Context,
    Graph,
    InputSpec,
    Manifest,
    MovingCells,
    Provenance,
    Scaling,
    sha256,
    write_manifest,
)
from fctl.runtime.contexts import Cells
from fctl.runtime.errors import CheckpointError, InputError
from fctl.runtime.files import refuse_existing, whole
from fctl.runtime.records import encode
from fctl.runtime.windows import Plan

from .graphs import EncoderGraph, SegmenterGraph, encoder_roles, frozen, round_weights
from .onnx_graph import export_onnx
from .verify import Samples, verify

log = logging.getLogger(__name__)

_PATCHES = 8
_TOOLS = ("fctl", "torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "numpy")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What to make of a checkpoint.

    arch: a preset's name, for bare weights (a checkpoint of ours knows). classes: names, for bare weights. patches:
    images or folders for the parity gate; empty: those shipped with fctl. half_weights: round weights to fp16 and
    store them so. licence, ground_sample_distance: override the checkpoint's.
    """

    arch: str | None = None
    classes: tuple[str, ...] = ()
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
    read = read_checkpoint(checkpoint)
    card = _card(read, checkpoint, options)
    network = load_network(card.network, read.state, str(checkpoint))
    exported = frozen(network)
    if options.half_weights:
        round_weights(exported)
    images, source = _images(card.network, options.patches)
    with whole(out) as folder, torch.inference_mode():
        folder.mkdir()
        draft = _manifest(
            out.stem, card, sha256(checkpoint), _write_graphs(exported, folder, card, options.half_weights)
        )
        write_manifest(folder, draft)
        samples = Samples(batches=sample_patches(draft, images, _PATCHES, seed=0), source=source)
        reference, original = (exported, network) if options.half_weights else (network, None)
        manifest = replace(draft, parity=(verify(Bundle(folder, draft), reference, original, samples),))
        write_manifest(folder, manifest)
    return manifest


def _card(read: Checkpoint, path: Path, options: ExportOptions) -> Card:
    card = read.card or _card_of_bare(path, options)
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
    distance = card.ground_sample_distance
    if options.ground_sample_distance is not None:
        distance = options.ground_sample_distance
        if not distance > 0:
            raise InputError(f"--gsd: expected metres above 0, found {distance:g}")
    return replace(card, licence=options.licence or card.licence, ground_sample_distance=distance)


def _card_of_bare(path: Path, options: ExportOptions) -> Card:
    """Bare weights say nothing about themselves: the command line must."""
    if not options.arch or not options.classes:
        raise CheckpointError(
            f"{path}: bare weights say neither what network nor what classes: give --arch and --classes"
        )
    found = _preset(options.arch, len(options.classes))
    labels = (ClassLabel(name=name, colour=_colour(index)) for index, name in enumerate(options.classes))
    return Card(
        network=found.network, serving=found.serving, classes=tuple(labels), ground_sample_distance=None, licence=None,
        training={},
    )  # fmt: skip


def _colour(index: int) -> tuple[int, int, int]:
    """Colours that stay apart for any number of classes: hues a golden angle from each other."""
    red, green, blue = (round(255 * v) for v in colorsys.hsv_to_rgb(index * 0.618034 % 1, 0.7, 0.9 - 0.3 * (index % 2)))
    return red, green, blue


def _preset(name: str, classes: int) -> Preset:
    try:
        return preset(name, classes=classes)
    except ConfigError as error:
        raise InputError(f"--arch: {error}") from error


def _write_graphs(network: FCtL, folder: Path, card: Card, half_weights: bool) -> tuple[Graph, ...]:
    """Every encoder graph once, then the segmenter."""
    graphs: dict[str, Graph] = {}
    config = card.network
    features: dict[str, Tensor] = {}
    for context in config.contexts:
        window = torch.zeros(2, config.bands, context.size, context.size, dtype=torch.uint8)
        features[f"features_{context.name}"] = network.encode(context.name, window)
        role = encoder_roles(config)[context.name]
        if role not in graphs:
            module = EncoderGraph(network, context.name)
            graphs[role] = _write_graph(folder / f"{role}.onnx", module, {"window": window}, "features", half_weights)
    patch = torch.zeros(2, config.bands, config.patch, config.patch, dtype=torch.uint8)
    cells = backbone_class(config.backbone).grid(config.patch, stage_of(config.backbone, config.stage))
    moving = [context.name for context in config.contexts if context.factor == GLOBAL]
    inputs = {"patch": patch, **features, **{f"positions_{name}": torch.zeros(2, 2, cells) for name in moving}}
    graphs[SEGMENTER] = _write_graph(
        folder / f"{SEGMENTER}.onnx", SegmenterGraph(network), inputs, "logits", half_weights
    )
    return tuple(graphs.values())


def _write_graph(
    path: Path, module: torch.nn.Module, inputs: dict[str, Tensor], output: str, half_weights: bool
) -> Graph:
    role = path.stem
    log.info("exporting %s", role)
    ins, outs = export_onnx(module, path, inputs, output, half_weights=half_weights)
    return Graph(role=role, precision="fp32", file=path.name, sha256=sha256(path), inputs=ins, outputs=outs)


def _manifest(name: str, card: Card, checkpoint_sha256: str, graphs: tuple[Graph, ...]) -> Manifest:
    config, serving = card.network, card.serving
    return Manifest(
        schema=SCHEMA,
        name=name,
        network=encode(config),
        classes=tuple(ClassInfo(name=label.name, colour=label.colour) for label in card.classes),
        input=InputSpec(
            bands=config.bands,
            dtype="uint8",
            scaling=Scaling(mean=config.mean, std=config.std),
            ground_sample_distance=card.ground_sample_distance,
        ),
        tile=config.patch,
        plan=Plan(kind=serving.plan, overlap=serving.overlap),
        contexts=_contexts(card),
        merge=serving.merge,
        graphs=graphs,
        parity=(),
        provenance=Provenance(
            checkpoint_sha256=checkpoint_sha256,
            licence=card.licence,
            created=datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
            tools=_tool_versions(),
        ),
        extensions={"training": card.training} if card.training else {},
    )


def _tool_versions() -> dict[str, str]:
    installed = {name: _version(name) for name in _TOOLS}
    return {"python": platform.python_version()} | {name: found for name, found in installed.items() if found}


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _contexts(card: Card) -> tuple[Context, ...]:
    config, roles = card.network, encoder_roles(card.network)
    return tuple(
        Context(
            name=context.name,
            factor=context.factor,
            size=context.size,
            resampling=card.serving.resampling,
            encoder=roles[context.name],
            cells=_moving_cells(config, context.size) if context.factor == GLOBAL else None,
        )
        for context in config.contexts
    )


def _moving_cells(config: NetworkConfig, size: int) -> MovingCells:
    stage, kind = stage_of(config.backbone, config.stage), backbone_class(config.backbone)
    patch, context = (
        Cells(stride=stage.stride, offset=stage.offset, count=kind.grid(side, stage)) for side in (config.patch, size)
    )
    return MovingCells(patch=patch, context=context)


def _images(config: NetworkConfig, places: Sequence[Path]) -> tuple[Sequence[Path], str]:
    """Images for the parity gate, and what they are called."""
    if places:
        return find_images(places), ", ".join(map(str, places))
    if config.bands != 3:
        raise InputError(
            f"the shipped images have 3 bands, this network wants {config.bands}: give images of yours with --patches"
        )
    return shipped_images(), "the images shipped with fctl"
