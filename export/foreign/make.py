"""A bundle made of a foreign graph, once its scores for real patches have shown what they are."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnx.checker
import onnx.shape_inference

from fctl.calib.sample import sample_patches
from fctl.runtime.atomic import atomic_write
from fctl.runtime.bundle.manifest import SCHEMA, SEGMENTER, ClassInfo, Context, GraphSpec, InputSpec, Manifest, Scaling
from fctl.runtime.bundle.records import encode
from fctl.runtime.bundle.store import Bundle, sha256, write_manifest
from fctl.runtime.errors import CheckpointError, InputError
from fctl.runtime.segment.batches import PatchBatch, joined, on_host
from fctl.runtime.tiling.windows import TilePlan

from ..gate import gated
from ..onnx_graph import save_model
from ..palette import colours_of
from ..patches import PARITY_PATCHES, parity_images
from ..provenance import provenance
from ..verify import MAX_ERROR, MIN_AGREEMENT, Reference, Samples, Scores
from .answers import settled
from .contract import OLDEST_OPSET
from .crop import margin_of
from .options import Array, Contract, ForeignOptions, ImageInput, first_line, mean_and_std
from .reference import scaled, scores_of
from .wrap import SURROUND, wrapped

log = logging.getLogger(__name__)


def _unchecked(images: Sequence[Array], outputs: Array) -> None:
    """No conversion to check."""


@dataclass(frozen=True, kw_only=True)
class Original:
    """A network as the user brought it.

    Attributes:
        name: What runs it, in words.
        origin: Its name in error messages.
        digest: Its SHA-256.
        run: From scaled images (N, ...), for each of its inputs as it takes them, to its output (N, ...).
        check: Raises an error if a graph that was made of it gives another output for such images.
    """

    name: str
    origin: str
    digest: str
    run: Callable[[Sequence[Array]], Array]
    check: Callable[[Sequence[Array], Array], None] = _unchecked


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
    raw = _raw_images(joined(sample_patches(draft, images, PARITY_PATCHES, seed=0)), contract)
    taken = scaled(raw, contract, options)
    outputs = original.run(taken)
    original.check(taken, outputs)
    options = replace(options, activation=settled(outputs, contract, options, original.origin))

    def run(patches: Array) -> Array:
        return original.run(scaled([patches, *_plain(raw[1:], len(patches))], contract, options))

    margin = margin_of(run, raw[0][:2], contract, options, original.origin)
    contract = replace(contract, margin=margin)
    with atomic_write(out) as folder:
        folder.mkdir()
        graph = _write_graph(wrapped(model, contract, options), folder / f"{SEGMENTER}.onnx", original.origin)
        draft = replace(_manifest(out.stem, contract, options, original.digest), graphs=(graph,))
        write_manifest(folder, draft)
        samples = Samples(batches=sample_patches(draft, images, PARITY_PATCHES, seed=0), source=source)
        manifest = gated(Bundle(folder, draft), _reference(original, contract, options), samples)
    if contract.patch.floating and contract.patch.unscaled:
        log.warning("no `scale`, `mean` or `std`: the network gets raw %s values as they are", contract.raw)
    return manifest


def _raw_images(batch: PatchBatch, contract: Contract) -> list[Array]:
    """Raw pixels (N, bands, side, side) for each image that a network takes."""
    contexts = [image.context.name for image in contract.images if image.context]
    patch = batch.contexts[SURROUND] if contract.margin else batch.patch
    return [on_host(patch), *(batch.pixels_of(name) for name in contexts)]


def _plain(windows: Sequence[Array], count: int) -> list[Array]:
    """Windows in one colour, the mean one: they look the same wherever the patch lies."""
    means = [window.mean((0, 2, 3), keepdims=True, dtype=np.float64).astype(window.dtype) for window in windows]
    return [np.broadcast_to(mean, (count, *window.shape[1:])) for mean, window in zip(means, windows, strict=True)]


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
        return scores_of(original.run(scaled(_raw_images(batch, contract), contract, options)), contract, options)

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
            scaling=_scaling(contract.patch, contract),
            ground_sample_distance=distance,
        ),
        tile=tile,
        plan=TilePlan(kind="stride", overlap=overlap),
        contexts=_contexts(contract),
        merge="cosine",
        graphs=(),
        parity=(),
        provenance=provenance(digest, options.licence),
        extensions=_extensions(contract),
    )


def _scaling(image: ImageInput, contract: Contract) -> Scaling:
    """What a network's image is scaled by, in words of raw pixels."""
    mean, std = mean_and_std(image, contract.bands)
    return Scaling(mean=tuple(map(float, mean)), std=tuple(map(float, std)))


def _extensions(contract: Contract) -> dict[str, object]:
    """The scaling of contexts that are scaled otherwise than the patch: for documentation, as the graph does it."""
    patch = _scaling(contract.patch, contract)
    found = {image.context.name: _scaling(image, contract) for image in contract.images if image.context}
    others = {name: encode(scaling) for name, scaling in found.items() if scaling != patch}
    return {"context_scaling": others} if others else {}


def _contexts(contract: Contract) -> tuple[Context, ...]:
    """The contexts; where a network scores only the middle of its image, that image is a window around the patch."""
    tile, named = contract.scored, [(image, image.context) for image in contract.images if image.context]
    surround = Context(
        name=SURROUND, factor=contract.tile / tile, size=contract.tile, resampling="box", scene=None, encoder=None,
        cells=None,
    )  # fmt: skip
    return (*((surround,) if contract.margin else ()), *(
        Context(
            name=context.name, factor="global" if context.window == "global" else context.window / tile,
            size=image.side, resampling=context.resampling, scene=context.scene, encoder=None, cells=None,
        )
        for image, context in named
    ))  # fmt: skip
