"""The bundle: a folder ``NAME.fctl/`` with ``manifest.json`` and ONNX graphs. The contract of export and runtime.

Tensors have fixed names. An encoder graph turns ``window`` (N, bands, S, S) into ``features`` (N, C, H, W); the
segmenter graph takes ``patch`` (N, bands, P, P), ``features_NAME`` for each context, ``window_NAME`` where it encodes
the context itself, and ``positions_NAME`` (N, 2, h) where it must know the patch's place in a shared context. It
gives ``logits`` or ``probabilities`` (N, classes, P, P). N, the batch, is symbolic; without encoders it may be fixed.
With a plan of kind "whole" there is no ``patch``.
A context of several maps has ``features_MAP`` of its encoder, and ``features_NAME_MAP`` of the segmenter, for each map.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from .. import choices
from ..tiling.contexts import Cells, CentredContext, ContextWindow, context_window
from ..tiling.lattice import Lattice
from ..tiling.resampling import Resampling
from ..tiling.windows import TilePlan
from .gathering import Gathering
from .parity import Parity
from .records import OPTIONAL
from .verdicts import Bf16Verdict, EngineVerdict, SelfCheck, SharedVerdict

SCHEMA = "1.5"
"""The format that is written.

1.1 added `GraphSpec.bytes`, `Parity.class_iou`, `Manifest.engines` and `Manifest.check`; 1.2 `Context.sharing`,
`Manifest.sharing` and `Manifest.temperature`; 1.3 `Manifest.bf16`; 1.4 plans of kind "whole", `Context.maps`,
`Context.gathering` and `Manifest.refines`; 1.5 `SharedEncoder.begin`.
"""

SEGMENTER = "segmenter"
BATCH = "N"
DTYPES = ("uint8", "uint16", "int16", "float32")

Precision = choices.Precision
Merge = Literal["uniform", "cosine"]
Scores = Literal["logits", "probabilities"]
SCORES: tuple[Scores, ...] = ("logits", "probabilities")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassInfo:
    """One class; its id is its place in the list.

    Attributes:
        name: What people call it.
        colour: Red, green and blue from 0 to 255, for masks and previews.
    """

    name: str
    colour: tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """Scaling inside the graphs, (raw - mean) / std per band: for documentation, since raw pixels go in.

    Attributes:
        mean: What is subtracted, by band.
        std: What the difference is divided by, by band.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """What a raster must have.

    Attributes:
        bands: Number of bands.
        dtype: One of `DTYPES`.
        scaling: Scaling inside the graphs, if there is one.
        ground_sample_distance: Metres per pixel of the training images, if known.
    """

    bands: int
    dtype: str
    scaling: Scaling | None
    ground_sample_distance: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MovingCells:
    """The grids from which a shared context's ``positions_NAME`` are computed (§3.3).

    Attributes:
        patch: Cells of the patch.
        context: Cells of the context.
    """

    patch: Cells
    context: Cells


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedEncoder:
    """How a centred context is encoded once for a whole raster (docs/shared-contexts.md).

    Attributes:
        encoder: Role of the graph that encodes a window of the lattice.
        size: Side of such a window in pixels, after it is shrunk as much as the context's own.
        cells: The cells that the context's own encoder gives, which patches expect.
        own: The cells that `encoder` gives.
        first: The first of these that is kept; those before it saw the border of the window.
        kept: How many are kept.
        begin: How many cells of the first tile's context lie before those that the first window keeps. The windows
            before it are black, for that context begins outside of the raster. Bundles before 1.5 lack it.
    """

    encoder: str
    size: int
    cells: Cells
    own: Cells
    first: int
    kept: int
    begin: int = field(default=0, metadata=OPTIONAL)

    def lattice(self, tile: int, window: int, size: int) -> Lattice:
        """The windows of a raster in which the context is encoded.

        Args:
            tile: Side of a tile in pixels.
            window: Side of the context's own window in pixels of the raster.
            size: Side in pixels to which that is shrunk.

        Returns:
            The lattice, along either axis.

        Raises:
            InputError: There is no such lattice.
        """
        return Lattice(
            tile=tile, window=window, size=size, cells=self.cells, side=self.size, own=self.own, first=self.first,
            kept=self.kept, begin=self.begin,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One context of a patch (§3.2).

    Attributes:
        name: Its name, distinct in a bundle.
        factor: Side of its window over the side of the tile, or "global".
        size: Side of the window in pixels after resampling.
        resampling: The filter that shrinks the window.
        scene: For a global context, the side in pixels of the training images, which the network saw whole; None if
            it is not known.
        encoder: Role of the graph that encodes the window; None where the segmenter takes the raw window.
        cells: For a context whose window many patches share, the grids from which the patch's place is computed; None
            where the segmenter does not need it.
        sharing: How it is encoded once for a whole raster; None where it cannot be, and in bundles before 1.2.
        maps: Names of the maps of features that its encoder hands over, where they are several; empty for one.
        gathering: How a global context is encoded with what the patches in it know; None where it is not.
    """

    name: str
    factor: float | Literal["global"]
    size: int
    resampling: Resampling
    scene: int | None
    encoder: str | None
    cells: MovingCells | None
    sharing: SharedEncoder | None = field(default=None, metadata=OPTIONAL)
    maps: tuple[str, ...] = field(default=(), metadata=OPTIONAL)
    gathering: Gathering | None = field(default=None, metadata=OPTIONAL)

    @property
    def window(self) -> ContextWindow:
        """How its window is cut."""
        return context_window(self.factor, size=self.size, resampling=self.resampling, scene=self.scene)

    @property
    def input(self) -> str:
        """The segmenter's input for this context: its features, or its raw window."""
        return f"features_{self.name}" if self.encoder else f"window_{self.name}"

    @property
    def inputs(self) -> tuple[str, ...]:
        """The segmenter's inputs for this context but for positions: `input`, or one for each of its maps."""
        return tuple(f"{self.input}_{name}" for name in self.maps) or (self.input,)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs of its encoder, in the order of `inputs`."""
        return tuple(f"features_{name}" for name in self.maps) or ("features",)

    @property
    def positions(self) -> str:
        """The segmenter's input for where the patch lies in this context, if it takes one."""
        return f"positions_{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """An input or output of a graph.

    Attributes:
        name: Its name in the graph.
        dtype: Its dtype, as NumPy calls it.
        shape: Its shape; the first axis is the batch, "N" unless it is fixed.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphSpec:
    """One graph of a bundle.

    Attributes:
        role: What it does: "segmenter", or the name by which contexts refer to their encoder.
        precision: What it computes in.
        file: The ONNX file, relative to the bundle's folder.
        sha256: Hex digest of the file.
        bytes: Size of the file; None in bundles before 1.1.
        inputs: Its inputs.
        outputs: Its outputs.
    """

    role: str
    precision: Precision
    file: str
    sha256: str
    bytes: int | None = field(default=None, metadata=OPTIONAL)
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refines:
    """What a refiner takes: an image, and a coarse mask of it with the classes of the bundle (docs/refining.md).

    Attributes:
        bands: Bands of the image, which come first in the input. One for each class follows, in the order of the
            classes: 255 where the coarse mask has the class, and 0 elsewhere.
        uniform: What becomes of tiles in which the coarse mask has no border: "keep" for the class that they have,
            without a look at them; "infer" for that of the network.
    """

    bands: int
    uniform: Literal["keep", "infer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where a bundle comes from.

    Attributes:
        checkpoint_sha256: Hex digest of the checkpoint.
        licence: Licence of the weights, if known.
        created: The date, as ISO 8601 writes it.
        tools: Versions of the tools that made it, by name.
    """

    checkpoint_sha256: str
    licence: str | None
    created: str
    tools: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """All that the runtime knows of a network.

    Attributes:
        schema: Version of the manifest's format.
        name: Name of the bundle.
        network: How the network was built, for whoever rebuilds it; the runtime only passes it on.
        classes: The classes, by id.
        input: What a raster must have.
        tile: Side of a patch in pixels (P).
        plan: How tiles cover a raster.
        contexts: The contexts of a patch; empty for a network without them.
        merge: How overlapping tiles are weighed.
        graphs: The graphs, in every precision that there is.
        parity: How the graphs compared with their reference.
        provenance: Where the bundle comes from.
        extensions: What other programs keep here; the runtime only passes it on.
        engines: How the engines did that the parity gate saw; empty in bundles before 1.1.
        check: What engines are tried on that the gate did not see; None in bundles before 1.1.
        sharing: How contexts that are encoded once a raster compared with exact ones; None where nobody has measured.
        temperature: What makes probabilities surer (below 1) or less sure (above 1) than the scores tell, see
            `fctl.runtime.tiling.temperature`; None leaves them as they are.
        bf16: How the fp32 graphs compared with themselves in bf16; None where nobody has measured, and before 1.3.
        refines: What a bundle that refines masks takes; None for one that makes them.
    """

    schema: str
    name: str
    network: dict[str, object] | None
    classes: tuple[ClassInfo, ...]
    input: InputSpec
    tile: int
    plan: TilePlan
    contexts: tuple[Context, ...]
    merge: Merge
    graphs: tuple[GraphSpec, ...]
    parity: tuple[Parity, ...]
    provenance: Provenance
    extensions: dict[str, object]
    engines: tuple[EngineVerdict, ...] = field(default=(), metadata=OPTIONAL)
    check: SelfCheck | None = field(default=None, metadata=OPTIONAL)
    sharing: SharedVerdict | None = field(default=None, metadata=OPTIONAL)
    temperature: float | None = field(default=None, metadata=OPTIONAL)
    bf16: Bf16Verdict | None = field(default=None, metadata=OPTIONAL)
    refines: Refines | None = field(default=None, metadata=OPTIONAL)

    @property
    def image(self) -> InputSpec:
        """What an image must have: the input, without the bands of a coarse mask where there is one."""
        return replace(self.input, bands=self.refines.bands) if self.refines else self.input

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, by id."""
        return tuple(info.name for info in self.classes)

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """The precisions that there are graphs of, in the order of the graphs."""
        return tuple(dict.fromkeys(graph.precision for graph in self.graphs))

    @property
    def segmenter(self) -> GraphSpec:
        """The segmenter graph, of the first precision; names and shapes are the same in all."""
        return next(graph for graph in self.graphs if graph.role == SEGMENTER)

    @property
    def sees_patch(self) -> bool:
        """Whether the segmenter takes the pixels of patches; else it crops what contexts tell of the whole image."""
        return self.plan.kind != "whole"

    @property
    def fixed_batch(self) -> int | None:
        """The only batch size that the segmenter takes; None where it takes any."""
        batch = self.segmenter.inputs[0].shape[0]
        return batch if isinstance(batch, int) else None

    @property
    def lattices(self) -> dict[str, Lattice]:
        """By name, the windows of contexts that can be encoded once for a whole raster."""
        return {
            context.name: context.sharing.lattice(self.tile, window.side(self.tile), context.size)
            for context in self.contexts
            if context.sharing and isinstance(window := context.window, CentredContext)
        }

    def gathered_with(self, context: Context) -> Context:
        """The context with whose features the patches are encoded that another one gathers."""
        assert context.gathering is not None
        name = context.gathering.context
        return next(other for other in self.contexts if other.name == name)

    @property
    def host_only(self) -> str | None:
        """Why engines that keep everything on a GPU cannot run the network; None where they can."""
        several = next((context.name for context in self.contexts if context.maps or context.gathering), None)
        return f"context {several!r} has several maps, or is encoded with what patches know" if several else None

    @property
    def shared_roles(self) -> frozenset[str]:
        """The roles of graphs that do nothing but encode contexts once for a whole raster."""
        own = {context.encoder for context in self.contexts}
        return frozenset(c.sharing.encoder for c in self.contexts if c.sharing and c.sharing.encoder not in own)

    @property
    def scores(self) -> Scores:
        """What the segmenter gives for each class; overlapping tiles are averaged in it. Drafts have no graphs yet."""
        if not self.graphs:
            return "probabilities" if self.refines else "logits"
        return "logits" if self.segmenter.outputs[0].name == "logits" else "probabilities"
