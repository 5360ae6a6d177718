"""``fctl-export``."""

from __future__ import annotations

import importlib.util
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fctl.runtime.cli.console import command, one_line_errors, progress_bars, show_log, usage
from fctl.runtime.errors import EngineError, InputError

if TYPE_CHECKING:
    from fctl.runtime.bundle.manifest import Manifest
    from fctl.runtime.bundle.store import Bundle
    from fctl.runtime.engines.tensorrt.plans import StoredPlan

    from ..precision.int8 import Int8Options

_FOR_ONNX = ("onnx", "onnxruntime")
_FOR_TORCH = ("torch", "onnx", "onnxscript", "onnxruntime")
_ARCHITECTURES = (
    "fctl-lite0, fctl-vgg16, fctl-mit-b0 to -b5, lcc-vgg16, fcn8s-vgg16, segformer-b0 to -b5, release-inria, "
    "release-deepglobe"
)
_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_CHOICES = {
    "fmt": ("onnx", "trt", "triton"),
    "precision": ("fp32", "fp16", "int8"),
    "flavour": ("tensorrt", "tensorrt-rtx"),
    "graph": ("staged", "fused"),
    "weights": ("fp32", "fp16"),
    "layout": ("nchw", "nhwc"),
    "activation": ("logits", "softmax", "sigmoid", "labels"),
    "ranges": ("auto", "minmax", "percentile", "entropy", "mse"),
}
# What belongs to one kind of network, or to one format, and is refused elsewhere.
_OWN = "networks of your own (MODEL.onnx, package.module:factory)"
_OF_CHECKPOINTS = ("arch", "medium", "large", "contexts", "scene_size", "graph", "weights")
_OF_FOREIGN = ("tile", "overlap", "scale", "mean", "std", "layout", "activation", "dtype", "bands", "output")
_OF_BOTH = ("classes", "licence", "gsd")
_OF_TRITON = ("max_batch", "plan")
_OF_INT8 = (
    "calib", "count", "seed", "ranges", "min_agreement", "evaluation", "description", "split", "max_miou_drop",
)  # fmt: skip
_OF_EVAL = ("description", "split", "max_miou_drop")
_OF_TRT = (
    "flavour", "batch", "compute_capability", "workspace", "opt_level", "hardware_compatible", "version_compatible",
)  # fmt: skip


