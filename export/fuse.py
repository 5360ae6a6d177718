"""The staged graphs of a bundle as one graph, from raw patch and context windows to scores. Needs no torch."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.compose
import onnx.helper
from numpy.typing import NDArray

from fctl.calib.onnx_session import load_session
from fctl.calib.sample import find_images, sample_patches, shipped_images
from fctl.runtime.bundle.manifest import SEGMENTER, Context, GraphSpec, Manifest, Precision, TensorSpec
from fctl.runtime.bundle.store import Bundle, sha256
from fctl.runtime.errors import BundleError, EngineError, ParityError
from fctl.runtime.segment.batches import on_host

from .onnx_graph import save_model

# Largest error, relative to max |score|. The same nodes compute the same. But ONNX Runtime runs most fp16 nodes in fp32
# on a CPU, and drops the roundings in between: it rounds features that are an output, and not those inside a graph.
MAX_ERROR: dict[Precision, float] = {"fp32": 1e-5, "fp16": 1e-2, "int8": 1e-5}
_PATCHES = 2  # of random and of real ones each, so that the symbolic batch is tried too

Array = NDArray[np.generic]
Arrays = dict[str, Array]


def fused_interface(bundle: Bundle, precision: Precision) -> tuple[tuple[TensorSpec, ...], TensorSpec]:
    """Describe the fused graph of a bundle, as docs/bundle.md names and orders its inputs.

    Args:
        bundle: The bundle.
        precision: The precision of the graphs.

    Returns:
        The specs of the inputs, and of the output.

    Raises:
        BundleError: The bundle has no graphs of the precision.
    """
    if only := bundle.manifest.host_only:
        raise BundleError(f"{only}: its graphs cannot be one", subject=bundle.folder)
    _, segmenter = bundle.graph(SEGMENTER, precision)
    taken = {spec.name: spec for spec in segmenter.inputs}
    contexts = bundle.manifest.contexts
    windows = [_window(bundle, context, precision) or taken[context.input] for context in contexts]
    positions = [taken[context.positions] for context in contexts if context.cells]
    patch = [taken["patch"]] if bundle.manifest.sees_patch else []
    return (*patch, *windows, *positions), segmenter.outputs[0]


def fused_model(bundle: Bundle, precision: Precision = "fp32") -> onnx.ModelProto:
    """Connect a bundle's graphs of one precision.

    An encoder that serves several contexts runs once for each of them, on the same weights.

    Args:
        bundle: The bundle.
        precision: The precision of the graphs.

    Returns:
        One model with the opset and IR version of the graphs; the segmenter itself where it takes raw windows already.

    Raises:
        BundleError: The bundle has no graphs of the precision, or its graphs do not fit each other.
    """
    manifest = bundle.manifest
    model = onnx.load(bundle.graph(SEGMENTER, precision)[0])
    if not _is_staged(manifest):
        return model
    for context in reversed(manifest.contexts):  # each comes before what there is: the first ends up in front
        if context.encoder:
            encoder = onnx.load(bundle.graph(context.encoder, precision)[0])
            model = _connected(encoder, model, context, bundle.folder)
    _name_opsets_once(model)
    _share_initializers(model.graph)
    _order_inputs(model.graph, [spec.name for spec in fused_interface(bundle, precision)[0]])
    model.graph.name = SEGMENTER
    return model


def write_fused(
    bundle: Bundle, path: Path, *, precision: Precision = "fp32", patches: Sequence[Path] = ()
) -> GraphSpec:
    """Write the fused graph of a bundle; a graph that is fused already is copied byte by byte.

    A graph that is fused here is compared with the staged graphs in ONNX Runtime, on random patches and on real ones.

    Args:
        bundle: The bundle.
        path: The file to write.
        precision: The precision of the graphs.
        patches: Images or folders of images for the comparison; empty for those shipped with fctl, where they fit.

    Returns:
        The description of the graph.

    Raises:
        BundleError: The bundle has no graphs of the precision, or its graphs do not fit each other.
        ParityError: The largest difference exceeds 1e-5 of the largest score (fp16: 1e-2).
        EngineError: ONNX Runtime cannot run a graph.
        InputError: There are no images among `patches`.
        RasterError: An image cannot be read, or does not fit the bundle.
    """
    inputs, output = fused_interface(bundle, precision)
    if not _is_staged(bundle.manifest):
        shutil.copyfile(bundle.graph(SEGMENTER, precision)[0], path)
    else:
        save_model(fused_model(bundle, precision), path)
    graph = GraphSpec(
        role=SEGMENTER, precision=precision, file=path.name, sha256=sha256(path), bytes=path.stat().st_size,
        inputs=inputs, outputs=(output,),
    )  # fmt: skip
    if _is_staged(bundle.manifest):
        _verify(bundle, path, graph, patches)
    return graph


def _is_staged(manifest: Manifest) -> bool:
    return any(context.encoder for context in manifest.contexts)


def _window(bundle: Bundle, context: Context, precision: Precision) -> TensorSpec | None:
    """The spec of a context's raw window, where an encoder graph takes it."""
    if context.encoder is None:
        return None
    window = bundle.graph(context.encoder, precision)[1].inputs[0]
    return replace(window, name=_window_name(context))


def _window_name(context: Context) -> str:
    return f"window_{context.name}"


