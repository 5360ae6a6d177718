"""What ``fctl-export`` makes: bundles of networks, and of bundles other precisions, engines and repositories."""

from __future__ import annotations

import importlib.util
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fctl.runtime import remedies
from fctl.runtime.atomic import refuse_existing
from fctl.runtime.bundle.manifest import ClassInfo
from fctl.runtime.bundle.store import Bundle, read_bundle
from fctl.runtime.cli.tables import progress_bars
from fctl.runtime.errors import EngineError, InputError

from .sources import CheckpointOptions, Described, OwnNetwork
from .targets import Int8, Int8Budget, Said, TensorRt, Triton, Wanted

if TYPE_CHECKING:
    from fctl.runtime.engines.tensorrt.plans import StoredPlan
    from fctl.runtime.evaluate.datasets import Dataset

    from ..compare import ComparedOn
    from ..precision.int8 import Int8Options

Kind = Literal["bundle", "checkpoint", "own"]

_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_FOR_ONNX = ("onnx", "onnxruntime")
_FOR_TORCH = ("torch", "onnx", "onnxscript", "onnxruntime")


def kind_of(network: str) -> Kind:
    """What sort of network an argument names."""
    if network.lower().endswith(".onnx") or (_FACTORY.fullmatch(network) and not Path(network).exists()):
        return "own"
    if is_torchscript(Path(network)):
        return "own"
    return "bundle" if network == "default" or Path(network).is_dir() else "checkpoint"


def is_torchscript(path: Path) -> bool:
    """Whether a file holds a module of TorchScript: it is an archive that holds code too."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False
    return any("/code/" in f"/{name}" and name.endswith(".py") for name in names)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What there is, and what is to be made of it.

    Attributes:
        network: A bundle, a checkpoint, an ONNX file, or a factory as ``package.module:function``.
        kind: Which of them.
        wanted: What is made, and where.
        described: What the network does not say of itself.
        checkpoint: How to read a checkpoint.
        own: How to read a network of the user's own.
        said: What the bundle says of itself.
        int8: How int8 graphs are calibrated.
        budget: Labelled images that decide how much int8 may cost.
        tensorrt: How engines are built.
        triton: How a model is served.
    """

    network: str
    kind: Kind
    wanted: Wanted
    described: Described
    checkpoint: CheckpointOptions
    own: OwnNetwork
    said: Said
    int8: Int8
    budget: Int8Budget
    tensorrt: TensorRt
    triton: Triton


def make_bundle(job: Job, out: Path | None, scratch: Path) -> Bundle:
    """A bundle with graphs of the precision that is wanted, and which says what it is to say; see `_with_graphs`."""
    revision = job.said.revision()
    if out is None or revision.is_empty:
        return _with_graphs(job, out, scratch)
    from ..revise import revise_bundle

    refuse_existing(out, remedy="bundles are never changed: choose another `out`, or remove it")
    classes = tuple(ClassInfo(name=name, colour=(0, 0, 0)) for name in job.described.names)
    if job.kind == "bundle":
        classes = read_bundle(job.network).manifest.classes
    if classes:  # a checkpoint may know its own
        revision.classes(classes)  # raises before graphs are made, which takes minutes
    made = None if job.kind == "bundle" and job.wanted.precision == "fp32" else scratch / "made" / out.name
    return revise_bundle(_with_graphs(job, made, scratch), out, revision)


def _with_graphs(job: Job, out: Path | None, scratch: Path) -> Bundle:
    """A bundle with graphs of the precision that is wanted.

    Args:
        job: What there is, and what is wanted.
        out: The folder to make; None where the bundle is only on the way to something else.
        scratch: A folder for what is made on the way.

    Returns:
        The bundle: `out`, one in `scratch`, or the network itself where that holds such graphs.
    """
    wanted, name = job.wanted.precision, job.wanted.out.name if job.wanted.out else "bundle.fctl"
    if job.kind == "bundle":
        bundle = read_bundle(job.network)
        if out is None and wanted in bundle.manifest.precisions:
            if job.int8.calib:
                raise InputError(f"{job.network} holds int8 graphs already: leave --calib out")
            if job.wanted.coarse:
                raise InputError(f"{job.network} holds {wanted} graphs already: leave --coarse out")
            return bundle
        if job.wanted.validate_bf16 is not None:
            assert out is not None  # _check saw to it
            return _validate_bf16(job, bundle, out)
        _require(_FOR_ONNX, "quant,cpu")
        if job.wanted.share_contexts is None:
            from ..precision.add import check_fp32

            check_fp32(bundle, wanted)
    int8 = _int8_options(job) if wanted == "int8" else None  # before an export, which takes minutes
    shared = _shared_options(job) if job.wanted.share_contexts is not None else None
    if shared:
        from ..sharing import share_contexts

        assert out is not None  # _check saw to it
        exact = bundle if job.kind == "bundle" else _export(job, scratch / "exact" / name)
        with progress_bars() as progress:
            return share_contexts(exact, out, shared, progress)
    if job.kind != "bundle":
        bundle = _export(job, out if out and wanted == "fp32" else scratch / "fp32" / name)
        if wanted == "fp32":
            return bundle
    if job.wanted.out is None:
        raise InputError(
            f"{job.network} holds no {wanted} graphs: give --out NAME.fctl, so that those made now are kept"
        )
    _require(_FOR_ONNX, "quant,cpu")
    made = out or scratch / name
    if int8:
        _quantise(bundle, made, int8)
    else:
        _halve(bundle, made, job.wanted)
    return read_bundle(made)


