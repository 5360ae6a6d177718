"""ONNX files looked through before an engine sees them, without a library that would believe them.

Engines are written for graphs of friends: a tensor that names an address in memory as its values, or has fewer values
than its shape, has ended them with a signal. So the file's protobuf is read here, field by field, as far as these
questions need; values of tensors are not read. onnx.proto has the numbers of the fields.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .operators import ATTRIBUTE_FIELDS, Use, attribute_fault, operator_fault
from .protobuf import FIXED32, LENGTH, VARINT, Field, NoGraphError, Reader
from .tensors import MOST_SIDES, TensorType, read_tensor, read_type

DEEPEST = 8
"""How deep graphs may lie in attributes of each other's nodes."""

MOST_NODES = 200_000
"""Nodes of a file, and tensors; the largest networks that fctl exports have about 3000."""

_MOST_INPUTS = 10_000  # of one node or graph
_LONGEST_LIST = 4096  # numbers of an attribute that are looked at


@dataclass(slots=True)
class GraphFile:
    """What an ONNX file was found to hold.

    Attributes:
        inputs: The inputs of its graph that are not constants, by name; None for what is no dense tensor.
        outputs: Its outputs.
        opsets: Versions of the operators that it was written for, by domain.
        external: The name of a tensor whose values lie elsewhere, which may be empty; None where there is none.
        fault: What else is wrong with it, in words; None where nothing is.
    """

    inputs: dict[str, TensorType | None] = field(default_factory=dict)
    outputs: dict[str, TensorType | None] = field(default_factory=dict)
    opsets: dict[str, int] = field(default_factory=dict)
    external: str | None = None
    fault: str | None = None


