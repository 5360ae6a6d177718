"""Checkpoints made into verified bundles: a checkpoint becomes a module, ONNX graphs, and a bundle once they agree."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fctl.calib.sample import sample_patches
from fctl.model.build import build
from fctl.model.interface import ContextNetwork, SharingNetwork
from fctl.model.serving.manifest import draft_manifest, moving_cells
from fctl.model.serving.module_network import ModuleNetwork
from fctl.model.weights.checkpoints import Card, load_network, read_checkpoint
from fctl.model.weights.published import RELEASES, is_published_segformer, load_release, segformer_weights
from fctl.runtime.atomic import atomic_write, refuse_existing
from fctl.runtime.bundle.manifest import SEGMENTER, Context, GraphSpec, Manifest, SharedEncoder
from fctl.runtime.bundle.store import Bundle, sha256, write_manifest
from fctl.runtime.errors import CheckpointError, InputError
from fctl.runtime.segment.batches import PatchBatch

from .card import ExportOptions, completed_card
from .framing import framed
from .gate import gated
from .graphs import (
    EncoderGraph,
    FusedGraph,
    MapsGraph,
    OnceGraph,
    PatchesGraph,
    SegmenterGraph,
    encoder_roles,
    frozen,
    round_weights,
)
from .patches import PARITY_PATCHES, parity_images
from .provenance import provenance
from .reshape import reshaped
from .tracing import export_onnx
from .verify import Reference, Samples, verify_shared

log = logging.getLogger(__name__)

Array = NDArray[np.float32]


def export_bundle(checkpoint: Path, out: Path, options: ExportOptions) -> Manifest:
    """Export a checkpoint to a bundle, and verify what was exported. Where it fails, nothing is left behind.

    Args:
        checkpoint: The checkpoint.
        out: The folder to make; its name without the suffix becomes the bundle's name.
        options: What to make of the checkpoint.

    Returns:
        The manifest of the bundle.

    Raises:
        CheckpointError: The checkpoint cannot be read, or does not fit its network.
        InputError: An option does not fit the network.
        RasterError: An image for the parity gate does not fit.
        OutputError: The folder exists already, or cannot be written.
        EngineError: ONNX Runtime is missing, or refuses a graph.
        ParityError: The graphs do not compute what the network computes.
    """
    refuse_existing(out, remedy="bundles are never changed: choose another `out`, or remove it")
    card, network = _load(checkpoint, options)
    if options.graph == "fused" and any(context.gathers for context in card.network.contexts):
        raise InputError("a network of two passes cannot be one graph", subject="`graph`", remedy="leave it out")
    exported = frozen(network)
    if options.half_weights:
        round_weights(exported)
    framed(exported)
    images, source = parity_images(card.network.bands, options.patches)
    with atomic_write(out) as folder, torch.inference_mode():
        folder.mkdir()
        files = {"": checkpoint, **options.context_files}
        draft = _manifest(out.stem, card, {name: sha256(path) for name, path in files.items()}, options.graph)
        draft = replace(draft, graphs=_write_graphs(exported, folder, card, draft, options))
        write_manifest(folder, draft)
        samples = Samples(batches=sample_patches(draft, images, PARITY_PATCHES, seed=0), source=source)
        manifest = gated(Bundle(folder, draft), _reference(draft, network, exported, options), samples)
        verify_shared(Bundle(folder, manifest), ModuleNetwork(draft, exported, 1, once=True), samples.batches[0])
    return manifest


def _load(path: Path, options: ExportOptions) -> tuple[Card, ContextNetwork]:
    """What a checkpoint states about itself, completed by the options, and its network."""
    read = read_checkpoint(path)
    card = completed_card(read, path, options)
    if options.arch in RELEASES and read.card is None:
        wanted = card.network.context_names
        if set(options.context_files) != set(wanted):
            given = _arguments(wanted)
            raise InputError(f"{options.arch} keeps every context's encoder in a file of its own: give {given}")
        files = {name: (file, _bare_state(file)) for name, file in options.context_files.items()}
        network = load_release(options.arch, card.network, (path, read.state), files)
        return replace(card, network=network.config), network
    if options.context_files:
        problem = f"only {' and '.join(RELEASES)} have files of their own for contexts"
        if read.card:
            problem = f"{path} is a checkpoint of fctl and holds its contexts' encoders: leave it out"
        raise InputError(problem, subject=_arguments(options.context_files))
    state = read.state
    if is_published_segformer(state):
        if card.network.contexts and card.network.sees_patch:
            raise CheckpointError(
                f"a SegFormer without contexts, expected weights of {options.arch}: choose `arch` segformer-b0 to "
                "segformer-b5, or train FCtL from it",
                subject=path,
            )
        state = segformer_weights(build(card.network), state, str(path))
    return card, load_network(card.network, state, str(path))


def _arguments(contexts: Iterable[str]) -> str:
    """The arguments that name the files of some contexts."""
    return " and ".join(f"`{name}`" for name in contexts)


def _bare_state(path: Path) -> Mapping[str, Tensor]:
    """The weights in a file of the public release."""
    read = read_checkpoint(path)
    if read.card:
        raise CheckpointError(subject=path, expected="a file of the public release", found="a checkpoint of fctl")
    return read.state


def _reference(
    manifest: Manifest, network: ContextNetwork, rounded: ContextNetwork, options: ExportOptions
) -> Reference:
    """What the graphs must compute: what the network does, with its weights rounded where they were rounded."""
    name = f"PyTorch {torch.__version__} fp32"
    if not options.half_weights:
        return Reference(name=name, scores=in_torch(manifest, network), original=None)
    return Reference(
        name=f"{name}, weights rounded to fp16",
        scores=in_torch(manifest, rounded),
        original=in_torch(manifest, network),
    )


def in_torch(manifest: Manifest, network: ContextNetwork) -> Callable[[PatchBatch], Array]:
    """Compute logits in PyTorch.

    Args:
        manifest: How the network's windows are cut.
        network: The network.

    Returns:
        A function from a batch of one patch to its logits (1, classes, P, P) float32.
    """
    module = ModuleNetwork(manifest, network, batch=1)

    def scores(batch: PatchBatch) -> Array:
        return module.on_host(module.run(batch))

    return scores


def _write_graphs(
    network: ContextNetwork, folder: Path, card: Card, manifest: Manifest, options: ExportOptions
) -> tuple[GraphSpec, ...]:
    """Write every encoder graph once, then the segmenter; of a fused bundle the segmenter alone."""
    graphs: dict[str, GraphSpec] = {}
    config, half = card.network, options.half_weights
    cells = moving_cells(config, config.patch).patch.count
    positions = {f"positions_{name}": torch.zeros(2, 2, cells) for name in config.placed}
    patch = torch.zeros(2, config.raster_bands, config.patch, config.patch, dtype=torch.uint8)
    features: dict[str, Tensor] = {}
    for context, served in zip(config.contexts, manifest.contexts, strict=True):
        window = torch.zeros(2, config.raster_bands, context.size, context.size, dtype=torch.uint8)
        if options.graph == "fused":
            features[f"window_{context.name}"] = window
            continue
        role = str(served.encoder)
        gathered = _write_patches(
            network, manifest, served, {"patch": patch} | features | positions, folder, graphs, half
        )
        inputs = {"window": window} | gathered
        encoder = _encoder(network, served)
        found = encoder(*inputs.values())
        features |= dict(zip(served.inputs, found if isinstance(found, tuple) else (found,), strict=True))
        if role not in graphs:
            graphs[role] = _write_graph(folder / f"{role}.onnx", encoder, inputs, served.outputs, half)
        sharing = served.sharing
        if sharing and sharing.encoder not in graphs:
            graphs[sharing.encoder] = _write_once(network, context.name, sharing, folder, graphs[role], half)
    module = FusedGraph(network) if options.graph == "fused" else SegmenterGraph(network)
    taken = ({"patch": patch} if config.sees_patch else {}) | features | positions
    graphs[SEGMENTER] = _write_graph(folder / f"{SEGMENTER}.onnx", module, taken, network.scores, half)
    return tuple(graphs.values())


def _encoder(network: ContextNetwork, context: Context) -> torch.nn.Module:
    """The graph that encodes a context."""
    if not (context.maps or context.gathering):
        return EncoderGraph(network, context.name)
    assert isinstance(network, SharingNetwork), "no other has several maps"
    gathered = context.gathering.maps if context.gathering else ()
    return MapsGraph(network, context.name, [one.name for one in gathered])


def _write_patches(
    network: ContextNetwork,
    manifest: Manifest,
    context: Context,
    inputs: dict[str, Tensor],
    folder: Path,
    graphs: dict[str, GraphSpec],
    half: bool,
) -> dict[str, Tensor]:
    """Write the graph of what a context gathers; examples of what its encoder takes of it, by name.

    Args:
        network: The network.
        manifest: Its draft.
        context: The context; nothing is written where it gathers nothing.
        inputs: Examples of what a segmenter takes, as far as contexts are encoded.
        folder: Where the graph goes.
        graphs: The graphs so far, to which it is added.
        half: Whether weights are stored as fp16.
    """
    gathering = context.gathering
    if gathering is None:
        return {}
    assert isinstance(network, SharingNetwork), "no other gathers anything"
    base = manifest.gathered_with(context)
    names, made = ("patch", *base.inputs, base.positions), [one.name for one in gathering.maps]
    taken, module = {name: inputs[name] for name in names}, PatchesGraph(network, base.name, made)
    path, outputs = folder / f"{gathering.encoder}.onnx", [f"features_{name}" for name in made]
    graphs[gathering.encoder] = _write_graph(path, module, taken, outputs, half)
    channels = [one.shape[1] for one in module(*taken.values())]
    return {
        f"gathered_{one.name}": torch.zeros(2, many, one.scene.count, one.scene.count)
        for one, many in zip(gathering.maps, channels, strict=True)
    }


def _write_once(
    network: ContextNetwork, context: str, sharing: SharedEncoder, folder: Path, encoder: GraphSpec, half: bool
) -> GraphSpec:
    """Write the graph that encodes a context once a raster: the encoder's own for larger windows, where it is that."""
    path = folder / f"{sharing.encoder}.onnx"
    if sharing.own.offset == sharing.cells.offset:
        return reshaped(folder / encoder.file, encoder, sharing.size, sharing.own.count, path)
    window = torch.zeros(2, network.config.raster_bands, sharing.size, sharing.size, dtype=torch.uint8)
    return _write_graph(path, OnceGraph(network, context), {"window": window}, "features", half)


def _write_graph(
    path: Path, module: torch.nn.Module, inputs: dict[str, Tensor], outputs: str | Sequence[str], half_weights: bool
) -> GraphSpec:
    """Write one graph and describe it."""
    role = path.stem
    log.info("exporting %s", role)
    ins, outs = export_onnx(module, path, inputs, outputs, half_weights=half_weights)
    return GraphSpec(
        role=role, precision="fp32", file=path.name, sha256=sha256(path), bytes=path.stat().st_size,
        inputs=ins, outputs=outs,
    )  # fmt: skip


def _manifest(name: str, card: Card, checkpoints: Mapping[str, str], kind: str) -> Manifest:
    """The manifest without graphs; `checkpoints`: SHA-256 of files by context, the main one under ""."""
    roles = encoder_roles(card.network)
    others = {context: digest for context, digest in checkpoints.items() if context}
    extensions = {"training": card.training} | {"context_checkpoints": others}
    return replace(
        draft_manifest(name, card, dict.fromkeys(roles) if kind == "fused" else roles),
        provenance=provenance(checkpoints[""], card.licence),
        extensions={key: value for key, value in extensions.items() if value},
    )
