"""The staged graphs of a bundle as one graph, from raw patch and context windows to scores. Needs no torch."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

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

from .onnx_graph import save_model

# Of max |score|. The same nodes compute the same. But ONNX Runtime runs most fp16 nodes in fp32 on a CPU, and drops the
# roundings in between: features that are an output are rounded, and those inside a graph are not.
MAX_ERROR: dict[Precision, float] = {"fp32": 1e-5, "fp16": 1e-2, "int8": 1e-5}
_PATCHES = 2  # of random and of real ones each, so that the symbolic batch is tried too

Arrays = dict[str, NDArray[Any]]


def fused_interface(bundle: Bundle, precision: Precision) -> tuple[tuple[TensorSpec, ...], TensorSpec]:
    """Inputs of the fused graph, as docs/bundle.md names and orders them, and its output."""
    _, segmenter = bundle.graph(SEGMENTER, precision)
    taken = {spec.name: spec for spec in segmenter.inputs}
    contexts = bundle.manifest.contexts
    windows = [_window(bundle, context, precision) or taken[context.input] for context in contexts]
    positions = [taken[context.positions] for context in contexts if context.cells]
    return (taken["patch"], *windows, *positions), segmenter.outputs[0]


def fused_model(bundle: Bundle, precision: Precision = "fp32") -> onnx.ModelProto:
    """One model of a bundle's graphs of one precision; the segmenter as it is where it takes raw windows already.

    An encoder that serves several contexts runs once for each, on the same weights. Opset and IR version are the
    graphs' own. Raises BundleError where the bundle lacks the precision, or its graphs do not fit each other.
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


def write_fused(bundle: Bundle, path: Path, *, precision: Precision = "fp32", patches: Sequence[Path] = ()) -> GraphSpec:
    """Write the fused graph, and return its description; a graph that is fused already is copied byte by byte.

    One that was fused here is compared with the staged graphs in ONNX Runtime, on random patches and on real ones:
    `patches`, images or folders; those shipped with fctl, where they fit. Raises ParityError when the largest
    difference exceeds 1e-5 of the largest score (fp16: 1e-2), EngineError, and what `fused_model` and `sample_patches`
    raise.
    """
    inputs, output = fused_interface(bundle, precision)
    if not _is_staged(bundle.manifest):
        shutil.copyfile(bundle.graph(SEGMENTER, precision)[0], path)
    else:
        save_model(fused_model(bundle, precision), path)
    graph = GraphSpec(
        role=SEGMENTER, precision=precision, file=path.name, sha256=sha256(path), inputs=inputs, outputs=(output,)
    )
    if _is_staged(bundle.manifest):
        _verify(bundle, path, graph, patches)
    return graph


def _is_staged(manifest: Manifest) -> bool:
    return any(context.encoder for context in manifest.contexts)


def _window(bundle: Bundle, context: Context, precision: Precision) -> TensorSpec | None:
    """The raw window of a context that an encoder of its own takes."""
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
            f"{folder}: the graphs of {context.encoder} and {SEGMENTER} cannot be fused: {reason}; "
            "export the network anew, with --graph fused"
        ) from error


def _name_opsets_once(model: onnx.ModelProto) -> None:
    """Merging lists every model's opsets one after the other; it has checked that they are the same."""
    versions = {entry.domain: entry.version for entry in model.opset_import}
    del model.opset_import[:]
    model.opset_import.extend(onnx.helper.make_opsetid(domain, version) for domain, version in versions.items())


def _share_initializers(graph: onnx.GraphProto) -> None:
    """Keep one of each set of equal initialisers: an encoder that serves two contexts was copied with its weights."""
    first: dict[bytes, str] = {}
    shared = {tensor.name: first.setdefault(_content(tensor), tensor.name) for tensor in graph.initializer}
    for index in reversed(range(len(graph.initializer))):
        if shared[graph.initializer[index].name] != graph.initializer[index].name:
            del graph.initializer[index]
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = shared.get(name, name)


def _content(tensor: onnx.TensorProto) -> bytes:
    """A digest of everything but the name."""
    nameless = onnx.TensorProto()
    nameless.CopyFrom(tensor)
    nameless.ClearField("name")
    return hashlib.sha256(nameless.SerializeToString(deterministic=True)).digest()


def _order_inputs(graph: onnx.GraphProto, names: list[str]) -> None:
    ordered = sorted(graph.input, key=lambda value: names.index(value.name))
    del graph.input[:]
    graph.input.extend(ordered)


def _verify(bundle: Bundle, path: Path, graph: GraphSpec, places: Sequence[Path]) -> None:
    output, limit = graph.outputs[0].name, MAX_ERROR[graph.precision]
    errors = []
    for probe in (_random(graph), *_real(bundle.manifest, places)):
        expected = _staged_scores(bundle, graph.precision, probe)
        errors.append(float(np.abs(_run(path, output, probe) - expected).max() / np.abs(expected).max()))
    if not all(error <= limit for error in errors):  # also catches NaN
        raise ParityError(
            f"the fused graph of {bundle.folder} differs from its staged ones: max |difference| / max |score|: "
            f"expected at most {limit:g}, found {max(errors):.2e}; export the network anew, with --graph fused"
        )


def _random(graph: GraphSpec) -> Arrays:
    """Noise over the whole range of each input; floats from 0 to 1."""
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
    arrays = {"patch": np.concatenate([batch.patch for batch in batches])}
    for context in manifest.contexts:
        arrays[_window_name(context)] = np.concatenate([batch.contexts[context.name] for batch in batches])
        if context.cells:
            arrays[context.positions] = np.concatenate([batch.positions[context.name] for batch in batches])
    return [arrays]


def _staged_scores(bundle: Bundle, precision: Precision, raw: Arrays) -> NDArray[Any]:
    inputs = {name: array for name, array in raw.items() if not name.startswith("window_")}
    for context in bundle.manifest.contexts:
        window = raw[_window_name(context)]
        if context.encoder:
            path, _ = bundle.graph(context.encoder, precision)
            inputs[context.input] = _run(path, "features", {"window": window})
        else:
            inputs[context.input] = window
    return _run(bundle.graph(SEGMENTER, precision)[0], bundle.manifest.scores, inputs)


def _run(path: Path, output: str, inputs: Arrays) -> NDArray[Any]:
    """Node by node as they are written: the optimiser merges int8 nodes across what was the border of two graphs."""
    try:
        return np.asarray(load_session(path, optimised=False).run([output], inputs)[0])
    except Exception as error:  # its exceptions share no base class of their own
        reason = str(error).strip().splitlines()[0]
        raise EngineError(f"ONNX Runtime cannot run {path}: {reason}; export the bundle again") from error
