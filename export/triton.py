"""A model repository for Triton Inference Server, from a bundle. Needs neither torch nor Triton.

``config.pbtxt`` is protobuf's text format of ``ModelConfig``; the tests parse it with Triton's own schema.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fctl.runtime.atomic import atomic_write, refuse_existing
from fctl.runtime.bundle.manifest import Manifest, Precision, TensorSpec
from fctl.runtime.bundle.records import encode
from fctl.runtime.bundle.store import Bundle
from fctl.runtime.errors import InputError

from .fuse import fused_interface, write_fused

CONFIG = "config.pbtxt"
_VERSION = "1"
_QUEUE_DELAY = 1000  # microseconds: little beside a patch, enough for the requests of one client to meet
_TYPES = {
    "uint8": "TYPE_UINT8",
    "uint16": "TYPE_UINT16",
    "int16": "TYPE_INT16",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
}
_NOT_IN_TENSORRT = ("uint16", "int16")


def write_repository(
    bundle: Bundle,
    out: Path,
    *,
    precision: Precision = "fp32",
    max_batch: int = 8,
    plan: Path | None = None,
    patches: Sequence[Path] = (),
) -> Path:
    """Write a bundle as one model of a Triton repository.

    Args:
        bundle: The bundle.
        out: The folder of the repository, which may hold other models already.
        precision: The precision of the graphs.
        max_batch: How many patches Triton may put into one batch; a bundle whose batch is fixed keeps that.
        plan: A TensorRT plan of the fused graph, served in place of it; nothing here can verify it.
        patches: Images or folders of images to verify fusing with (`write_fused`).

    Returns:
        The model's folder, `out`/NAME.

    Raises:
        BundleError: The bundle has no graphs of the precision, or they cannot be fused.
        InputError: `max_batch` or `plan` does not fit, or there are no images among `patches`.
        EngineError: ONNX Runtime cannot run a graph.
        ParityError: The fused graph differs from the staged ones.
        RasterError: An image cannot be read, or does not fit the bundle.
        OutputError: The model exists already, or cannot be written. After any error nothing is left behind.
    """
    if max_batch < 1:
        raise InputError(subject="`max_batch`", expected="at least 1", found=max_batch)
    if plan is not None:
        _check_plan(bundle.manifest, plan)
    config = triton_config(bundle, precision=precision, max_batch=max_batch, tensorrt=plan is not None)
    model = out / model_name(bundle.manifest)
    refuse_existing(model, remedy="choose another `out`, or remove it")
    with atomic_write(model) as folder:
        version = folder / _VERSION
        version.mkdir(parents=True)
        if plan is None:
            write_fused(bundle, version / "model.onnx", precision=precision, patches=patches)
        else:
            shutil.copyfile(plan, version / "model.plan")
        (folder / CONFIG).write_text(config, encoding="utf-8")
    return model


def model_name(manifest: Manifest) -> str:
    """Name a bundle's model in Triton, where the name is a folder and part of a URL.

    Args:
        manifest: The bundle's manifest.

    Returns:
        The bundle's name, with an underscore in place of everything but ASCII letters, digits, "_" and "-".
    """
    return re.sub(r"[^A-Za-z0-9_-]+", "_", manifest.name).strip("_") or "model"


def triton_config(bundle: Bundle, *, precision: Precision, max_batch: int, tensorrt: bool) -> str:
    """Describe a bundle's fused graph for Triton.

    There are no preferred batch sizes: Triton advises against them unless one is much faster than its neighbours. There
    is no label file, which names the elements of a flat vector, and scores (classes, P, P) are none; class names are a
    parameter.

    Args:
        bundle: The bundle.
        precision: The precision of the graphs.
        max_batch: How many patches Triton may put into one batch.
        tensorrt: Whether a TensorRT plan is served in place of the ONNX graph.

    Returns:
        The text of ``config.pbtxt``.

    Raises:
        BundleError: The bundle has no graphs of the precision.
    """
    manifest = bundle.manifest
    inputs, output = fused_interface(bundle, precision)
    fixed = manifest.fixed_batch is not None
    config: dict[str, object] = {
        "name": model_name(manifest),
        **({"platform": "tensorrt_plan"} if tensorrt else {"backend": "onnxruntime"}),
        "max_batch_size": 0 if fixed else max_batch,
        "input": [_tensor(spec) for spec in inputs],
        "output": [_tensor(output)],
    }
    if not fixed:
        config["dynamic_batching"] = {"max_queue_delay_microseconds": _QUEUE_DELAY}
    # One instance on every GPU; where there is none, one on the CPU, whose threads it uses alone.
    config["instance_group"] = {"count": 1, "kind": _Symbol("KIND_GPU" if tensorrt else "KIND_AUTO")}
    config["model_warmup"] = [_warmup(inputs, size) for size in ((1,) if fixed else sorted({1, max_batch}))]
    config["parameters"] = [
        {"key": f"fctl_{key}", "value": {"string_value": json.dumps(value, ensure_ascii=False)}}
        for key, value in _for_clients(manifest, precision).items()
    ]
    return "\n".join(_lines(config)) + "\n"


def _check_plan(manifest: Manifest, plan: Path) -> None:
    """Raise InputError for a plan that is no file, or that TensorRT cannot have built of this network."""
    if not plan.is_file():
        raise InputError(subject="`plan`", expected="a TensorRT plan of the fused graph", found=f"no file {plan}")
    if manifest.input.dtype in _NOT_IN_TENSORRT:
        raise InputError(
            f"TensorRT takes no {manifest.input.dtype}, which this network does: leave it out to serve the ONNX graph",
            subject="`plan`",
        )


def _tensor(spec: TensorSpec) -> dict[str, object]:
    return {"name": spec.name, "data_type": _Symbol(_TYPES[spec.dtype]), "dims": _dims(spec)}


def _dims(spec: TensorSpec) -> list[int]:
    """All axes but a symbolic batch, which Triton adds; a fixed one is an axis as any other."""
    return [side for side in spec.shape if isinstance(side, int)]


def _warmup(inputs: Sequence[TensorSpec], size: int) -> dict[str, object]:
    """One request of black patches while the model is loaded, so that no client waits for the engine's own warm-up."""
    zeros = [
        {"key": spec.name, "value": {"data_type": _Symbol(_TYPES[spec.dtype]), "dims": _dims(spec), "zero_data": True}}
        for spec in inputs
    ]
    return {"name": f"batch of {size}", "batch_size": size, "inputs": zeros}


