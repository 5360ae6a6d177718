"""What a builder made of a graph: the data types that its products run in, and which attention became one kernel.

There are two sources: the dump that a builder logs (TensorRT-RTX, also without a GPU), and the inspector of a loaded
engine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_LINE = re.compile(
    r"^\s*Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\], (?:Constants: \[.*?\], )?"
    r"Outputs: \[.*Metadata:(?P<metadata>.*)$"
)
_DATATYPE = re.compile(r"Datatype: (\w+)")
_NODE = re.compile(r"\[ONNX Layer: (.*?)\]")
_PRODUCTS = re.compile(r"correlation|gemm|fusion|conv|matrix|mha", re.IGNORECASE)
_FUSED = re.compile(r"mha", re.IGNORECASE)
# As the inspector of TensorRT 10 writes it, "Row major linear FP16 format".
_FORMATS = (("FP32", "Float"), ("FP16", "Half"), ("INT8", "Int8"), ("Int8", "Int8"), ("BF16", "BFloat16"))


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerReport:
    """Products of matrices (convolutions, linear layers, attention) by the data type that goes into them.

    A layer is named after the ONNX nodes that it computes, "conv_1+relu_1"; one that serves several profiles counts
    once.

    Attributes:
        products: The layers by data type ("Half", "Float", "Int8").
        attention: Those of them that compute a complete attention in one kernel.
    """

    products: dict[str, tuple[str, ...]]
    attention: tuple[str, ...]

    @property
    def summary(self) -> str:
        """The report in one line: "60 Half, 2 Float, 4 fused attention"."""
        parts = [f"{len(layers)} {kind}" for kind, layers in self.products.items()]
        return ", ".join([*parts, *([f"{len(self.attention)} fused attention"] if self.attention else [])])


def read_dump(text: str) -> LayerReport | None:
    """Read what a builder logs when it is verbose.

    Args:
        text: The message that begins with "Layers:".

    Returns:
        The report; None where the text lists no layers.
    """
    found = [match for line in text.splitlines() if (match := _LINE.match(line))]
    layers = (
        (match["name"], match["kind"], _DATATYPE.findall(match["inputs"]), _NODE.findall(match["metadata"]))
        for match in found
    )
    return _report(layers) if found else None


def read_inspector(text: str) -> LayerReport | None:
    """Read what an engine inspector tells.

    Args:
        text: Its JSON.

    Returns:
        The report; None where the engine keeps no details.

    Raises:
        ValueError: The text is no JSON.
    """
    layers = [layer for layer in json.loads(text).get("Layers", []) if isinstance(layer, dict)]
    details = (
        (
            layer.get("Name", ""),
            layer.get("LayerType", ""),
            [_datatype(tensor) for tensor in layer.get("Inputs", [])],
            _NODE.findall(layer.get("Metadata", "")),
        )
        for layer in layers
    )
    return _report(details) if layers else None


def _report(layers: Iterable[tuple[str, str, list[str], list[str]]]) -> LayerReport:
    """The report of layers: name, kind, data types of the inputs, and ONNX nodes of each."""
    products: dict[str, set[str]] = {}
    attention = set()
    for name, kind, inputs, nodes in layers:
        if not nodes or not inputs or not _PRODUCTS.search(f"{kind} {name}"):
            continue
        layer = "+".join(sorted(set(nodes)))
        products.setdefault(inputs[0], set()).add(layer)
        if _FUSED.search(name):
            attention.add(layer)
    return LayerReport(
        products={kind: tuple(sorted(products[kind])) for kind in sorted(products)}, attention=tuple(sorted(attention))
    )


def _datatype(tensor: Mapping[str, object]) -> str:
    """The data type of a tensor, as the dump names it."""
    text = str(tensor.get("Datatype") or tensor.get("Format/Datatype") or "")
    return next((name for mark, name in _FORMATS if mark in text), text)
