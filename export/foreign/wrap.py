"""A foreign graph with scaling of raw pixels in front of it, and one score per class and pixel behind it."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import onnx
import onnx.compose
import onnx.helper
import onnx.numpy_helper
import onnx.shape_inference

from fctl.runtime.bundle.manifest import BATCH, SEGMENTER

from .options import Array, Contract, ForeignOptions, ImageInput, channels_of, mean_and_std, side_of

PATCH = "patch"
"""The input of a bundle's graph that takes the patch."""

SURROUND = "surround"
"""The context that shows a patch with its surroundings, for networks that score only the middle of their image."""

_PREFIX = "network/"


def wrapped(model: onnx.ModelProto, contract: Contract, options: ForeignOptions) -> onnx.ModelProto:
    """Put scaling in front of a foreign graph, and scores at the patch's size behind it.

    Args:
        model: The graph; it is not changed.
        contract: What was found out about it.
        options: What the user states about the network.

    Returns:
        A graph from raw ``patch`` (N, bands, P, P), and ``window_NAME`` (N, bands, S, S) for each context, to
        ``logits`` or ``probabilities`` (N, classes, P, P) float32. Where the network scores only the middle of its
        image, there is ``window_surround`` besides, whose middle is the patch.

    Raises:
        onnx.shape_inference.InferenceError: Types or shapes of the graph contradict each other.
    """
    inner = copy.deepcopy(model)
    del inner.graph.value_info[:]  # shapes of another batch
    inner = onnx.compose.add_prefix(inner, _PREFIX)
    around = _Around()
    for image in contract.images:
        around.add("Identity", [around.scaling(image, contract, options)], _PREFIX + image.name)
    before, after = around.nodes, _Around()
    scores = after.scores(_PREFIX + contract.output, contract, options)
    name = "logits" if options.activation == "logits" else "probabilities"
    after.add("Identity", [scores], name)
    batch = contract.batch or BATCH
    sides, raw = (contract.scored, contract.scored), np.dtype(contract.raw)
    taken = [
        _value(name, raw, (batch, contract.bands, side, side)) for name, side in inputs_of(contract).items()
    ]  # fmt: skip
    graph = onnx.helper.make_graph(
        [*before, *inner.graph.node, *after.nodes],
        SEGMENTER,
        taken,
        [_value(name, np.dtype(np.float32), (batch, len(options.classes), *sides))],
        [*around.constants, *inner.graph.initializer, *after.constants],
        sparse_initializer=inner.graph.sparse_initializer,
    )
    made = onnx.helper.make_model(graph, opset_imports=inner.opset_import, functions=inner.functions)
    _short_circuit(made.graph)
    return onnx.shape_inference.infer_shapes(made)


def inputs_of(contract: Contract) -> dict[str, int]:
    """The bundle's inputs, and their sides in pixels.

    They are the patch, the window around it where the network scores only a middle, and the windows of contexts.
    """
    surround = {f"window_{SURROUND}": contract.tile} if contract.margin else {}
    return {PATCH: contract.scored, **surround, **{_raw(image): image.side for image in contract.images[1:]}}


def _raw(image: ImageInput) -> str:
    """The bundle's input that is scaled for an image."""
    return f"window_{image.context.name}" if image.context else PATCH


