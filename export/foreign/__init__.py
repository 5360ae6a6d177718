"""Segmenters of any origin made into bundles: scaling is put before the graph, a score for each class behind it.

The network takes one image as its input. PyTorch is needed only where it is a PyTorch module.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from pathlib import Path

import onnx
import onnx.checker
import onnx.shape_inference

from fctl.calib.sample import sample_patches
from fctl.runtime.atomic import atomic_write, refuse_existing
from fctl.runtime.bundle.manifest import SCHEMA, SEGMENTER, ClassInfo, GraphSpec, InputSpec, Manifest, Scaling
from fctl.runtime.bundle.store import Bundle, sha256, write_manifest
from fctl.runtime.errors import CheckpointError, InputError
from fctl.runtime.segment.batches import PatchBatch, on_host
from fctl.runtime.tiling.windows import TilePlan

from ..onnx_graph import save_model
from ..palette import colour_of
from ..patches import PARITY_PATCHES, parity_images
from ..provenance import provenance
from ..verify import Reference, Samples, Scores, verify
from .contract import find_contract, read_model, unscaled
from .options import Contract, ForeignOptions, first_line, mean_and_std
from .reference import load_graph, run_graph, scaled, scores_of
from .wrap import wrapped

log = logging.getLogger(__name__)

_REMEDY = "bundles are never changed: choose another `out`, or remove it"


def export_foreign_onnx(path: Path, out: Path, options: ForeignOptions) -> Manifest:
    """Export an ONNX file to a bundle, verified against the file itself in ONNX Runtime.

    Where it fails, nothing is left behind.

    Args:
        path: The file.
        out: The bundle folder to make.
        options: What the network takes and gives.

    Returns:
        The manifest of the bundle.

    Raises:
        CheckpointError: The graph is no segmenter of one image.
        InputError: The options do not fit the graph.
        RasterError: An image for the parity gate does not fit.
        OutputError: The folder exists already, or cannot be written.
        ParityError: The bundle does not compute what the network computes.
    """
    refuse_existing(out, remedy=_REMEDY)
    model = read_model(path)
    contract = find_contract(model, str(path), options)
    session = load_graph(model)

    def reference(batch: PatchBatch) -> Scores:
        image = scaled(on_host(batch.patch), contract, options)
        return scores_of(run_graph(session, contract, image), contract, options)

    return _make(model, contract, str(path), out, options, sha256(path), Reference(
        name="the ONNX file in ONNX Runtime", scores=reference, original=None,
    ))  # fmt: skip


def export_foreign_module(factory: str, out: Path, options: ForeignOptions) -> Manifest:
    """Export a PyTorch module to a bundle, verified against the module itself.

    The module takes images (N, bands, H, W) float32 and returns a tensor, or something with ``out`` or ``logits``.

    Args:
        factory: What makes the module, as ``package.module:factory``.
        out: The bundle folder to make.
        options: What the network takes and gives; its `tile` is needed.

    Returns:
        The manifest of the bundle.

    Raises:
        CheckpointError: There is no such module, or it is no segmenter of one image.
        InputError: The options do not fit the module.
        RasterError: An image for the parity gate does not fit.
        OutputError: The folder exists already, or cannot be written.
        ParityError: The bundle does not compute what the module computes.
    """
    from .modules import image_network, run_module, trace_module

    refuse_existing(out, remedy=_REMEDY)
    if options.tile is None:
        raise InputError("a PyTorch module does not say its size: give `tile`", subject=factory)
    if options.layout != "nchw":
        raise InputError("PyTorch modules take nchw", subject="`layout`", remedy="leave it out")
    module = image_network(factory)
    model = trace_module(module, factory, options.bands or 3, options.tile)
    contract = find_contract(model, factory, options)

    def reference(batch: PatchBatch) -> Scores:
        return scores_of(run_module(module, scaled(on_host(batch.patch), contract, options)), contract, options)

    digest = hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
    return _make(model, contract, factory, out, options, digest, Reference(
        name="the PyTorch module", scores=reference, original=None,
    ))  # fmt: skip


def _make(
    model: onnx.ModelProto,
    contract: Contract,
    origin: str,
    out: Path,
    options: ForeignOptions,
    digest: str,
    reference: Reference,
) -> Manifest:
    """Write a bundle and verify it; `origin` names the network in errors, `digest` is its SHA-256."""
    images, source = parity_images(contract.bands, options.patches, contract.raw)
    with atomic_write(out) as folder:
        folder.mkdir()
        path = folder / f"{SEGMENTER}.onnx"
        try:
            ins, outs = save_model(wrapped(model, contract, options), path)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            problem = f"no valid ONNX graph ({first_line(error)})"
            raise CheckpointError(problem, subject=origin, remedy="export it anew") from error
        graph = GraphSpec(
            role=SEGMENTER, precision="fp32", file=path.name, sha256=sha256(path), inputs=ins, outputs=outs
        )
        draft = _manifest(out.stem, contract, options, graph, digest)
        write_manifest(folder, draft)
        samples = Samples(batches=sample_patches(draft, images, PARITY_PATCHES, seed=0), source=source)
        manifest = replace(draft, parity=(verify(Bundle(folder, draft), reference, samples),))
        write_manifest(folder, manifest)
    if contract.dtype.kind == "f" and unscaled(options):
        log.warning("no `scale`, `mean` or `std`: the network gets raw %s values as they are", contract.raw)
    return manifest


def _manifest(name: str, contract: Contract, options: ForeignOptions, graph: GraphSpec, digest: str) -> Manifest:
    """The manifest before the parity gate."""
    overlap = contract.tile // 8 if options.overlap is None else options.overlap
    if not 0 <= overlap < contract.tile:
        raise InputError(subject="`overlap`", expected=f"0 to {contract.tile - 1} pixels", found=overlap)
    distance = options.ground_sample_distance
    if distance is not None and not distance > 0:
        raise InputError(subject="`gsd`", expected="metres above 0", found=f"{distance:g}")
    mean, std = mean_and_std(contract, options)
    return Manifest(
        schema=SCHEMA,
        name=name,
        network=None,
        classes=tuple(ClassInfo(name=name, colour=colour_of(index)) for index, name in enumerate(options.classes)),
        input=InputSpec(
            bands=contract.bands,
            dtype=contract.raw,
            scaling=Scaling(mean=tuple(map(float, mean)), std=tuple(map(float, std))),
            ground_sample_distance=distance,
        ),
        tile=contract.tile,
        plan=TilePlan(kind="stride", overlap=overlap),
        contexts=(),
        merge="cosine",
        graphs=(graph,),
        parity=(),
        provenance=provenance(digest, options.licence),
        extensions={},
    )


__all__ = ["ForeignOptions", "export_foreign_module", "export_foreign_onnx"]
