"""A bundle made of a foreign graph, once its scores for real patches have shown what they are."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnx.checker
import onnx.shape_inference

from fctl.calib.sample import sample_patches
from fctl.runtime.atomic import atomic_write
from fctl.runtime.bundle.manifest import SCHEMA, SEGMENTER, ClassInfo, Context, GraphSpec, InputSpec, Manifest, Scaling
from fctl.runtime.bundle.store import Bundle, sha256, write_manifest
from fctl.runtime.errors import CheckpointError, InputError
from fctl.runtime.segment.batches import PatchBatch, on_host
from fctl.runtime.tiling.windows import TilePlan

from ..gate import gated
from ..onnx_graph import save_model
from ..palette import colours_of
from ..patches import PARITY_PATCHES, parity_images
from ..provenance import provenance
from ..verify import MAX_ERROR, MIN_AGREEMENT, Reference, Samples, Scores
from .answers import settled
from .contract import OLDEST_OPSET, unscaled
from .crop import margin_of
from .options import Array, Contract, ForeignOptions, first_line, mean_and_std
from .reference import scaled, scores_of
from .wrap import SURROUND, wrapped

log = logging.getLogger(__name__)


def _unchecked(images: Array, outputs: Array) -> None:
    """No conversion to check."""


@dataclass(frozen=True, kw_only=True)
class Original:
    """A network as the user brought it.

    Attributes:
        name: What runs it, in words.
        origin: Its name in error messages.
        digest: Its SHA-256.
        run: From scaled images (N, ...), as it takes them, to its output (N, ...).
        check: Raises an error if a graph that was made of it gives another output for such images.
    """

    name: str
    origin: str
    digest: str
    run: Callable[[Array], Array]
    check: Callable[[Array, Array], None] = _unchecked


def make_bundle(
    model: onnx.ModelProto, contract: Contract, original: Original, out: Path, options: ForeignOptions
) -> Manifest:
    """Write a bundle and verify it.

    Args:
        model: The network as a graph.
        contract: What was found out about it, without looking at scores of real patches.
        original: The network as it came.
        out: The bundle folder to make.
        options: What the user states about the network.

    Returns:
        The manifest.

    Raises:
        CheckpointError: The graph is invalid, or differs from the file that it was converted from.
        InputError: The options do not fit the network.
        RasterError: An image for the parity gate does not fit.
        ParityError: The bundle does not compute what the network computes.
    """
    images, source = parity_images(contract.bands, options.patches, contract.raw)
    draft = _manifest(out.stem, contract, options, original.digest)
    patches = np.concatenate([
        on_host(batch.patch) for batch in sample_patches(draft, images, PARITY_PATCHES, seed=0)
    ])  # fmt: skip
    taken = scaled(patches, contract, options)
    outputs = original.run(taken)
    original.check(taken, outputs)
    options = replace(options, activation=settled(outputs, contract, options, original.origin))

    def run(raw: Array) -> Array:
        return original.run(scaled(raw, contract, options))

    margin = margin_of(run, patches[:2], contract, options, original.origin)
    contract = replace(contract, margin=margin)
    with atomic_write(out) as folder:
        folder.mkdir()
        graph = _write_graph(wrapped(model, contract, options), folder / f"{SEGMENTER}.onnx", original.origin)
        draft = replace(_manifest(out.stem, contract, options, original.digest), graphs=(graph,))
        write_manifest(folder, draft)
        samples = Samples(batches=sample_patches(draft, images, PARITY_PATCHES, seed=0), source=source)
        manifest = gated(Bundle(folder, draft), _reference(original, contract, options), samples)
    if contract.dtype.kind == "f" and unscaled(options):
        log.warning("no `scale`, `mean` or `std`: the network gets raw %s values as they are", contract.raw)
    return manifest


def check_conversion(before: Array, after: Array, opset: int, origin: str) -> None:
    """Refuse a graph whose conversion to a newer opset changed what it computes.

    Args:
        before: The output of the file as it came.
        after: The output of the converted graph for the same images.
        opset: The opset of the file.
        origin: The name of the file in error messages.

    Raises:
        CheckpointError: The outputs differ.
    """
    old, new = before.astype(np.float64), after.astype(np.float64)
    same = float((np.abs(old - new) <= MAX_ERROR * np.abs(old).max()).mean()) if old.shape == new.shape else 0.0
    if not same >= MIN_AGREEMENT:
        raise CheckpointError(
            f"bringing it from opset {opset} to {OLDEST_OPSET} changes its numbers: {same:.1%} of the scores stay as "
            "they were",
            subject=origin,
            remedy=f"export the network with opset {OLDEST_OPSET} or newer",
        )


def _reference(original: Original, contract: Contract, options: ForeignOptions) -> Reference:
    """What the bundle must compute: what the network does as it came, with scaling and scores in NumPy."""

    def scores(batch: PatchBatch) -> Scores:
        raw = on_host(batch.contexts[SURROUND] if contract.margin else batch.patch)
        return scores_of(original.run(scaled(raw, contract, options)), contract, options)

    return Reference(name=original.name, scores=scores, original=None)


def _write_graph(model: onnx.ModelProto, path: Path, origin: str) -> GraphSpec:
    """Write the bundle's graph and describe it."""
    try:
        ins, outs = save_model(model, path)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        problem = f"no valid ONNX graph ({first_line(error)})"
        raise CheckpointError(problem, subject=origin, remedy="export it anew") from error
    return GraphSpec(
        role=SEGMENTER, precision="fp32", file=path.name, sha256=sha256(path), bytes=path.stat().st_size,
        inputs=ins, outputs=outs,
    )  # fmt: skip


def _manifest(name: str, contract: Contract, options: ForeignOptions, digest: str) -> Manifest:
    """The manifest before there are graphs and the parity gate."""
    tile = contract.scored
    overlap = tile // 8 if options.overlap is None else options.overlap
    if not 0 <= overlap < tile:
        raise InputError(subject="`overlap`", expected=f"0 to {tile - 1} pixels", found=overlap)
    distance = options.ground_sample_distance
    if distance is not None and not distance > 0:
        raise InputError(subject="`gsd`", expected="metres above 0", found=f"{distance:g}")
    mean, std = mean_and_std(contract, options)
    return Manifest(
        schema=SCHEMA,
        name=name,
        network=None,
        classes=tuple(
            ClassInfo(name=name, colour=colour)
            for name, colour in zip(options.classes, colours_of(options.classes), strict=True)
        ),
        input=InputSpec(
            bands=contract.bands,
            dtype=contract.raw,
            scaling=Scaling(mean=tuple(map(float, mean)), std=tuple(map(float, std))),
            ground_sample_distance=distance,
        ),
        tile=tile,
        plan=TilePlan(kind="stride", overlap=overlap),
        contexts=_contexts(contract),
        merge="cosine",
        graphs=(),
        parity=(),
        provenance=provenance(digest, options.licence),
        extensions={},
    )


def _contexts(contract: Contract) -> tuple[Context, ...]:
    """Where a network scores only the middle of its image, that image is a window around the patch."""
    if not contract.margin:
        return ()
    return (Context(
        name=SURROUND, factor=contract.tile / contract.scored, size=contract.tile, resampling="box", scene=None,
        encoder=None, cells=None,
    ),)  # fmt: skip