def export(
    context: typer.Context,
    network: Annotated[
        str,
        typer.Argument(
            metavar="NETWORK",
            help="A checkpoint of fctl; a PyTorch state_dict, with --arch; a segmenter of your own as MODEL.onnx or "
            "package.module:factory; or a bundle, to make another precision or format of it.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The bundle folder to make, NAME.fctl; a repository folder for triton. trt may leave it out: engines "
            "of a bundle then go to this machine's cache, where fctl-run finds them."
        ),
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Class names in order, as land,water. A checkpoint of fctl knows them.")
    ] = None,
    fmt: Annotated[
        str, typer.Option(help="onnx; trt (adds TensorRT engines for this machine); triton (a model repository).")
    ] = "onnx",
    precision: Annotated[
        str, typer.Option(help="Of the graphs: fp32, fp16, or int8 (calibrated with --calib).")
    ] = "fp32",
    flavour: Annotated[str, typer.Option(help="trt: tensorrt or tensorrt-rtx.")] = "tensorrt",
    batch: Annotated[str, typer.Option(help="trt: batch sizes to build for, as 1,4,8.")] = "4",
    compute_capability: Annotated[
        int | None, typer.Option(help="tensorrt-rtx: build for GPUs that are not here, as 86 or 120.")
    ] = None,
    workspace: Annotated[int | None, typer.Option(min=1, help="trt: MiB of scratch memory at most.")] = None,
    opt_level: Annotated[int | None, typer.Option(min=0, max=5, help="trt: how long to search for kernels.")] = None,
    hardware_compatible: Annotated[
        bool, typer.Option("--hardware-compatible", help="tensorrt: for all GPUs from Ampere on; slower.")
    ] = False,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="tensorrt: also for later minor versions; slower.")
    ] = False,
    max_batch: Annotated[int, typer.Option(min=1, help="triton: largest batch that it may form.")] = 8,
    plan: Annotated[Path | None, typer.Option(help="triton: serve this TensorRT plan of the fused graph.")] = None,
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
    calib: Annotated[
        list[Path] | None, typer.Option(help="int8: images or folders like those that it will run on; repeatable.")
    ] = None,
    count: Annotated[
        int, typer.Option(min=1, help="int8: patches to calibrate with; more are taken to try layers on.")
    ] = 256,
    seed: Annotated[int, typer.Option(min=0, help="int8: random seed that patches are drawn with.")] = 0,
    ranges: Annotated[
        str,
        typer.Option(
            help="int8: how activations are ranged: minmax, percentile, entropy, mse, or auto, the best of them."
        ),
    ] = "auto",
    min_agreement: Annotated[
        float, typer.Option(min=0, max=100, help="int8: % of the pixels that must keep their fp32 class.")
    ] = 99.0,
    evaluation: Annotated[
        Path | None,
        typer.Option(
            "--eval", help="int8: labelled images (as fctl-eval --data); the budget is then the mIoU lost on them."
        ),
    ] = None,
    description: Annotated[Path | None, typer.Option(help="int8: the description of --eval, as for fctl-eval.")] = None,
    split: Annotated[str | None, typer.Option(help="int8: which images of --eval, as for fctl-eval.")] = None,
    max_miou_drop: Annotated[
        float, typer.Option(min=0, max=100, help="int8: points of mIoU on --eval that may be lost.")
    ] = 0.5,
) -> None:
    """Export a network to a verified bundle that runs without PyTorch, and to the engines that run it."""
    given = context.params
    for name, choices in _CHOICES.items():
        if given[name] not in choices:
            raise usage(f"--{name}: expected {' or '.join(choices)}, found {given[name]!r}")
    kind = _kind(network)
    _refuse_strangers(context, kind, fmt)
    if out is None and (fmt != "trt" or kind != "bundle"):
        raise usage("--out: expected where to write; only --fmt trt of a bundle can do without it")
    if kind == "bundle" and fmt == "onnx" and precision == "fp32":
        raise usage("a bundle holds its fp32 graphs already: give --precision fp16 or int8, --fmt trt or --fmt triton")
    batches = _batches(batch)
    show_log()
    with one_line_errors(), tempfile.TemporaryDirectory(prefix="fctl-") as scratch:
        if fmt == "onnx":
            assert out is not None
            _show(_bundle_of(network, kind, out, Path(scratch), given).manifest, out)
            return
        bundle = _bundle_of(network, kind, None, Path(scratch), given)
        if fmt == "trt":
            _show_plans(_build(bundle, out, batches, given))
        else:
            assert out is not None
            _require(_FOR_ONNX, "fctl[quant,cpu]")
            from ..triton import write_repository

            images = tuple(given["patches"] or ())
            written = write_repository(
                bundle, out, precision=given["precision"], max_batch=max_batch, plan=plan, patches=images
            )
            typer.echo(f"wrote {written}")


def _kind(network: str) -> str:
    """What sort of network an argument names."""
    if network.lower().endswith(".onnx") or (_FACTORY.fullmatch(network) and not Path(network).exists()):
        return "foreign"
    return "bundle" if network == "default" or Path(network).is_dir() else "checkpoint"


def _bundle_of(network: str, kind: str, out: Path | None, scratch: Path, given: dict[str, Any]) -> Bundle:
    """A bundle with graphs of the precision asked for. out: where it is to lie; None: it is only on the way."""
    from fctl.runtime.bundle.store import read_bundle

    wanted, name = given["precision"], given["out"].name if given["out"] else "bundle.fctl"
    if kind == "bundle":
        bundle = read_bundle(network)
        if out is None and wanted in bundle.manifest.precisions:
            if given["calib"]:
                raise InputError(f"{network} holds int8 graphs already: leave --calib out")
            return bundle
        _require(_FOR_ONNX, "fctl[quant,cpu]")
        from ..precision.add import check_fp32

        check_fp32(bundle, wanted)
    int8 = _int8_options(network, given) if wanted == "int8" else None  # before an export, which takes minutes
    if kind != "bundle":
        first = out if out and wanted == "fp32" else scratch / "fp32" / name
        export = _export_foreign if kind == "foreign" else _export_checkpoint
        export(network, first, given)
        bundle = read_bundle(first)
        if wanted == "fp32":
            return bundle
    if given["out"] is None:
        raise InputError(f"{network} holds no {wanted} graphs: give --out NAME.fctl, so that those made now are kept")
    _require(_FOR_ONNX, "fctl[quant,cpu]")
    made = out or scratch / name
    if int8:
        _quantise(bundle, made, int8)
    else:
        _halve(bundle, made, given)
    return read_bundle(made)


