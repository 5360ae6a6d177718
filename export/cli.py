"""``fctl-export``."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from fctl.runtime.console import command, one_line_errors, show_log, usage
from fctl.runtime.errors import EngineError

_NEEDS = ("torch", "onnx", "onnxscript", "onnxruntime")


def export(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint of fctl, or a PyTorch state_dict with --arch.")],
    out: Annotated[Path, typer.Option(help="The bundle folder to make, NAME.fctl.")],
    arch: Annotated[str | None, typer.Option(help="Architecture of bare weights: fctl-lite0.")] = None,
    fmt: Annotated[str, typer.Option(help="Format of the graphs: onnx.")] = "onnx",
    classes: Annotated[str | None, typer.Option(help="Class names in order, as land,water.")] = None,
    patches: Annotated[
        list[Path] | None, typer.Option(help="Images or folders for the parity gate. Default: those shipped with fctl.")
    ] = None,
    weights: Annotated[str, typer.Option(help="fp32, or fp16: rounded and stored as fp16, computed in fp32.")] = "fp32",
    licence: Annotated[str | None, typer.Option(help="Licence of the weights, for the manifest.")] = None,
    gsd: Annotated[float | None, typer.Option(help="Ground sample distance of the training images, metres.")] = None,
) -> None:
    """Export a checkpoint to a verified bundle that runs without PyTorch."""
    if fmt != "onnx":
        raise usage(f"--fmt: expected onnx, found {fmt!r}")
    if weights not in ("fp32", "fp16"):
        raise usage(f"--weights: expected fp32 or fp16, found {weights!r}")
    show_log()
    with one_line_errors():
        _require_packages()
        from fctl.export.pipeline import ExportOptions, export_bundle
        from fctl.runtime.cli import print_parity

        options = ExportOptions(
            arch=arch,
            classes=tuple(name.strip() for name in classes.split(",")) if classes else (),
            patches=tuple(patches or ()),
            half_weights=weights == "fp16",
            licence=licence,
            ground_sample_distance=gsd,
        )
        manifest = export_bundle(checkpoint, out, options)
    print_parity(manifest)
    typer.echo(f"wrote {out}")


def _require_packages() -> None:
    missing = [name for name in _NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise EngineError(f"exporting needs {', '.join(missing)}: pip install 'fctl[export,cpu]'")


app = command(export)
