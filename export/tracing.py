"""PyTorch modules as ONNX models: the only module that traces."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from fctl.runtime.bundle.manifest import BATCH, TensorSpec

from .onnx_graph import OPSET, merge_pads, save_model, spell_out_softmax, store_half

_SCRIPT_OPSET = 17  # of PyTorch's former exporter


def export_onnx(
    module: nn.Module, path: Path, inputs: dict[str, Tensor], outputs: str | Sequence[str], *, half_weights: bool
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Write a module as one ONNX file with a symbolic batch.

    Args:
        module: The module.
        path: The file to write.
        inputs: Example inputs by name, in the order of the module's arguments, with a batch of 2 or more.
        outputs: The name of its output, or the names of several.
        half_weights: Whether weights that fp16 holds exactly are stored as fp16 and cast back on loading; no value
            changes.

    Returns:
        The specs of the file's inputs and of its outputs.
    """
    model = trace(module, inputs, outputs)
    merge_pads(model)
    spell_out_softmax(model)
    if half_weights:
        store_half(model)
    return save_model(model, path)


def trace(
    module: nn.Module, inputs: dict[str, Tensor], outputs: str | Sequence[str], *, symbolic_batch: bool = True
) -> onnx.ModelProto:
    """Trace a module in evaluation mode.

    Args:
        module: The module.
        inputs: Example inputs by name, in the order of the module's arguments.
        outputs: The name of its output, or the names of several.
        symbolic_batch: Whether the model takes any batch, or only that of the examples.

    Returns:
        The model, in opset `OPSET`.

    Raises:
        Exception: Whatever PyTorch raises for a module that it cannot trace.
    """
    batch = torch.export.Dim(BATCH, min=1, max=1024)
    shapes = tuple({0: batch} if symbolic_batch else {} for _ in inputs)
    # A module with *args takes one entry for all of them.
    variadic = any(p.kind == p.VAR_POSITIONAL for p in inspect.signature(module.forward).parameters.values())
    dynamic = (shapes[0], shapes[1:]) if variadic and len(shapes) > 1 else shapes
    with warnings.catch_warnings(), _silent():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(), tuple(inputs.values()), dynamo=True, opset_version=OPSET, dynamic_shapes=dynamic,
            input_names=list(inputs), verbose=False,
            output_names=[outputs] if isinstance(outputs, str) else list(outputs),
        )  # fmt: skip
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    return model


def trace_script(module: nn.Module, inputs: Mapping[str, Tensor], output: str) -> onnx.ModelProto:
    """Export a module that holds TorchScript, with PyTorch's former exporter.

    Args:
        module: The module, in evaluation mode.
        inputs: Example inputs by name, in the order of the module's arguments, with a batch of 2.
        output: The name of its output.

    Returns:
        The model, with an open batch.

    Raises:
        Exception: Whatever PyTorch raises for a module that it cannot export.
    """
    record: Callable[..., nn.Module] = torch.jit.trace
    with warnings.catch_warnings(), _silent(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        images = tuple(inputs.values())
        traced = record(module.eval(), images, strict=False, check_trace=False)  # it may return dictionaries
        path = Path(folder) / "script.onnx"
        torch.onnx.export(
            traced, images, path, dynamo=False, opset_version=_SCRIPT_OPSET, input_names=list(inputs),
            output_names=[output], dynamic_axes={name: {0: BATCH} for name in (*inputs, output)}, verbose=False,
        )  # fmt: skip
        return onnx.load(path)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Suppress what the exporter prints and logs of its progress."""
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
