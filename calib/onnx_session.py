"""ONNX Runtime for graphs on their way into a bundle, on the CPU: the one place in this folder that loads them."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime as ort
from onnxruntime import InferenceSession

from fctl.runtime.engines.processor import adds_int8_exactly


def load_session(graph: Path | onnx.ModelProto, *, optimised: bool = True) -> InferenceSession:
    """A file or a model, ready to run. optimised: or node by node, as they are written.

    Raises what ONNX Runtime raises: its exceptions share no base class of their own.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4  # errors come as exceptions
    if not adds_int8_exactly():
        options.add_session_config_entry("session.disable_quant_qdq", "1")  # Q/DQ as written, layers in fp32
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = str(graph) if isinstance(graph, Path) else graph.SerializeToString()
    return InferenceSession(source, options, providers=["CPUExecutionProvider"])


__all__ = ["InferenceSession", "load_session"]