def _for_clients(manifest: Manifest, precision: Precision) -> dict[str, object]:
    """What a client must know to cut patches and merge scores, and that Triton has no field for."""
    contexts = [encode(context) for context in manifest.contexts]
    for context in contexts:
        del context["encoder"]  # there is one graph
    return {
        "name": manifest.name,
        "checkpoint_sha256": manifest.provenance.checkpoint_sha256,
        "precision": precision,
        "classes": manifest.class_names,
        "tile": manifest.tile,
        "plan": encode(manifest.plan),
        "contexts": contexts,
        "merge": manifest.merge,
    }


class _Symbol(str):
    """The name of an enumerator: written without quotes."""

    __slots__ = ()


def _lines(message: Mapping[str, object], indent: str = "") -> Iterator[str]:
    """A message in protobuf's text format; a list of messages repeats the field."""
    for key, value in message.items():
        for item in _items(value):
            if isinstance(item, Mapping):
                yield f"{indent}{key} {{"
                yield from _lines(item, f"{indent}  ")
                yield f"{indent}}}"
            else:
                yield f"{indent}{key}: {_scalar(item)}"


def _items(value: object) -> list[object]:
    """The messages of a list, which repeat their field, or a single value."""
    return value if isinstance(value, list) and all(isinstance(item, Mapping) for item in value) else [value]


def _scalar(value: object) -> str:
    if isinstance(value, list):
        return f"[ {', '.join(map(_scalar, value))} ]"
    if isinstance(value, _Symbol):
        return value
    # JSON's true, numbers and escapes in strings are those of the text format too.
    return json.dumps(value, ensure_ascii=False)
