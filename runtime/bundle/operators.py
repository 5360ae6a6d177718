"""What graphs of a bundle may compute with: whose operators, and attributes that no network has.

Engines divide by strides and allocate by what attributes say before they look whether that makes sense.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .arities import arity

DOMAINS = ("", "com.microsoft")
"""Domains of operators: those of ONNX, and those that ONNX Runtime adds."""

_OPSETS = (7, 99)  # of ONNX; which of them it knows, each engine says itself

ATTRIBUTE_FIELDS = {
    1: 2, 2: 3, 3: 4, 4: 5, 5: 6, 6: 7, 7: 8, 8: 9, 9: 10, 10: 11, 11: 22, 12: 23, 13: 14, 14: 15,
}  # fmt: skip
"""By the type that an attribute states, the field that may hold its value."""

_NEEDED = (4, 5, 11, 13)  # types whose value must be there: tensors, graphs, sparse tensors and types
_ANY = 1 << 31  # inputs of operators that take a list of them
_OPTIONAL = {"Loop": 2, "Scan": 1}  # of those, how many may be left out at the beginning
_LARGEST = 1 << 16
_SIDES = (1, _LARGEST)
_SIGNED = (-_LARGEST, _LARGEST)
_AXES = (-64, 64)
_RANGES: dict[str, tuple[int, int]] = {
    "strides": _SIDES, "dilations": _SIDES, "kernel_shape": _SIDES, "group": _SIDES, "blocksize": _SIDES,
    "num_groups": _SIDES, "num_outputs": _SIDES, "num_heads": _SIDES, "hidden_size": _SIDES,
    "pads": _SIGNED, "output_padding": _SIGNED, "output_shape": (0, _LARGEST),
    "axis": _AXES, "axes": _AXES, "perm": (0, 64), "batch_dims": _AXES, "block_size": (0, _LARGEST),
    "to": (1, 64), "dtype": (0, 64), "output_dtype": (0, 64), "scan_input_axes": _AXES, "scan_output_axes": _AXES,
}  # fmt: skip
"""By name of an attribute, the least and the largest of its numbers, whatever the operator."""


class Use(NamedTuple):
    """How a node uses an operator.

    Attributes:
        domain: The operator's domain; "" for ONNX's own.
        name: The operator.
        filled: How many of the inputs are there before the first that is left out.
        gap: Number of the last input that is left out, from 1; 0 where none is.
        inputs: How many inputs are listed.
        outputs: How many outputs.
    """

    domain: str
    name: str
    filled: int
    gap: int
    inputs: int
    outputs: int


def operator_fault(use: Use, opsets: Mapping[str, int]) -> str | None:
    """Why a graph may not use an operator so; None where it may.

    Args:
        use: The operator, with how many inputs and outputs.
        opsets: Versions of the operators that the graph was written for, by domain.
    """
    domain, name = use.domain, use.name
    if domain not in DOMAINS:
        return f"the operator {name!r:.60} of {domain!r:.60}"
    version = opsets.get(domain)
    if version is None:
        return f"the operator {name!r:.60} and no opset of {domain or 'ai.onnx'}"
    if not domain and not _OPSETS[0] <= version <= _OPSETS[1]:
        return f"opset {version}"
    known = arity(domain, name, version)
    if known is None:
        return f"the operator {name!r:.60}" + (f" of {domain}" if domain else "")
    inputs, outputs = known
    if inputs.stop > _ANY and use.gap > _OPTIONAL.get(name, 0):  # engines take a list of inputs to be whole
        return f"an operator {name!r:.60} whose input {use.gap} is left out"
    if use.filled < inputs.start or use.inputs not in inputs or use.outputs not in outputs:
        return f"an operator {name!r:.60} of {use.inputs} inputs ({use.filled} there) and {use.outputs} outputs"
    return None


def attribute_fault(operator: str, name: str, stated: int, holds: set[int], numbers: Sequence[int]) -> str | None:
    """What is wrong with an attribute; None where nothing is.

    Args:
        operator: The operator of its node.
        name: Its name.
        stated: The type that it states.
        holds: Numbers of the fields that hold a value.
        numbers: Its whole numbers, or the first of many.
    """
    field = ATTRIBUTE_FIELDS.get(stated)
    if field is None or not holds <= {field} or (stated in _NEEDED and not holds):
        return f"an attribute {name!r:.60} of {operator!r:.60} that is not of its type"
    least, most = _RANGES.get(name, (0, 0))
    if name in _RANGES and not all(least <= number <= most for number in numbers):
        return f"an attribute {name!r:.60} of {operator!r:.60} beyond {least} to {most}"
    return None
