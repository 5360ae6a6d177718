"""A segmenter graph that also gives what LCF looks at: attention maps and fusion weights (§3.3, Eq. 1-4).

Exported graphs keep the names of the network's weights. From those of LCF, the tensors are found that are computed with
them, and a copy of the graph in memory has them as outputs.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.helper
from numpy.typing import NDArray

from fctl.calib.onnx_session import load_session
from fctl.runtime.errors import InputError

_KEY = re.compile(r"(?:^|\.)lcf\.attention\.([^.]+)\.key\.weight$")
_FUSIONS = ("split.weight", "outputs.0.weight")  # adaptive, and that of the release
_ENDS = ("Softmax", "Div")  # where a softmax ends: export spells some of them out, see `spell_out_softmax`

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Attention:
    """How the patch's cells attend to one member of U: M_U of Eq. 2.

    Attributes:
        likeness: softmax(R_U), (h*w, H*W) float32: how alike a cell of the patch and a cell of the member are.
        position: softmax(r W_r), (h*w, H*W) float32: how near they lie; None where the network has no such term.
        share: s(z), the share of likeness in the sum of both; 1 where there is no other term.
    """

    likeness: Array
    position: Array | None
    share: float

    @property
    def total(self) -> Array:
        """M_U (h*w, H*W) float32, whose rows sum to 1."""
        if self.position is None:
            return self.likeness
        mixed: Array = self.share * self.likeness + (1 - self.share) * self.position
        return mixed


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What a segmenter gives for one patch.

    Attributes:
        scores: Its scores (classes, P, P) float32.
        attention: By member of U, what the patch attends to.
        weights: By member of U, its weight H_U in the sum (Eq. 4), (h, w) float32, averaged over channels.
    """

    scores: Array
    attention: dict[str, Attention]
    weights: dict[str, Array]


class Lens:
    """A bundle's segmenter, with all that LCF computes as outputs, in ONNX Runtime.

    Args:
        path: The segmenter graph.

    Raises:
        InputError: The graph has no LCF, so that nothing in it says where the network looks.
    """

    def __init__(self, path: Path) -> None:
        model = onnx.load(path)
        graph = _Graph(model.graph)
        self.members = tuple(graph.members())
        try:
            outputs = graph.attention() | graph.fusion(self.members)
        except (IndexError, KeyError, StopIteration):  # weights of these names, and none of what follows them
            outputs = {}
        if not outputs:
            raise InputError(
                subject="`bundle`", expected="a network with the paper's LCF, exported by fctl", found="none",
                remedy="choose another, such as default: only LCF tells where a network looks",
            )  # fmt: skip
        self._scores = model.graph.output[0].name
        self._names = {what: f"seen/{what}" for what in outputs}
        for what, tensor in outputs.items():
            model.graph.node.append(onnx.helper.make_node("Identity", [tensor], [self._names[what]]))
            model.graph.output.append(onnx.helper.make_empty_tensor_value_info(self._names[what]))
        self._session = load_session(model)

    def look(self, inputs: Mapping[str, object]) -> Seen:
        """Segment one patch.

        Args:
            inputs: What the segmenter takes, by name, for a batch of 1.

        Returns:
            Its scores, and what it looked at.
        """
        names = [self._scores, *self._names.values()]
        scores, *values = self._session.run(names, dict(inputs))
        found = dict(zip(self._names, values, strict=True))
        attention = {name: _attention(name, found) for name in self.members}
        cells = math.isqrt(len(next(iter(attention.values())).likeness))
        weights = np.broadcast_to(_weights(self.members, found), (len(self.members), cells, cells))
        return Seen(scores[0], attention, dict(zip(self.members, weights, strict=True)))


