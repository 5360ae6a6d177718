"""The bundle: a folder ``NAME.fctl/`` with ``manifest.json`` and ONNX graphs. The contract of export and runtime.

Tensors have fixed names. An encoder graph turns ``window`` (N, bands, S, S) into ``features`` (N, C, H, W); the
segmenter graph takes ``patch`` (N, bands, P, P), ``features_NAME`` for each context, ``window_NAME`` where it encodes
the context itself, and ``positions_NAME`` (N, 2, h) where it must know the patch's place in a context that moves. It
gives ``logits`` or ``probabilities`` (N, classes, P, P). N, the batch, is symbolic; without contexts it may be fixed.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .contexts import Cells, ContextWindow, Resampling
from .errors import BundleError
from .records import RecordError, decode, encode
from .windows import Plan

SCHEMA = "1.0"
MANIFEST = "manifest.json"
DEFAULT = "default"
SEGMENTER = "segmenter"
BATCH = "N"
_LARGEST = 1 << 16  # pixels of a tile: beyond any use, and safe to reckon with
DTYPES = ("uint8", "uint16", "int16", "float32")

Precision = Literal["fp32", "fp16", "int8"]
Merge = Literal["uniform", "cosine"]
Scores = Literal["logits", "probabilities"]
SCORES: tuple[Scores, ...] = ("logits", "probabilities")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassInfo:
    """One class; its id is its place in the list. colour: red, green, blue from 0 to 255."""

    name: str
    colour: tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """Scaling inside the graphs, (raw - mean) / std per band: for documentation, since raw pixels go in."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """What a raster must have. ground_sample_distance: metres per pixel of the training imagery, if known."""

    bands: int
    dtype: str
    scaling: Scaling | None
    ground_sample_distance: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MovingCells:
    """The grids from which a moving context's ``positions_NAME`` are computed."""

    patch: Cells
    context: Cells


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One context: its window (factor of the tile, or "global"), size after resampling, and its encoder's role.

    scene: for a global context the side of the training images, if known (`ContextWindow`). encoder: None where the
    segmenter takes the raw window. cells: None where it does not need the patch's place in the window.
    """

    name: str
    factor: float | Literal["global"]
    size: int
    resampling: Resampling
    scene: int | None
    encoder: str | None
    cells: MovingCells | None

    @property
    def window(self) -> ContextWindow:
        """How to cut it."""
        return ContextWindow(factor=self.factor, size=self.size, resampling=self.resampling, scene=self.scene)

    @property
    def input(self) -> str:
        """The segmenter's input for this context: its features, or its raw window."""
        return f"features_{self.name}" if self.encoder else f"window_{self.name}"

    @property
    def positions(self) -> str:
        """The segmenter's input for where the patch lies in this context, if it takes one."""
        return f"positions_{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """Name, dtype and shape of a graph's input or output; the first axis is the batch, "N" unless it is fixed."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """One ONNX file: what it does (``segmenter`` or an encoder's role), and in which precision."""

    role: str
    precision: Precision
    file: str
    sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextEffect:
    """max |change of the logits| / max |logit| when a context is replaced by another patch's."""

    name: str
    change: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """Graphs of one precision compared with `reference` on real patches.

    max_error: max |difference| / max |logit|; agreement: share of pixels with the same class; classes: those
    predicted there. original_agreement: agreement with the checkpoint before its weights were rounded, if they were.
    """

    precision: Precision
    reference: str
    patches: int
    source: str
    classes: tuple[str, ...]
    max_error: float
    agreement: float
    original_agreement: float | None
    contexts: tuple[ContextEffect, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where the bundle comes from. created: ISO date; tools: versions by name."""

    checkpoint_sha256: str
    licence: str | None
    created: str
    tools: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """All that the runtime knows of a network. `network` and `extensions` it only passes on."""

    schema: str
    name: str
    network: dict[str, Any] | None
    classes: tuple[ClassInfo, ...]
    input: InputSpec
    tile: int
    plan: Plan
    contexts: tuple[Context, ...]
    merge: Merge
    graphs: tuple[Graph, ...]
    parity: tuple[Parity, ...]
    provenance: Provenance
    extensions: dict[str, Any]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names by id."""
        return tuple(info.name for info in self.classes)

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Those that it holds graphs of, in order."""
        return tuple(dict.fromkeys(graph.precision for graph in self.graphs))

    @property
    def segmenter(self) -> Graph:
        """The segmenter graph, of the first precision; names and shapes are the same in all."""
        return next(graph for graph in self.graphs if graph.role == SEGMENTER)

    @property
    def fixed_batch(self) -> int | None:
        """The only batch size that the segmenter takes, None where it takes any."""
        batch = self.segmenter.inputs[0].shape[0]
        return batch if isinstance(batch, int) else None

    @property
    def scores(self) -> Scores:
        """What the segmenter gives for each class, and overlapping tiles are averaged in."""
        return "logits" if self.segmenter.outputs[0].name == "logits" else "probabilities"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that was read and verified."""

    folder: Path
    manifest: Manifest

    def graph(self, role: str, precision: Precision) -> tuple[Path, Graph]:
        """File and description of one graph; BundleError lists what there is."""
        for graph in self.manifest.graphs:
            if (graph.role, graph.precision) == (role, precision):
                return self.folder / graph.file, graph
        found = ", ".join(f"{graph.role} {graph.precision}" for graph in self.manifest.graphs)
        images = " --calib IMAGES" if precision == "int8" else ""
        raise BundleError(
            f"{self.folder} holds no {precision} graph {role!r}; it holds {found}; "
            f"make one that does: fctl-export {called(self.folder)} --precision {precision}{images} --out NAME.fctl"
        )


def read_bundle(name: str | Path) -> Bundle:
    """Read a bundle and verify every file: a folder, or ``default`` for the one shipped with fctl.

    Raises BundleError with the field, what was expected and what was found.
    """
    folder = _locate(name)
    manifest = _read_manifest(folder)
    for index, graph in enumerate(manifest.graphs):
        _verify_file(folder, graph, f"graphs[{index}]")
    return Bundle(folder, manifest)


def called(folder: Path) -> str:
    """What to call a bundle on a command line."""
    return DEFAULT if folder == _locate(DEFAULT) else str(folder)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` into a bundle that is being made. Raises BundleError where it contradicts itself."""
    _check(manifest, folder / MANIFEST)
    text = json.dumps(encode(manifest), indent=2, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _locate(name: str | Path) -> Path:
    if str(name) == DEFAULT:
        return Path(__file__).parent / "bundles" / "default.fctl"
    folder = Path(name)
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise BundleError(
            f"{folder}: expected a bundle folder (NAME.fctl), found {found}; "
            f"make one with fctl-export, or use {DEFAULT!r}"
        )
    return folder


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(f"{path}: expected the manifest of a bundle, found no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: expected JSON, found {error}") from None
    schema = document.get("schema") if isinstance(document, dict) else None
    major = SCHEMA.partition(".")[0]
    if not isinstance(schema, str) or schema.partition(".")[0] != major:
        raise BundleError(f"{path}: schema: expected {major}.x, found {schema!r}; use a matching fctl")
    try:
        manifest = decode(Manifest, document)
    except (RecordError, ValueError) as error:
        raise BundleError(f"{path}: {error}") from None
    _check(manifest, path)
    return manifest


def _verify_file(folder: Path, graph: Graph, field: str) -> None:
    path = folder / graph.file
    if Path(graph.file).is_absolute() or ".." in Path(graph.file).parts:
        raise BundleError(f"{folder}: {field}.file: expected a file in the bundle's folder, found {graph.file!r}")
    if not path.is_file():
        raise BundleError(f"{folder}: {field}.file: expected {graph.file!r}, found no such file; copy the bundle whole")
    found = sha256(path)
    if found != graph.sha256:
        raise BundleError(
            f"{folder}: {field}.sha256: expected {graph.sha256[:12]}..., found {found[:12]}... for {graph.file}; "
            "the file was changed or damaged, export the bundle again"
        )


def _check(manifest: Manifest, path: Path) -> None:
    """What the types cannot say."""

    def expect(holds: bool, field: str, expected: str, found: object) -> None:
        if not holds:
            raise BundleError(f"{path}: {field}: expected {expected}, found {found}")

    classes, bands = len(manifest.classes), manifest.input.bands
    expect(2 <= classes <= 255, "classes", "2 to 255 classes", classes)
    expect(len(set(manifest.class_names)) == classes, "classes", "distinct names", ", ".join(manifest.class_names))
    for index, info in enumerate(manifest.classes):
        expect(all(0 <= v <= 255 for v in info.colour), f"classes[{index}].colour", "values from 0 to 255", info.colour)
    expect(bands >= 1, "input.bands", "at least 1", bands)
    expect(manifest.input.dtype in DTYPES, "input.dtype", " or ".join(DTYPES), manifest.input.dtype)
    expect(1 <= manifest.tile <= _LARGEST, "tile", f"1 to {_LARGEST} pixels", manifest.tile)
    overlap = manifest.plan.overlap
    expect(0 <= overlap < manifest.tile, "plan.overlap", f"0 to {manifest.tile - 1}", overlap)
    _check_graphs(manifest, expect)


def _check_graphs(manifest: Manifest, expect: Any) -> None:
    """Every precision has one graph for each role; all but the dtype of features is the same in each."""
    names = [context.name for context in manifest.contexts]
    expect(len(set(names)) == len(names), "contexts", "distinct names", ", ".join(names))
    expect(bool(manifest.graphs), "graphs", f"a graph with role {SEGMENTER!r}", "none")
    by_precision: dict[Precision, dict[str, Graph]] = {}
    for index, graph in enumerate(manifest.graphs):
        roles = by_precision.setdefault(graph.precision, {})
        expect(graph.role not in roles, f"graphs[{index}].role", f"one {graph.precision} graph each", graph.role)
        roles[graph.role] = graph
        tensors = (*graph.inputs, *graph.outputs)
        batches = {tensor.shape[:1] for tensor in tensors}
        fixed = not manifest.contexts and all(b and isinstance(b[0], int) and b[0] >= 1 for b in batches)
        batch = f"one batch in all tensors, {BATCH} or, without contexts, a number from 1"
        expect(batches == {(BATCH,)} or (fixed and len(batches) == 1), f"graphs[{index}]", batch, batches)
    for roles in by_precision.values():
        _check_roles(manifest, roles, expect)
    outputs = {(roles[SEGMENTER].outputs[0].name, roles[SEGMENTER].outputs[0].shape) for roles in by_precision.values()}
    expect(len(outputs) == 1, "graphs", "the same output and batch in all precisions", outputs)


def _check_roles(manifest: Manifest, roles: dict[str, Graph], expect: Any) -> None:
    """The graphs of one precision fit together."""
    expect(SEGMENTER in roles, "graphs", f"a graph with role {SEGMENTER!r}", ", ".join(roles) or "none")
    for index, context in enumerate(manifest.contexts):
        _check_context(manifest, roles, context, f"contexts[{index}]", expect)
    segmenter = roles[SEGMENTER]
    names = ["patch", *(c.input for c in manifest.contexts), *(c.positions for c in manifest.contexts if c.cells)]
    found = {tensor.name: tensor for tensor in segmenter.inputs}
    expect(set(found) == set(names), "graphs: inputs of the segmenter", ", ".join(names), ", ".join(found))
    bands, tile = manifest.input.bands, manifest.tile
    for context in manifest.contexts:
        taken, field = found[context.input], f"graphs: {context.input}"
        window = TensorSpec(name="", dtype=manifest.input.dtype, shape=(BATCH, bands, context.size, context.size))
        given = roles[context.encoder].outputs if context.encoder else (window,)
        made = next((tensor for tensor in given if tensor.name in ("features", "")), None)
        source = f"that {context.encoder} gives" if context.encoder else "as it is cut"
        expect(made is not None and made.shape == taken.shape, field, f"{made and made.shape} {source}", taken.shape)
        expect(made is not None and made.dtype == taken.dtype, field, f"{made and made.dtype} {source}", taken.dtype)
    patch = found["patch"].shape
    expect(patch[1:] == (bands, tile, tile), "graphs: patch", (BATCH, bands, tile, tile), patch)
    names = [tensor.name for tensor in segmenter.outputs]
    expect(
        len(names) == 1 and names[0] in SCORES, "graphs: outputs of the segmenter", " or ".join(SCORES),
        ", ".join(names),
    )  # fmt: skip
    shape, scores = (len(manifest.classes), tile, tile), segmenter.outputs[0]
    expect(scores.shape[1:] == shape, f"graphs: {scores.name} of the segmenter", (BATCH, *shape), scores.shape)
    expect(scores.dtype == "float32", f"graphs: {scores.name} of the segmenter", "float32", scores.dtype)


def _check_context(manifest: Manifest, roles: dict[str, Graph], context: Context, field: str, expect: Any) -> None:
    bands, tile, factor = manifest.input.bands, manifest.tile, context.factor
    if context.encoder is not None:
        expect(context.encoder in roles, f"{field}.encoder", "the role of a graph, or null", context.encoder)
        window = {t.name: t.shape[1:] for t in roles[context.encoder].inputs}.get("window")
        expect(window == (bands, context.size, context.size), f"{field}.size", f"{window} of the graph", context.size)
    moves = factor == "global"
    expect(moves or not context.cells, f"{field}.cells", "cells for a global context only", context.cells)
    scene = context.scene
    expect(moves or scene is None, f"{field}.scene", "null: only a global context has one", scene)
    expect(scene is None or scene > tile, f"{field}.scene", f"more than {tile} pixels, or null", scene)
    if factor != "global":
        pixels = f"a factor that leaves whole pixels on either side of {tile}"
        side = round(factor * tile) if math.isfinite(factor * tile) else 0
        whole = abs(side - factor * tile) <= 1e-6 * tile and side >= tile and (side - tile) % 2 == 0
        expect(whole, f"{field}.factor", pixels, factor)
