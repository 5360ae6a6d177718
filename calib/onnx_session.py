"""ONNX Runtime on the CPU, for graphs on their way into a bundle: the only module of this folder that loads it."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime as ort
from onnxruntime import InferenceSession

from fctl.runtime.engines.processor import adds_int8_exactly


def load_session(graph: Path | onnx.ModelProto, *, optimised: bool = True) -> InferenceSession:
    """Load a graph in ONNX Runtime, on the CPU.

    Args:
        graph: An ONNX file, or a model in memory.
        optimised: Whether ONNX Runtime may merge and replace nodes; otherwise it runs them as they are written.

    Returns:
        A session that is ready to run.

    Raises:
        Exception: Whatever ONNX Runtime raises; its exceptions share no base class of their own.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4  # errors come as exceptions
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # threads that wait would keep cores busy
    if not adds_int8_exactly():
        options.add_session_config_entry("session.disable_quant_qdq", "1")  # Q/DQ as written, layers in fp32
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = str(graph) if isinstance(graph, Path) else graph.SerializeToString()
    return InferenceSession(source, options, providers=["CPUExecutionProvider"])


__all__ = ["InferenceSession", "load_session"]
