"""What the types of a manifest cannot say: values within bounds, and graphs that fit together."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import BundleError, InputError
from ..tiling.contexts import Cells, CentredContext
from ..tiling.temperature import COOLEST, HOTTEST
from .gathering import GatheredMap
from .manifest import BATCH, DTYPES, SCORES, SEGMENTER, Context, GraphSpec, Manifest, Precision, Refines, TensorSpec

_LARGEST = 1 << 16  # pixels of a tile or a window: beyond any use, and safe to reckon with
_MOST_AXES = 8
_MOST_ELEMENTS = 1 << 30  # of one tensor for one patch: 4 GiB as float32
_LARGEST_BATCH = 1024
_LARGEST_SCENE = 1 << 20  # pixels
_MOST = 64  # contexts of a network: beyond any use too
_ROLE = re.compile(r"\w[\w.-]*")  # files are named after roles

Expect = Callable[[bool, str, object, object], None]
"""Raises BundleError unless the first argument holds; then come the field, what was expected and what was found."""


def check_manifest(manifest: Manifest, path: Path) -> None:
    """Check that a manifest does not contradict itself, and that its values are within bounds.

    Args:
        manifest: The manifest.
        path: Its file, for error messages.

    Raises:
        BundleError: It does not hold; the error names the field.
    """

    def expect(holds: bool, field: str, expected: object, found: object) -> None:
        if not holds:
            raise BundleError(subject=f"{path}: {field}", expected=str(expected), found=found)

    classes, bands = len(manifest.classes), manifest.input.bands
    expect(2 <= classes <= 255, "classes", "2 to 255 classes", classes)
    expect(len(set(manifest.class_names)) == classes, "classes", "distinct names", ", ".join(manifest.class_names))
    for index, info in enumerate(manifest.classes):
        expect(all(0 <= v <= 255 for v in info.colour), f"classes[{index}].colour", "values from 0 to 255", info.colour)
    expect(bands >= 1, "input.bands", "at least 1", bands)
    expect(manifest.input.dtype in DTYPES, "input.dtype", " or ".join(DTYPES), manifest.input.dtype)
    distance = manifest.input.ground_sample_distance
    real = distance is None or (math.isfinite(distance) and distance > 0)
    expect(real, "input.ground_sample_distance", "metres above 0, or null", distance)
    heat = manifest.temperature
    expect(heat is None or COOLEST <= heat <= HOTTEST, "temperature", f"{COOLEST:g} to {HOTTEST:g}", heat)
    expect(1 <= manifest.tile <= _LARGEST, "tile", f"1 to {_LARGEST} pixels", manifest.tile)
    overlap = manifest.plan.overlap
    expect(0 <= overlap < manifest.tile, "plan.overlap", f"0 to {manifest.tile - 1}", overlap)
    if not manifest.sees_patch:
        _check_whole(manifest, expect)
    _check_graphs(manifest, expect)
    if manifest.refines:
        _check_refines(manifest, manifest.refines, expect)


def _check_refines(manifest: Manifest, refines: Refines, expect: Expect) -> None:
    """The input of a refiner is an image and a band for each class, and its scores can be weighed where tiles lack."""
    bands, classes = manifest.input.bands, len(manifest.classes)
    expect(refines.bands >= 1, "refines.bands", "at least 1", refines.bands)
    expect(
        bands == refines.bands + classes, "refines.bands", f"{bands - classes}: input.bands less classes", refines.bands
    )
    expect(manifest.input.dtype == "uint8", "input.dtype", "uint8, for masks", manifest.input.dtype)
    expect(manifest.scores == "probabilities", "refines", "a segmenter that gives probabilities", manifest.scores)


def _check_whole(manifest: Manifest, expect: Expect) -> None:
    """A network that sees whole images and no patches has such contexts, and is told where patches lie in them."""
    expect(manifest.plan.overlap == 0, "plan.overlap", "0 with a plan of kind 'whole'", manifest.plan.overlap)
    expect(bool(manifest.contexts), "contexts", "a global context, which a plan of kind 'whole' shows", "none")
    for index, context in enumerate(manifest.contexts):
        fits = context.factor == "global" and context.cells is not None
        found = "none" if context.factor == "global" else f"factor {context.factor:g}"
        expect(fits, f"contexts[{index}]", "a global context with cells, for a plan of kind 'whole'", found)


def _check_graphs(manifest: Manifest, expect: Expect) -> None:
    """Every precision has one graph for each role; all but the dtype of features is the same in each."""
    names = [context.name for context in manifest.contexts]
    expect(len(names) <= _MOST, "contexts", f"at most {_MOST}", len(names))
    expect(len(set(names)) == len(names), "contexts", "distinct names", ", ".join(names))
    expect(bool(manifest.graphs), "graphs", f"a graph with role {SEGMENTER!r}", "none")
    by_precision: dict[Precision, dict[str, GraphSpec]] = {}
    for index, graph in enumerate(manifest.graphs):
        roles = by_precision.setdefault(graph.precision, {})
        expect(graph.role not in roles, f"graphs[{index}].role", f"one {graph.precision} graph each", graph.role)
        expect(_ROLE.fullmatch(graph.role) is not None, f"graphs[{index}].role", "a name of letters", repr(graph.role))
        roles[graph.role] = graph
        expect(len(roles) <= _MOST + 1, "graphs", f"at most {_MOST + 1} in {graph.precision}", "more")
        tensors = (*graph.inputs, *graph.outputs)
        _check_tensors(tensors, f"graphs[{index}]", expect)
        batches = {tensor.shape[:1] for tensor in tensors}
        encoded = any(context.encoder for context in manifest.contexts)
        fixed = not encoded and all(b and isinstance(b[0], int) and b[0] >= 1 for b in batches)
        batch = f"one batch in all tensors, {BATCH} or, without encoders, a number from 1"
        expect(batches == {(BATCH,)} or (fixed and len(batches) == 1), f"graphs[{index}]", batch, batches)
        small = all(isinstance(b[0], str) or b[0] <= _LARGEST_BATCH for b in batches)
        expect(small, f"graphs[{index}]", f"a batch of at most {_LARGEST_BATCH}", batches)
    for roles in by_precision.values():
        _check_roles(manifest, roles, expect)
    outputs = {(roles[SEGMENTER].outputs[0].name, roles[SEGMENTER].outputs[0].shape) for roles in by_precision.values()}
    expect(len(outputs) == 1, "graphs", "the same output and batch in all precisions", outputs)


def _check_tensors(tensors: Sequence[TensorSpec], field: str, expect: Expect) -> None:
    """The tensors of a graph have names of their own, and shapes that are safe to reckon with."""
    names = [tensor.name for tensor in tensors]
    expect(len(set(names)) == len(names), field, "distinct names of inputs and outputs", ", ".join(names))
    for tensor in tensors:
        sides = [side for side in tensor.shape[1:] if isinstance(side, int)]
        safe = len(sides) == len(tensor.shape[1:]) <= _MOST_AXES and all(1 <= side <= _LARGEST for side in sides)
        expect(safe, f"{field}: {tensor.name}", f"axes of 1 to {_LARGEST} after the batch", tensor.shape)
        fits = math.prod(sides) <= _MOST_ELEMENTS
        expect(fits, f"{field}: {tensor.name}", f"at most {_MOST_ELEMENTS} elements for each patch", tensor.shape)


def _check_roles(manifest: Manifest, roles: dict[str, GraphSpec], expect: Expect) -> None:
    """The graphs of one precision fit together."""
    expect(SEGMENTER in roles, "graphs", f"a graph with role {SEGMENTER!r}", ", ".join(roles) or "none")
    for index, context in enumerate(manifest.contexts):
        _check_context(manifest, roles, context, f"contexts[{index}]", expect)
    segmenter = roles[SEGMENTER]
    names = [name for c in manifest.contexts for name in c.inputs]
    names += [c.positions for c in manifest.contexts if c.cells]
    names = ["patch", *names] if manifest.sees_patch else names
    found = {tensor.name: tensor for tensor in segmenter.inputs}
    expect(set(found) == set(names), "graphs: inputs of the segmenter", ", ".join(names), ", ".join(found))
    bands, tile = manifest.input.bands, manifest.tile
    for context in manifest.contexts:
        for name, output in zip(context.inputs, context.outputs, strict=True):
            taken, field = found[name], f"graphs: {name}"
            batch = taken.shape[0] if taken.shape and not context.encoder else BATCH
            window = TensorSpec(
                name=output, dtype=manifest.input.dtype, shape=(batch, bands, context.size, context.size)
            )
            given = roles[context.encoder].outputs if context.encoder else (window,)
            made = next((tensor for tensor in given if tensor.name == output), None)
            source = f"that {context.encoder} gives" if context.encoder else "as it is cut"
            shape, dtype = (made.shape, made.dtype) if made else ((), "")
            expect(made is not None and shape == taken.shape, field, f"{shape} {source}", taken.shape)
            expect(made is not None and dtype == taken.dtype, field, f"{dtype} {source}", taken.dtype)
        _check_positions(context, found, expect)
    patch = found["patch"].shape if manifest.sees_patch else (BATCH, bands, tile, tile)
    expect(patch[1:] == (bands, tile, tile), "graphs: patch", (BATCH, bands, tile, tile), patch)
    names = [tensor.name for tensor in segmenter.outputs]
    expect(
        len(names) == 1 and names[0] in SCORES, "graphs: outputs of the segmenter", " or ".join(SCORES),
        ", ".join(names),
    )  # fmt: skip
    shape, scores = (len(manifest.classes), tile, tile), segmenter.outputs[0]
    expect(scores.shape[1:] == shape, f"graphs: {scores.name} of the segmenter", (BATCH, *shape), scores.shape)
    expect(scores.dtype == "float32", f"graphs: {scores.name} of the segmenter", "float32", scores.dtype)


def _check_positions(context: Context, found: dict[str, TensorSpec], expect: Expect) -> None:
    """A graph's positions in a context are as many as the manifest says."""
    if context.cells:
        positions, place = found[context.positions], (BATCH, 2, context.cells.patch.count)
        expect(positions.shape == place, f"graphs: {positions.name}", place, positions.shape)


