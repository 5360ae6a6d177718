"""A graph's file against what the manifest says of it, before an engine sees either."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import BundleError
from .files import reason
from .graphs import read_graph
from .manifest import GraphSpec, TensorSpec
from .protobuf import NoGraphError
from .tensors import TensorType

_AGAIN = "export the bundle again"


def check_graph(path: Path, graph: GraphSpec, field: str) -> None:
    """Check that a file holds the graph that the manifest describes, and nothing that could harm an engine.

    Values of tensors are not looked at.

    Args:
        path: A regular file.
        graph: What the manifest says.
        field: Its field in the manifest, for error messages.

    Raises:
        BundleError: The file is no ONNX graph, or one of other inputs and outputs, of operators that are nobody's, of
            tensors whose values are missing, too many or elsewhere, or larger than any network.
    """
    subject = f"{field}.file"
    try:
        found = read_graph(path)
    except (OSError, NoGraphError) as error:
        raise BundleError(subject=subject, expected="an ONNX graph", found=reason(error), remedy=_AGAIN) from None
    if found.external is not None:
        raise BundleError(
            subject=subject,
            expected="a graph that holds all of its weights",
            found=f"tensor {found.external!r:.60} with external data",
            remedy="export the bundle again with the weights in the ONNX file",
        )
    if found.fault is not None:
        expected = "a graph of operators of ai.onnx and com.microsoft and of tensors that fill their shapes"
        raise BundleError(subject=subject, expected=expected, found=found.fault, remedy=_AGAIN)
    outputs = {name: kind for name, kind in found.outputs.items() if name in {spec.name for spec in graph.outputs}}
    for kind, specs, tensors in (
        ("inputs", graph.inputs, found.inputs),
        ("outputs", graph.outputs, outputs or found.outputs),  # a graph may have other outputs too
    ):
        if {spec.name for spec in specs} != tensors.keys() or not all(
            _fits(tensors[spec.name], spec) for spec in specs
        ):
            raise BundleError(
                subject=f"{field}.{kind}", expected=_specified(specs), found=f"{_listed(tensors)} in {graph.file}",
                remedy=_AGAIN,
            )  # fmt: skip


def _fits(found: TensorType | None, spec: TensorSpec) -> bool:
    """Whether a graph's tensor is the one of the manifest, for all that the graph tells."""
    if found is None or found.dtype != spec.dtype:
        return False
    if found.sides is None:
        return True
    pairs = zip(found.sides, spec.shape, strict=False)
    return len(found.sides) == len(spec.shape) and all(side is None or side == wanted for side, wanted in pairs)


def _specified(specs: Sequence[TensorSpec]) -> str:
    """Names, dtypes and shapes of the manifest in words."""
    return ", ".join(sorted(f"{one.name} {one.dtype} ({', '.join(map(str, one.shape))})" for one in specs))


def _listed(tensors: Mapping[str, TensorType | None]) -> str:
    """Names, dtypes and shapes of a graph in words; "?" stands for an open side."""
    words = []
    for name, kind in sorted(tensors.items())[:10]:
        sides = ", ".join("?" if side is None else str(side) for side in (kind and kind.sides) or ())
        words.append(f"{name!r:.60}"[1:-1] + (f" {kind.dtype} ({sides})" if kind else " of no known type"))
    return ", ".join(words) or "none"