def _halve(bundle: Bundle, out: Path, given: dict[str, Any]) -> None:
    """Write a copy with fp16 graphs."""
    from ..precision.add import PrecisionOptions, add_precision

    add_precision(bundle, out, PrecisionOptions(precision="fp16", patches=tuple(given["patches"] or ())))


def _int8_options(network: str, given: dict[str, Any]) -> Int8Options:
    """How to make int8 graphs. Opens labelled images."""
    _require(_FOR_ONNX, "fctl[quant,cpu]")
    from fctl.runtime.evaluate.datasets import open_dataset
    from fctl.runtime.evaluate.selection import select

    from ..precision.int8 import Int8Options

    if not given["calib"]:
        raise InputError(
            f"{network} holds no int8 graphs: to make them, give --calib with images or folders like those that it "
            "will run on"
        )
    labelled = None
    if given["evaluation"]:
        labelled = select(open_dataset(given["evaluation"], description=given["description"]), given["split"])
    return Int8Options(
        calib=tuple(given["calib"]),
        count=given["count"],
        seed=given["seed"],
        ranges=given["ranges"],
        min_agreement=given["min_agreement"] / 100,
        labelled=labelled,
        max_miou_drop=given["max_miou_drop"] / 100,
    )


def _quantise(bundle: Bundle, out: Path, options: Int8Options) -> None:
    """Write a copy with int8 graphs."""
    from ..precision.int8 import add_int8

    with progress_bars() as progress:
        add_int8(bundle, out, options, progress)


def _build(bundle: Bundle, out: Path | None, batches: tuple[int, ...], given: dict[str, Any]) -> Sequence[StoredPlan]:
    from fctl.runtime.engines.tensorrt.plans import BuildOptions

    from ..deploy import build_engines

    options = BuildOptions(
        flavour=given["flavour"],
        batches=batches,
        compute_capability=given["compute_capability"],
        workspace=given["workspace"],
        optimisation=given["opt_level"],
        hardware_compatible=given["hardware_compatible"],
        version_compatible=given["version_compatible"],
    )
    return build_engines(bundle, given["precision"], options, out)


def _show(manifest: Manifest, out: Path) -> None:
    from fctl.runtime.cli.info import print_parity

    print_parity(manifest)
    typer.echo(f"wrote {out}")


def _show_plans(plans: Sequence[StoredPlan]) -> None:
    from fctl.runtime.cli.info import print_engines

    print_engines(plans)
    for plan in plans:
        typer.echo(f"wrote {plan.path}")


def _export_checkpoint(checkpoint: str, out: Path, given: dict[str, Any]) -> Manifest:
    _require(_FOR_TORCH, "fctl[export,cpu]")
    from ..pipeline import ExportOptions, export_bundle

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
    return export_bundle(Path(checkpoint), out, options)


def _export_foreign(network: str, out: Path, given: dict[str, Any]) -> Manifest:
    is_file = network.lower().endswith(".onnx")
    _require(_FOR_ONNX if is_file else _FOR_TORCH, "fctl[quant,cpu]" if is_file else "fctl[export,cpu]")
    from ..foreign import ForeignOptions, export_foreign_module, export_foreign_onnx

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


def _refuse_strangers(context: typer.Context, kind: str, fmt: str) -> None:
    """Options that mean nothing to this kind of network or format are an error, not ignored."""
    given = context.params
    refused = {name: "checkpoints" for name in _OF_CHECKPOINTS if kind != "checkpoint"}
    refused |= {name: _OWN for name in _OF_FOREIGN if kind != "foreign"}
    refused |= {name: "networks; a bundle says it itself" for name in _OF_BOTH if kind == "bundle"}
    refused |= {name: "--fmt trt" for name in _OF_TRT if fmt != "trt"}
    refused |= {name: "--fmt triton" for name in _OF_TRITON if fmt != "triton"}
    refused |= {name: "--precision int8" for name in _OF_INT8 if given["precision"] != "int8"}
    if given["precision"] == "int8":
        refused |= {name: "--eval" for name in _OF_EVAL if not given["evaluation"]}
        refused |= {"min_agreement": "int8 without --eval"} if given["evaluation"] else {}
        if kind == "bundle" and fmt != "triton":
            refused["patches"] = "other precisions of a bundle, int8 has --calib"
    for name, whose in refused.items():
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = "eval" if name == "evaluation" else name.replace("_", "-")
            raise usage(f"--{option} is for {whose}: leave it out")


def _batches(text: str) -> tuple[int, ...]:
    try:
        batches = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        batches = (0,)
    if min(batches) < 1:
        raise usage(f"--batch: expected numbers from 1 as in 1,4,8, found {text!r}")
    return batches


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