def _connected(encoder: onnx.ModelProto, rest: onnx.ModelProto, context: Context, folder: Path) -> onnx.ModelProto:
    """An encoder in front of a graph that takes its features, under names of its own for this context."""
    prefix = f"{context.name}/"
    names = {"window": _window_name(context)}
    onnx.compose.add_prefix_graph(encoder.graph, prefix, rename_inputs=False, inplace=True, name_map=names)
    try:
        return onnx.compose.merge_models(encoder, rest, io_map=[(f"{prefix}features", context.input)])
    except ValueError as error:  # other opsets, or names that collide
        reason = str(error).strip().splitlines()[0]
        raise BundleError(
            f"the graphs of {context.encoder} and {SEGMENTER} cannot be fused: {reason}",
            subject=folder,
            remedy="export the network anew, with `graph` fused",
        ) from error


def _name_opsets_once(model: onnx.ModelProto) -> None:
    """List each opset once: merging appends the lists of all models, and has checked that they are the same."""
    versions = {entry.domain: entry.version for entry in model.opset_import}
    del model.opset_import[:]
    model.opset_import.extend(onnx.helper.make_opsetid(domain, version) for domain, version in versions.items())


def _share_initializers(graph: onnx.GraphProto) -> None:
    """Keep one of each set of equal initialisers: an encoder for two contexts was copied together with its weights."""
    first: dict[bytes, str] = {}
    shared = {tensor.name: first.setdefault(_content(tensor), tensor.name) for tensor in graph.initializer}
    for index in reversed(range(len(graph.initializer))):
        if shared[graph.initializer[index].name] != graph.initializer[index].name:
            del graph.initializer[index]
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = shared.get(name, name)


def _content(tensor: onnx.TensorProto) -> bytes:
    """A digest of everything in a tensor but its name."""
    nameless = onnx.TensorProto()
    nameless.CopyFrom(tensor)
    nameless.ClearField("name")
    return hashlib.sha256(nameless.SerializeToString(deterministic=True)).digest()


def _order_inputs(graph: onnx.GraphProto, names: list[str]) -> None:
    ordered = sorted(graph.input, key=lambda value: names.index(value.name))
    del graph.input[:]
    graph.input.extend(ordered)


def _verify(bundle: Bundle, path: Path, graph: GraphSpec, places: Sequence[Path]) -> None:
    """Raise ParityError where a fused graph differs from the staged ones."""
    output, limit = graph.outputs[0].name, MAX_ERROR[graph.precision]
    errors = []
    for probe in (_random(graph), *_real(bundle.manifest, places)):
        expected = np.asarray(_staged_scores(bundle, graph.precision, probe), np.float32)
        found = np.asarray(_run(path, output, probe), np.float32)
        errors.append(float(np.abs(found - expected).max() / np.abs(expected).max()))
    if not all(error <= limit for error in errors):  # also catches NaN
        raise ParityError(
            subject=f"the fused graph of {bundle.folder} differs from its staged ones: max |difference| / max |score|",
            expected=f"at most {limit:g}",
            found=f"{max(errors):.2e}",
            remedy="export the network anew, with `graph` fused",
        )


def _random(graph: GraphSpec) -> Arrays:
    """Noise over the full range of each integer input; floats from 0 to 1."""
    random = np.random.default_rng(0)
    arrays: Arrays = {}
    for spec in graph.inputs:
        shape = (_PATCHES, *(int(side) for side in spec.shape[1:]))
        kind = np.dtype(spec.dtype)
        if kind.kind in "iu":
            limits = np.iinfo(kind)
            arrays[spec.name] = random.integers(limits.min, limits.max, shape, kind, endpoint=True)
        else:
            arrays[spec.name] = random.random(shape).astype(kind)
    return arrays


def _real(manifest: Manifest, places: Sequence[Path]) -> list[Arrays]:
    """A batch of real patches, where there are any: the shipped images have 3 bands of uint8."""
    fits = (manifest.input.bands, manifest.input.dtype) == (3, "uint8")
    images = find_images(places) if places else shipped_images() if fits else ()
    if not images:
        return []
    batches = sample_patches(manifest, images, _PATCHES, seed=0)
    arrays = {"patch": np.concatenate([on_host(batch.patch) for batch in batches])} if manifest.sees_patch else {}
    for context in manifest.contexts:
        arrays[_window_name(context)] = np.concatenate([batch.pixels_of(context.name) for batch in batches])
        if context.cells:
            arrays[context.positions] = np.concatenate([batch.positions[context.name] for batch in batches])
    return [arrays]


def _staged_scores(bundle: Bundle, precision: Precision, raw: Arrays) -> Array:
    inputs = {name: array for name, array in raw.items() if not name.startswith("window_")}
    for context in bundle.manifest.contexts:
        window = raw[_window_name(context)]
        if context.encoder:
            path, _ = bundle.graph(context.encoder, precision)
            inputs[context.input] = _run(path, "features", {"window": window})
        else:
            inputs[context.input] = window
    return _run(bundle.graph(SEGMENTER, precision)[0], bundle.manifest.scores, inputs)


def _run(path: Path, output: str, inputs: Arrays) -> Array:
    """Run a graph node by node, unoptimised: the optimiser merges int8 nodes across the seam of two graphs."""
    try:
        return np.asarray(load_session(path, optimised=False).run([output], inputs)[0])
    except Exception as error:  # its exceptions share no base class of their own
        reason = str(error).strip().splitlines()[0]
        raise EngineError(f"ONNX Runtime cannot run {path}: {reason}", remedy="export the bundle again") from error
