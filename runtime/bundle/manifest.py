"""The bundle: a folder ``NAME.fctl/`` with ``manifest.json`` and ONNX graphs. The contract of export and runtime.

Tensors have fixed names. An encoder graph turns ``window`` (N, bands, S, S) into ``features`` (N, C, H, W); the
segmenter graph takes ``patch`` (N, bands, P, P), ``features_NAME`` for each context, ``window_NAME`` where it encodes
the context itself, and ``positions_NAME`` (N, 2, h) where it must know the patch's place in a context that moves. It
gives ``logits`` or ``probabilities`` (N, classes, P, P). N, the batch, is symbolic; without contexts it may be fixed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..tiling.contexts import Cells, ContextWindow
from ..tiling.resampling import Resampling
from ..tiling.windows import TilePlan

SCHEMA = "1.0"
SEGMENTER = "segmenter"
BATCH = "N"
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
class GraphSpec:
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
    plan: TilePlan
    contexts: tuple[Context, ...]
    merge: Merge
    graphs: tuple[GraphSpec, ...]
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
    def segmenter(self) -> GraphSpec:
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