def _check_context(
    manifest: Manifest, roles: dict[str, GraphSpec], context: Context, field: str, expect: Expect
) -> None:
    """One context fits its encoder and the tile."""
    bands, tile, factor = manifest.input.bands, manifest.tile, context.factor
    if context.encoder is not None:
        expect(context.encoder in roles, f"{field}.encoder", "the role of a graph, or null", context.encoder)
        window = {t.name: t.shape[1:] for t in roles[context.encoder].inputs}.get("window")
        expect(window == (bands, context.size, context.size), f"{field}.size", f"{window} of the graph", context.size)
    shared = context.window.shared
    expect(shared or not context.cells, f"{field}.cells", "cells for a global context only", context.cells)
    for cells in (context.cells.patch, context.cells.context) if context.cells else ():
        expect(_are_safe(cells), f"{field}.cells", f"values of 1 to {_LARGEST}", cells)
    expect(1 <= context.size <= _LARGEST, f"{field}.size", f"1 to {_LARGEST} pixels", context.size)
    scene = context.scene
    expect(shared or scene is None, f"{field}.scene", "null: only a global context has one", scene)
    expect(scene is None or scene > tile, f"{field}.scene", f"more than {tile} pixels, or null", scene)
    small = scene is None or scene <= _LARGEST_SCENE
    expect(small, f"{field}.scene", f"at most {_LARGEST_SCENE} pixels, or null", scene)
    if factor != "global":
        pixels = f"a factor that leaves whole pixels on either side of {tile}"
        side = round(factor * tile) if math.isfinite(factor * tile) else 0
        expect(side <= _LARGEST, f"{field}.factor", f"a window of at most {_LARGEST} pixels", factor)
        fits = abs(side - factor * tile) <= 1e-6 * tile and side >= tile and (side - tile) % 2 == 0
        expect(fits, f"{field}.factor", pixels, factor)
    _check_maps(roles, context, f"{field}.maps", expect)
    if context.sharing:
        _check_sharing(manifest, roles, context, f"{field}.sharing", expect)
    if context.gathering:
        _check_gathering(manifest, roles, context, f"{field}.gathering", expect)