def _attention(name: str, found: Mapping[str, Array]) -> Attention:
    """The attention to one member, of outputs for a batch of 1."""
    likeness = found[f"{name}/likeness"][0]
    if f"{name}/rows" not in found:
        return Attention(likeness, None, 1.0)
    rows, columns = (_matrix(found[f"{name}/{axis}"]) for axis in ("rows", "columns"))
    position = np.kron(rows, columns.T)  # cells are counted along rows: the columns' matrix came transposed
    return Attention(likeness, position.astype(np.float32), float(found[f"{name}/share"]))


def _matrix(values: Array) -> Array:
    """A matrix that is the same for all channels."""
    matrix: Array = values.reshape(-1, *values.shape[-2:])[0]
    return matrix


def _weights(members: tuple[str, ...], found: Mapping[str, Array]) -> Array:
    """Weights (members, h or 1, w or 1) of outputs for a batch of 1."""
    if "weights" in found:
        averaged: Array = found["weights"][0].mean(axis=1)
        return averaged
    equal = np.float32(1 / len(members))  # where they are averaged
    return np.array([found.get(f"{name}/weight", equal) for name in members], np.float32).reshape(-1, 1, 1)


class _Graph:
    """Who reads what in a graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def members(self) -> Iterator[str]:
        """The members of U, in the order in which they are fused."""
        for name, readers in self._readers.items():
            match = _KEY.search(name)
            if match and any(node.op_type == "Conv" for node in readers):
                yield match[1]

    def attention(self) -> dict[str, str]:
        """By what they are, the tensors of every member's attention."""
        found = {}
        for name in self.members():
            found[f"{name}/likeness"] = self._first_after(self._weight(f"attention.{name}.key.weight"), ("Softmax",))
            gate = self._weight(f"attention.{name}.position.gate")
            if gate is None:
                continue
            values = self._reader(self._weight(f"attention.{name}.value.weight"), "Conv").output[0]
            across = self._reader(values, "MatMul", place=0)
            down = self._reader(across.output[0], "MatMul", place=1)
            found |= {f"{name}/share": gate, f"{name}/columns": across.input[1], f"{name}/rows": down.input[0]}
        return found

    def fusion(self, members: tuple[str, ...]) -> dict[str, str]:
        """The tensor of the weights of all members, or of each one; nothing where they are averaged."""
        weights = [weight for kind in _FUSIONS if (weight := self._weight(f"fusion.{kind}"))]
        if weights:
            return {"weights": self._first_after(weights[0], _ENDS)}
        constants = {f"{name}/weight": self._constant(name) for name in members}
        return {what: tensor for what, tensor in constants.items() if tensor}

    def _constant(self, name: str) -> str | None:
        """What X_{I|U} of a member is multiplied with before all are added up; None where nothing is."""
        tensor = self._first_after(self._weight(f"attention.{name}.key.weight"), ("Softmax",))
        terms = 1 if self._weight(f"attention.{name}.position.gate") else 0
        while True:
            node = self._readers[tensor][0]
            others = [other for other in node.input if other != tensor]
            if node.op_type == "Mul" and "lcf.attention." not in others[0]:
                return str(others[0])
            if node.op_type == "Add" and not terms:
                return None
            terms -= node.op_type == "Add"
            tensor = node.output[0]

    def _weight(self, name: str) -> str | None:
        """One of LCF's weights by its name in the network."""
        return next((found for found in self._readers if f".{found}".endswith(f".lcf.{name}")), None)

    def _reader(self, tensor: str | None, kind: str, place: int = 1) -> onnx.NodeProto:
        """The node of a kind that reads a tensor in one place."""
        return next(n for n in self._readers[tensor or ""] if n.op_type == kind and n.input[place] == tensor)

    def _first_after(self, tensor: str | None, kinds: tuple[str, ...]) -> str:
        """What the nearest node of one of these kinds makes of a tensor."""
        waiting = deque([tensor or ""])
        while True:
            for node in self._readers.get(waiting.popleft(), ()):
                if node.op_type in kinds:
                    return str(node.output[0])
                waiting.append(node.output[0])
