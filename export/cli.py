"""``fctl-export``."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fctl.runtime.console import command, one_line_errors, show_log, usage
from fctl.runtime.errors import EngineError

if TYPE_CHECKING:
    from fctl.runtime.bundle import Manifest

_FOR_ONNX = ("onnx", "onnxruntime")
_FOR_TORCH = ("torch", "onnx", "onnxscript", "onnxruntime")
_ARCHITECTURES = (
    "fctl-lite0, fctl-vgg16, fctl-mit-b0 to -b5, lcc-vgg16, fcn8s-vgg16, segformer-b0 to -b5, release-inria, "
    "release-deepglobe"
)
_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_CHOICES = {
    "fmt": ("onnx",),
    "graph": ("staged", "fused"),
    "weights": ("fp32", "fp16"),
    "layout": ("nchw", "nhwc"),
    "activation": ("logits", "softmax", "sigmoid", "labels"),
}
# What belongs to one kind of network only; the other kind refuses it.
_OF_CHECKPOINTS = ("arch", "medium", "large", "contexts", "scene_size", "graph", "weights")
_OF_FOREIGN = ("tile", "overlap", "scale", "mean", "std", "layout", "activation", "dtype", "bands", "output")


def export(
    context: typer.Context,
    network: Annotated[
        str,
        typer.Argument(
            metavar="NETWORK",
            help="A checkpoint of fctl; a PyTorch state_dict, with --arch; or a segmenter of your own as MODEL.onnx or "
            "package.module:factory.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The bundle folder to make, NAME.fctl.")],
    classes: Annotated[
        str | None, typer.Option(help="Class names in order, as land,water. A checkpoint of fctl knows them.")
    ] = None,
    fmt: Annotated[str, typer.Option(help="Format of the graphs: onnx.")] = "onnx",
    patches: Annotated[
        list[Path] | None, typer.Option(help="Images or folders for the parity gate. Default: those shipped with fctl.")
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of the weights, for the manifest.")] = None,
    gsd: Annotated[float | None, typer.Option(help="Ground sample distance of the training images, metres.")] = None,
    arch: Annotated[str | None, typer.Option(help=f"Architecture of bare weights: {_ARCHITECTURES}.")] = None,
    medium: Annotated[Path | None, typer.Option(help="release-*: the file of the medium context's encoder.")] = None,
    large: Annotated[Path | None, typer.Option(help="release-*: the file of the large context's encoder.")] = None,
    contexts: Annotated[
        str | None, typer.Option(help="Bare weights: sides of the context windows in pixels, as medium=762,large=1270.")
    ] = None,
    scene_size: Annotated[
        int | None, typer.Option(help="Global context: side in pixels of the images that it was trained with.")
    ] = None,
    graph: Annotated[
        str, typer.Option(help="Checkpoints: staged, or fused (one graph from raw windows to logits).")
    ] = "staged",
    weights: Annotated[
        str, typer.Option(help="Checkpoints: fp32, or fp16 (rounded and stored as fp16, computed in fp32).")
    ] = "fp32",
    tile: Annotated[
        int | None, typer.Option(min=1, help="Own network: side of a tile in pixels. Default: what the graph says.")
    ] = None,
    overlap: Annotated[
        int | None, typer.Option(min=0, help="Own network: overlap of tiles in pixels. Default: an eighth.")
    ] = None,
    scale: Annotated[float, typer.Option(help="Own network: it takes (raw * scale - mean) / std.")] = 1.0,
    mean: Annotated[str, typer.Option(help="Own network: one value, or one per band as 0.485,0.456,0.406.")] = "0",
    std: Annotated[str, typer.Option(help="Own network: likewise.")] = "1",
    layout: Annotated[str, typer.Option(help="Own network: axes of its image, nchw or nhwc.")] = "nchw",
    activation: Annotated[
        str, typer.Option(help="Own network: what it gives, logits, softmax, sigmoid or labels.")
    ] = "logits",
    dtype: Annotated[
        str | None, typer.Option(help="Own network: dtype of the rasters. Default: the graph's, or uint8.")
    ] = None,
    bands: Annotated[
        int | None, typer.Option(min=1, help="Own network: bands, where the graph leaves it open.")
    ] = None,
    output: Annotated[str | None, typer.Option(help="Own network: which output, where it has several.")] = None,
) -> None:
    """Export a network to a verified bundle that runs without PyTorch."""
    given = context.params
    for name, choices in _CHOICES.items():
        if given[name] not in choices:
            raise usage(f"--{name}: expected {' or '.join(choices)}, found {given[name]!r}")
    foreign = network.lower().endswith(".onnx") or bool(_FACTORY.fullmatch(network) and not Path(network).exists())
    _refuse_strangers(context, _OF_CHECKPOINTS if foreign else _OF_FOREIGN, foreign)
    show_log()
    with one_line_errors():
        manifest = _export_foreign(network, out, given) if foreign else _export_checkpoint(Path(network), out, given)
    from fctl.runtime.cli import print_parity

    print_parity(manifest)
    typer.echo(f"wrote {out}")


def _export_checkpoint(checkpoint: Path, out: Path, given: dict[str, Any]) -> Manifest:
    _require(_FOR_TORCH, "fctl[export,cpu]")
    from fctl.export.pipeline import ExportOptions, export_bundle

    files = {name: given[name] for name in ("medium", "large") if given[name]}
    options = ExportOptions(
        arch=given["arch"],
        classes=_names(given["classes"]),
        context_files=files,
        windows=_windows(given["contexts"]),
        scene=given["scene_size"],
        graph=given["graph"],
        patches=tuple(given["patches"] or ()),
        half_weights=given["weights"] == "fp16",
        licence=given["licence"],
        ground_sample_distance=given["gsd"],
    )
    return export_bundle(checkpoint, out, options)


def _export_foreign(network: str, out: Path, given: dict[str, Any]) -> Manifest:
    is_file = network.lower().endswith(".onnx")
    _require(_FOR_ONNX if is_file else _FOR_TORCH, "fctl[quant,cpu]" if is_file else "fctl[export,cpu]")
    from fctl.export.foreign import ForeignOptions, export_foreign_module, export_foreign_onnx

    if not given["classes"]:
        raise usage("--classes: a network of your own does not name its classes: give them, as in --classes land,water")
    options = ForeignOptions(
        classes=_names(given["classes"]),
        tile=given["tile"],
        overlap=given["overlap"],
        scale=given["scale"],
        mean=_numbers("--mean", given["mean"]),
        std=_numbers("--std", given["std"]),
        layout=given["layout"],
        activation=given["activation"],
        dtype=given["dtype"],
        bands=given["bands"],
        output=given["output"],
        patches=tuple(given["patches"] or ()),
        licence=given["licence"],
        ground_sample_distance=given["gsd"],
    )
    if is_file:
        return export_foreign_onnx(Path(network), out, options)
    return export_foreign_module(network, out, options)


def _refuse_strangers(context: typer.Context, names: Sequence[str], foreign: bool) -> None:
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            whose = "checkpoints" if foreign else "networks of your own (MODEL.onnx, package.module:factory)"
            raise usage(f"--{name.replace('_', '-')} is for {whose}: leave it out")


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",")) if text else ()


def _numbers(flag: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise usage(f"{flag}: expected numbers as in 0.485,0.456,0.406, found {text!r}") from None


def _windows(text: str | None) -> dict[str, int]:
    if text is None:
        return {}
    try:
        return {name.strip(): int(side) for name, side in (part.split("=") for part in text.split(","))}
    except ValueError:
        raise usage(f"--contexts: expected sides in pixels as in medium=762,large=1270, found {text!r}") from None


def _require(packages: Sequence[str], extra: str) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise EngineError(f"exporting needs {', '.join(missing)}: pip install '{extra}'")


app = command(export)