def _are_safe(cells: Cells) -> bool:
    """Whether the numbers of a grid of cells are safe to reckon with."""
    return 1 <= cells.stride <= _LARGEST and 1 <= cells.count <= _LARGEST and abs(cells.offset) <= _LARGEST


def _check_maps(roles: dict[str, GraphSpec], context: Context, field: str, expect: Expect) -> None:
    """The maps of a context have names of their own, and its encoder takes what the manifest says."""
    _check_names(context.maps, field, expect)
    alone = context.encoder is not None and context.sharing is None
    expect(not context.maps or alone, field, "none: they take an encoder, and no sharing", ", ".join(context.maps))
    if context.encoder:
        gathered = context.gathering.maps if context.gathering else ()
        names = ["window", *(f"gathered_{one.name}" for one in gathered)]
        taken = [tensor.name for tensor in roles[context.encoder].inputs]
        expect(set(names) == set(taken), f"graphs: inputs of {context.encoder}", ", ".join(names), ", ".join(taken))


def _check_names(names: Sequence[str], field: str, expect: Expect) -> None:
    """Names of maps, of which names of tensors are made."""
    expect(len(names) <= _MOST, field, f"at most {_MOST}", len(names))
    fits = len(set(names)) == len(names) and all(_ROLE.fullmatch(name) for name in names)
    expect(fits, field, "distinct names of letters", ", ".join(map(repr, names)))