def read_graph(path: Path) -> GraphFile:
    """Look an ONNX file through.

    All tensors and nodes are looked at: those of the graph, in attributes, in subgraphs, in functions and in graphs for
    training.

    Args:
        path: A regular file.

    Returns:
        What it holds.

    Raises:
        NoGraphError: The file is no protobuf, or larger or deeper than any network.
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        file.seek(0, 2)
        if not file.tell():
            raise NoGraphError("an empty file")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _Walk(Reader(content)).model()


class _Walk:
    """One pass over a file."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._found = GraphFile()
        self._depth = self._nodes = self._tensors = 0
        self._used = set[Use]()
        self._own = set[tuple[str, str]]()  # domains and names of the file's own functions

    def model(self) -> GraphFile:
        """The file's only message."""
        found, graphs, once = self._found, 0, {1: VARINT, 5: VARINT, 7: LENGTH}
        for one in self._reader.fields(0, self._reader.size, once, {8: LENGTH, 20: LENGTH, 25: LENGTH}):
            if one.number == 7:
                self._graph(one, found)
                graphs += 1
            elif one.number == 8:
                self._opset(one)
            elif one.number == 20:
                self._blame("a graph for training")
                for part in self._reader.fields(one.value, one.end, {1: LENGTH, 2: LENGTH}, {}):
                    if part.number in (1, 2):
                        self._graph(part, GraphFile())
            elif one.number == 25:
                self._function(one)
        if not graphs:
            self._blame("no graph")
        for use in sorted(self._used):
            if (use.domain, use.name) not in self._own:
                self._blame(operator_fault(use, found.opsets))
        return found

    def _blame(self, fault: str | None) -> None:
        """Keep the first thing that is wrong."""
        self._found.fault = self._found.fault or fault

    @contextmanager
    def _deeper(self) -> Iterator[None]:
        """One level of graphs."""
        self._depth += 1
        if self._depth > DEEPEST + 1:
            raise NoGraphError(f"graphs nested deeper than {DEEPEST}")
        yield
        self._depth -= 1

    def _opset(self, message: Field) -> None:
        domain, version = "", 0
        for one in self._reader.fields(message.value, message.end, {1: LENGTH, 2: VARINT}, {}):
            domain = self._reader.text(one) if one.number == 1 else domain
            version = one.signed if one.number == 2 else version
        domain = "" if domain == "ai.onnx" else domain
        if domain in self._found.opsets:
            self._blame(f"two opsets of {domain or 'ai.onnx'!r:.60}")
        self._found.opsets[domain] = version

    def _graph(self, message: Field, found: GraphFile) -> None:
        """A graph, whose inputs and outputs go into `found`."""
        constants, made = set[str](), set[str]()
        with self._deeper():
            for one in self._reader.fields(
                message.value, message.end, {2: LENGTH}, dict.fromkeys((1, 5, 11, 12, 15), 2)
            ):
                if one.number == 1:
                    self._node(one, made)
                elif one.number == 5:
                    name = self._tensor(one)
                    if name in constants:
                        self._blame(f"two tensors {name!r:.60}")
                    constants.add(name)
                elif one.number in (11, 12):
                    name, kind = self._value(one)
                    values = found.inputs if one.number == 11 else found.outputs
                    if name in values or len(values) > _MOST_INPUTS:
                        self._blame(f"two inputs or outputs {name!r:.60}")
                    values[name] = kind
                elif one.number == 15:
                    self._sparse(one)
        twice = made & (constants | found.inputs.keys())
        if twice:
            self._blame(f"two values {min(twice)!r:.60}")
        for name in constants & found.inputs.keys():  # which may be replaced, and need not be
            del found.inputs[name]

    def _value(self, message: Field) -> tuple[str, TensorType | None]:
        """An input or output: its name and type."""
        name, kind = "", None
        for one in self._reader.fields(message.value, message.end, {1: LENGTH, 2: LENGTH}, {}):
            if one.number == 1:
                name = self._reader.text(one)
            elif one.number == 2:
                kind = read_type(self._reader, one.value, one.end)
        return name, kind

    def _function(self, message: Field) -> None:
        """A function of the file's own."""
        name, domain, made = "", "", set[str]()
        many = dict.fromkeys((4, 5, 6, 7, 9, 11), LENGTH)
        with self._deeper():
            for one in self._reader.fields(message.value, message.end, {1: LENGTH, 10: LENGTH}, many):
                if one.number == 1:
                    name = self._reader.text(one)
                elif one.number == 10:
                    domain = self._reader.text(one)
                elif one.number == 7:
                    self._node(one, made)
                elif one.number == 11:
                    self._attribute(one, "")
        self._own.add(("" if domain == "ai.onnx" else domain, name))

    def _node(self, message: Field, made: set[str]) -> None:
        """A node, whose outputs go into `made`."""
        self._nodes += 1
        if self._nodes > MOST_NODES:
            raise NoGraphError(f"more than {MOST_NODES} nodes")
        kind, domain, attributes, inputs, outputs, filled, gap = "", "", list[Field](), 0, 0, 0, 0
        once = {3: LENGTH, 4: LENGTH, 7: LENGTH, 8: LENGTH}
        for one in self._reader.fields(message.value, message.end, once, {1: LENGTH, 2: LENGTH, 5: LENGTH}):
            if one.number == 1:
                filled += one.end > one.value and filled == inputs
                inputs += 1
                gap = gap if one.end > one.value else inputs
            elif one.number == 2:
                outputs += 1
                name = self._reader.text(one)
                if name and name in made:
                    self._blame(f"two values {name!r:.60}")
                made.add(name)
            elif one.number == 4:
                kind = self._reader.text(one)
            elif one.number == 5:
                attributes.append(one)
            elif one.number == 7:
                domain = self._reader.text(one)
        if inputs + outputs > _MOST_INPUTS:
            self._blame(f"a node with {inputs + outputs} inputs and outputs")
        names = [self._attribute(one, kind) for one in attributes]
        if len(set(names)) < len(names):
            self._blame(f"a node {kind!r:.60} with an attribute twice")
        self._used.add(Use("" if domain == "ai.onnx" else domain, kind, filled, gap, inputs, outputs))

    def _attribute(self, message: Field, operator: str) -> str:
        """An attribute of a node of an operator; returns its name."""
        name, stated, holds, numbers, refers = "", 0, set[int](), list[int](), False
        once = {1: LENGTH, 2: FIXED32, 3: VARINT, 4: LENGTH, 5: LENGTH, 6: LENGTH, 14: LENGTH, 20: VARINT, 21: LENGTH}
        many = {7: FIXED32, 8: VARINT} | dict.fromkeys((9, 10, 11, 15, 23), LENGTH)
        parts: dict[int, Callable[[Field], object]] = {
            5: self._tensor, 6: self._subgraph, 10: self._tensor, 11: self._subgraph, 22: self._sparse,
            23: self._sparse,
        }  # fmt: skip
        for one in self._reader.fields(message.value, message.end, once | {22: LENGTH}, many):
            if one.number == 1:
                name = self._reader.text(one)
            elif one.number == 20:
                stated = one.value
            elif one.number == 21:
                refers = True
            elif one.number in ATTRIBUTE_FIELDS.values():
                holds.add(one.number)
            if one.number in parts:
                parts[one.number](one)
            elif one.number in (3, 8) and one.end - one.value <= 10 * _LONGEST_LIST and len(numbers) < _LONGEST_LIST:
                numbers += self._reader.numbers(one, 10 * _LONGEST_LIST)
        if stated and not refers:
            self._blame(attribute_fault(operator, name, stated, holds, numbers))
        elif not refers:
            self._blame(f"an attribute {name!r:.60} without a type")
        return name

    def _subgraph(self, message: Field) -> None:
        self._graph(message, GraphFile())

    def _tensor(self, message: Field) -> str:
        """A tensor; returns its name."""
        self._tensors += 1
        if self._tensors > MOST_NODES:
            raise NoGraphError(f"more than {MOST_NODES} tensors")
        tensor = read_tensor(self._reader, message.value, message.end)
        if tensor.external:
            self._found.external = self._found.external if self._found.external is not None else tensor.name
        else:
            self._blame(tensor.fault)
        return tensor.name

    def _sparse(self, message: Field) -> None:
        """A sparse tensor."""
        sides = list[int]()
        for one in self._reader.fields(message.value, message.end, {1: LENGTH, 2: LENGTH}, {3: VARINT}):
            if one.number in (1, 2):
                self._tensor(one)
            elif one.number == 3:
                sides += self._reader.numbers(one, MOST_SIDES)
        self._blame("a sparse tensor")