def make_engines(job: Job, bundle: Bundle) -> Sequence[StoredPlan]:
    """Build the engines of a bundle, into a copy of it or this machine's cache.

    Args:
        job: What is wanted.
        bundle: A bundle with graphs of the precision that is wanted.

    Returns:
        What was built.
    """
    from ..deploy import build_engines

    return build_engines(bundle, job.wanted.precision, job.tensorrt.build_options(), job.wanted.out)


def make_repository(job: Job, bundle: Bundle, out: Path) -> Path:
    """Write a bundle into a model repository.

    Args:
        job: What is wanted.
        bundle: A bundle with graphs of the precision that is wanted.
        out: The repository.

    Returns:
        The folder of the model in it.
    """
    _require(_FOR_ONNX, "quant,cpu")
    from ..triton import write_repository

    return write_repository(
        bundle,
        out,
        precision=job.wanted.precision,
        max_batch=job.triton.max_batch,
        plan=job.triton.plan,
        patches=job.wanted.images,
    )


def _export(job: Job, out: Path) -> Bundle:
    """Export a checkpoint or a network of the user's own to fp32 graphs."""
    if job.kind == "checkpoint":
        _require(_FOR_TORCH, "export,cpu")
        from ..pipeline import export_bundle

        export_bundle(Path(job.network), out, job.checkpoint.export_options(job.described, job.wanted.images))
        return read_bundle(out)
    is_file = job.network.lower().endswith(".onnx")
    _require(_FOR_ONNX if is_file else _FOR_TORCH, "quant,cpu" if is_file else "export,cpu")
    from ..foreign import export_foreign_module, export_foreign_onnx

    options = job.own.foreign_options(job.described, job.wanted.images)
    if is_file:
        export_foreign_onnx(Path(job.network), out, options)
    else:
        export_foreign_module(job.network, out, options)
    return read_bundle(out)


def _int8_options(job: Job) -> Int8Options:
    """How to make int8 graphs. Opens labelled images."""
    _require(_FOR_ONNX, "quant,cpu")
    from ..precision.int8 import Int8Options

    int8, budget = job.int8, job.budget
    if not int8.calib:
        raise InputError(
            f"{job.network} holds no int8 graphs: to make them, give --calib with images or folders like those that it "
            "will run on"
        )
    labelled = _labelled(budget)
    return Int8Options(
        calib=tuple(int8.calib),
        coarse=job.wanted.coarse,
        count=int8.count,
        seed=int8.seed,
        ranges=int8.ranges,
        min_agreement=int8.min_agreement / 100,
        labelled=labelled,
        max_miou_drop=budget.max_miou_drop / 100,
        min_class_iou=int8.least_class_iou,
    )


def _labelled(budget: Int8Budget) -> Dataset | None:
    """The labelled images that decide, if there are some."""
    from fctl.runtime.evaluate.datasets import open_dataset
    from fctl.runtime.evaluate.selection import select

    if not budget.evaluation:
        return None
    try:
        return select(open_dataset(budget.evaluation, description=budget.description), budget.split)
    except InputError as error:  # which speaks of fctl-eval's options
        raise InputError(error.worded({"data": "`eval`", "form": "form with fctl-eval"})) from error


def _shared_options(job: Job) -> ComparedOn:
    """On what shared contexts are compared. Opens labelled images."""
    _require(_FOR_TORCH, "export,cpu")  # which knows where the cells of a backbone lie
    return _compared_on(job, job.wanted.share_contexts)


def _compared_on(job: Job, images: Sequence[Path] | None) -> ComparedOn:
    """On what two ways to run a bundle are compared. Opens labelled images."""
    from ..compare import ComparedOn

    return ComparedOn(images=tuple(images or ()), labelled=_labelled(job.budget))


def _validate_bf16(job: Job, bundle: Bundle, out: Path) -> Bundle:
    """Write a copy that says what bf16 changes."""
    from ..bf16 import validate_bf16

    on = _compared_on(job, job.wanted.validate_bf16)
    with progress_bars() as progress:
        return validate_bf16(bundle, out, on, progress)


def _quantise(bundle: Bundle, out: Path, options: Int8Options) -> None:
    """Write a copy with int8 graphs."""
    from ..precision.int8 import add_int8

    with progress_bars() as progress:
        add_int8(bundle, out, options, progress)


def _halve(bundle: Bundle, out: Path, wanted: Wanted) -> None:
    """Write a copy with fp16 graphs."""
    from ..precision.add import PrecisionOptions, add_precision

    add_precision(bundle, out, PrecisionOptions(precision="fp16", patches=wanted.images, coarse=wanted.coarse))


def _require(packages: Sequence[str], extra: str) -> None:
    """Raise EngineError with the remedy where a package is missing."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise EngineError(f"exporting needs {', '.join(missing)}", remedy=remedies.install(extra))