def _check_gathering(
    manifest: Manifest, roles: dict[str, GraphSpec], context: Context, field: str, expect: Expect
) -> None:
    """What a context gathers comes from a graph of patches, and goes into its encoder."""
    gathering, bands, tile = context.gathering, manifest.input.bands, manifest.tile
    assert gathering is not None
    bounded = context.factor == "global" and context.scene is not None and context.encoder is not None
    expect(bounded, field, "null: it takes a global context with a scene and an encoder", context.factor)
    earlier = manifest.contexts[: manifest.contexts.index(context)]
    known = {c.name: c for c in earlier if c.window == context.window and c.encoder and not c.gathering}
    expect(gathering.context in known, f"{field}.context", "an earlier one of the same windows", gathering.context)
    overlap = gathering.plan.overlap
    expect(0 <= overlap < tile, f"{field}.plan.overlap", f"0 to {tile - 1}", overlap)
    expect(gathering.plan.kind in ("stride", "even"), f"{field}.plan.kind", "stride or even", gathering.plan.kind)
    expect(gathering.encoder in roles, f"{field}.encoder", "the role of a graph", gathering.encoder)
    _check_names([one.name for one in gathering.maps], f"{field}.maps", expect)
    expect(bool(gathering.maps), f"{field}.maps", "at least one", "none")
    graph, base, segmenter = roles[gathering.encoder], known[gathering.context], roles[SEGMENTER]
    found = {tensor.name: tensor for tensor in graph.inputs}
    names = ["patch", *base.inputs, *([base.positions] if base.cells else [])]
    expect(set(found) == set(names), f"graphs: inputs of {graph.role}", ", ".join(names), ", ".join(found))
    expect(found["patch"].shape[1:] == (bands, tile, tile), f"graphs: patch of {graph.role}", tile, found["patch"])
    same = all(tensor in segmenter.inputs for tensor in graph.inputs)
    expect(same, f"graphs: inputs of {graph.role}", "those of the segmenter", "others")
    outputs = {tensor.name: tensor for tensor in graph.outputs}
    taken = {tensor.name: tensor for tensor in roles[context.encoder or ""].inputs}
    for index, one in enumerate(gathering.maps):
        made, given = outputs.get(f"features_{one.name}"), taken.get(f"gathered_{one.name}")
        _check_gathered(one, made, given, f"{field}.maps[{index}]", expect)