class _Around:
    """Nodes and constants that are put around a network."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, kind: str, inputs: list[str], output: str = "", **attributes: str | int | list[int]) -> str:
        """Append one node; returns the name of its output."""
        output = output or f"{kind.lower()}_of_{inputs[0].removeprefix(_PREFIX)}"
        node = onnx.helper.make_node(kind, inputs, [output], name=f"make_{output}")
        node.attribute.extend(onnx.helper.make_attribute(*pair) for pair in sorted(attributes.items()))
        self.nodes.append(node)
        return output

    def constant(self, name: str, values: Array) -> str:
        """Append one constant; returns its name."""
        self.constants.append(onnx.numpy_helper.from_array(values, name))
        return name

    def scaling(self, image: ImageInput, contract: Contract, options: ForeignOptions) -> str:
        """Scale a raw image (N, bands, side, side); returns the name of the image that the network takes."""
        raw = pixels = _raw(image)
        of = f"_of_{raw}" if image.context else ""
        if contract.margin and not image.context:
            pixels = self.surrounded(onnx.TensorProto.FLOAT if image.floating else onnx.TensorProto.INT32, contract)
            if not image.floating:
                pixels = self.add("Cast", [pixels], to=onnx.helper.np_dtype_to_tensor_dtype(image.dtype))
        elif image.floating and contract.raw != "float32":
            pixels = self.add("Cast", [pixels], to=onnx.TensorProto.FLOAT)
        if image.floating:
            mean, std = (values.astype(np.float32) for values in mean_and_std(image, contract.bands))
            if mean.any():
                pixels = self.add("Sub", [pixels, self.constant(f"mean{of}", mean.reshape(-1, 1, 1))])
            if (std != 1).any():
                pixels = self.add("Div", [pixels, self.constant(f"std{of}", std.reshape(-1, 1, 1))])
            if image.dtype == np.float16:
                pixels = self.add("Cast", [pixels], f"half_{raw}", to=onnx.TensorProto.FLOAT16)
        if options.layout == "nhwc":
            pixels = self.add("Transpose", [pixels], perm=[0, 2, 3, 1])
        return pixels

    def surrounded(self, kind: int, contract: Contract) -> str:
        """The window around a patch as the image (N, bands, S, S), of an ONNX type; returns its name.

        The window's middle is the patch, so that their maximum is either of them. It is taken because engines drop
        inputs that nothing reads.
        """
        patch, window = (self.add("Cast", [name], to=kind) for name in (PATCH, f"window_{SURROUND}"))
        first, last, end = contract.margin, contract.tile - contract.margin, contract.tile
        top, middle, bottom = (self.cut(window, *rows, 2) for rows in ((0, first), (first, last), (last, end)))
        left, centre, right = (self.cut(middle, *columns, 3) for columns in ((0, first), (first, last), (last, end)))
        middle = self.add("Concat", [left, self.add("Max", [patch, centre], "centre"), right], "middle_rows", axis=3)
        return self.add("Concat", [top, middle, bottom], "whole", axis=2)

    def cut(self, image: str, start: int, end: int, axis: int) -> str:
        """Cut rows (axis 2) or columns (axis 3) out of an image; returns the name of the part."""
        name = f"{start}_to_{end}_of_axis_{axis}"
        values = {"start": start, "end": end, "axis": axis}
        limits = [self.constant(f"{key}_of_{name}", np.array([value], np.int64)) for key, value in values.items()]
        return self.add("Slice", [image, *limits], name)

    def scores(self, output: str, contract: Contract, options: ForeignOptions) -> str:
        """Turn the network's output into scores; returns the name of the scores (N, classes, P, P) float32."""
        if options.activation == "labels":
            side = max(contract.scores)
            shape = self.constant("plane", np.array([0, 1, side, side], np.int64))
            ids = self.add("Cast", [self.add("Reshape", [output, shape], "plane_of_ids")], to=onnx.TensorProto.FLOAT)
            ids = self.repeat(self.add("Round", [ids]), side, contract.scored)
            every = self.constant("ids", np.arange(len(options.classes), dtype=np.float32).reshape(1, -1, 1, 1))
            return self.add("Cast", [self.add("Equal", [ids, every], "hits")], "votes", to=onnx.TensorProto.FLOAT)
        scores = self.add("Cast", [output], "scores", to=onnx.TensorProto.FLOAT)
        if contract.scores_layout == "nhwc":
            scores = self.add("Transpose", [scores], perm=[0, 3, 1, 2])
        if channels_of(contract.scores, contract.scores_layout) == 1:  # (0, x) as logits, (1 - p, p) as probabilities
            sigmoid = options.activation == "sigmoid"
            slope, start = ([-1, 1], [1, 0]) if sigmoid else ([0, 1], [0, 0])
            scores = self.add("Mul", [scores, self.constant("slope", _pair(slope))])
            scores = self.add("Add", [scores, self.constant("start", _pair(start))]) if sigmoid else scores
        return self.enlarge(scores, side_of(contract), contract.scored)

    def repeat(self, ids: str, side: int, tile: int) -> str:
        """Enlarge class ids (N, 1, side, side) to the tile's size: each pixel takes the id of the cell it lies in."""
        if side == tile:
            return ids
        nearest = self.constant("nearest", np.arange(tile, dtype=np.int64) * side // tile)
        rows = self.add("Gather", [ids, nearest], "rows_of_ids", axis=2)
        return self.add("Gather", [rows, nearest], "enlarged", axis=3)

    def enlarge(self, scores: str, side: int, tile: int) -> str:
        """Enlarge scores (N, classes, side, side) to the tile's size, bilinear."""
        if side == tile:
            return scores
        factor = np.float32(tile / side)
        while int(np.floor(side * np.float64(factor))) < tile:  # engines round the product down
            factor = np.nextafter(factor, np.float32(np.inf))
        scales = self.constant("scales", np.array([1, 1, factor, factor], np.float32))
        return self.add(
            "Resize", [scores, "", scales], "enlarged", mode="linear", coordinate_transformation_mode="half_pixel"
        )


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes of a graph, and those inside its branches and loops."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from nodes_of(attribute.g)


def _pair(values: list[int]) -> Array:
    return np.array(values, np.float32).reshape(1, 2, 1, 1)


def _short_circuit(graph: onnx.GraphProto) -> None:
    """Remove our own Identity nodes at the seams, in place, by renaming what they pass on."""
    for node in list(graph.node):
        if node.op_type == "Identity" and node.output[0] in ("logits", "probabilities"):
            made = next((other for other in graph.node if node.input[0] in other.output), None)
            readers = sum(list(other.input).count(node.input[0]) for other in graph.node)
            if made is None or readers > 1:
                continue
            made.output[list(made.output).index(node.input[0])] = node.output[0]
            graph.node.remove(node)
        elif node.op_type == "Identity" and node.name == f"make_{node.output[0]}":
            for other in nodes_of(graph):
                for index, name in enumerate(other.input):
                    if name == node.output[0]:
                        other.input[index] = node.input[0]
            graph.node.remove(node)


def _value(name: str, dtype: np.dtype[np.generic], shape: tuple[int | str, ...]) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(dtype), shape)