def _check_gathered(
    one: GatheredMap, made: TensorSpec | None, given: TensorSpec | None, field: str, expect: Expect
) -> None:
    """One map fits the graph that makes it of a patch, and the encoder that takes it of a window."""
    for cells, tensor in ((one.patch, made), (one.scene, given)):
        expect(_are_safe(cells), field, f"cells with values of 1 to {_LARGEST}", cells)
        shape = tensor.shape[2:] if tensor else ()
        expect(shape == (cells.count, cells.count), field, f"{shape} of the graph", cells.count)
    channels = (made.shape[1], given.shape[1]) if made and given else (0, 1)
    expect(channels[0] == channels[1], field, "as many channels of patches as of the window", channels)
    expect(given is not None and given.dtype == "float32", field, "float32 of the window", given and given.dtype)


def _check_sharing(
    manifest: Manifest, roles: dict[str, GraphSpec], context: Context, field: str, expect: Expect
) -> None:
    """The windows in which a context is encoded once a raster fit their graph, and what patches expect."""
    sharing, bands = context.sharing, manifest.input.bands
    assert sharing is not None
    centred = context.factor != "global" and context.encoder is not None
    expect(centred, field, "null: only a centred context with an encoder can be encoded once a raster", context.factor)
    expect(1 <= sharing.size <= _LARGEST, f"{field}.size", f"1 to {_LARGEST} pixels", sharing.size)
    for cells in (sharing.cells, sharing.own):
        expect(_are_safe(cells), field, f"cells with values of 1 to {_LARGEST}", cells)
    window, span = context.window, 0
    try:
        if isinstance(window, CentredContext):
            span = int(sharing.lattice(manifest.tile, window.side(manifest.tile), context.size).span)
    except InputError as error:
        expect(False, field, "windows on a lattice", error)
    expect(span <= _LARGEST, f"{field}.size", f"windows of at most {_LARGEST} pixels of the raster", span)
    expect(0 <= sharing.begin <= _LARGEST, f"{field}.begin", f"0 to {_LARGEST} cells", sharing.begin)
    pieces = -(-sharing.cells.count // sharing.kept)
    expect(pieces <= _MOST, f"{field}.kept", f"the cells of a patch in at most {_MOST} windows a side", pieces)
    graphs = [g for g in manifest.graphs if g.role == sharing.encoder and g.precision in ("fp32", *_of(roles))]
    expect(bool(graphs), f"{field}.encoder", "the role of a graph", sharing.encoder)
    made = {tensor.name: tensor for tensor in roles[context.encoder or ""].outputs}.get("features")
    for graph in graphs:
        taken = {t.name: t.shape[1:] for t in graph.inputs}.get("window")
        expect(taken == (bands, sharing.size, sharing.size), f"{field}.size", f"{taken} of the graph", sharing.size)
        given = {t.name: t for t in graph.outputs}.get("features")
        wanted = (*made.shape[1:2], sharing.own.count, sharing.own.count) if made else ()
        expect(given is not None and given.shape[1:] == wanted, f"{field}.own", wanted, given and given.shape[1:])
    own = [graph for graph in graphs if graph.precision in _of(roles)] or graphs
    dtypes = {tensor.dtype for graph in own for tensor in graph.outputs}
    expect(made is not None and dtypes == {made.dtype}, f"{field}.encoder", f"{made and made.dtype} features", dtypes)
    shape = made.shape[2:] if made else ()
    count = sharing.cells.count
    expect(shape == (count, count), f"{field}.cells", f"{shape} of {context.encoder}", count)


def _of(roles: dict[str, GraphSpec]) -> set[Precision]:
    return {graph.precision for graph in roles.values()}
