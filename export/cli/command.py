"""``fctl-export``."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fctl.runtime.cli.console import command, echo, refuse, refuse_one, usage
from fctl.runtime.cli.spellings import Spellings

from .sources import CheckpointOptions, Described, OwnNetwork
from .targets import Int8, Int8Budget, Said, TensorRt, Triton, Wanted

if TYPE_CHECKING:
    from .make import Job


def export(
    network: Annotated[
        str,
        typer.Argument(
            metavar="NETWORK",
            help="A checkpoint of fctl; a PyTorch state_dict, with --arch; a segmenter of your own as MODEL.onnx or "
            "package.module:factory; or a bundle, to make another precision or format of it.",
        ),
    ],
    described: Described,
    checkpoint: CheckpointOptions,
    own: OwnNetwork,
    said: Said,
    wanted: Wanted,
    int8: Int8,
    budget: Int8Budget,
    tensorrt: TensorRt,
    triton: Triton,
) -> None:
    """Export a network to a verified bundle that runs without PyTorch, and to the engines that run it."""
    from .make import Job, kind_of

    job = Job(
        network=network,
        kind=kind_of(network),
        wanted=wanted,
        described=described,
        checkpoint=checkpoint,
        own=own,
        said=said,
        int8=int8,
        budget=budget,
        tensorrt=tensorrt,
        triton=triton,
    )
    _check(job)
    with tempfile.TemporaryDirectory(prefix="fctl-") as scratch:
        written = _made(job, Path(scratch))
    for path in written:
        echo(f"wrote {path}")


def _made(job: Job, scratch: Path) -> Sequence[Path]:
    """Make what is wanted, print what came of it, and return what was written."""
    from fctl.runtime.cli.info import print_engines, print_parity

    from .make import make_bundle, make_engines, make_repository

    out, fmt = job.wanted.out, job.wanted.fmt
    if fmt == "trt":
        plans = make_engines(job, make_bundle(job, None, scratch))
        print_engines(plans)
        return [plan.path for plan in plans]
    assert out is not None  # _check saw to it
    if fmt == "triton":
        return [make_repository(job, make_bundle(job, None, scratch), out)]
    print_parity(make_bundle(job, out, scratch).manifest)
    return [out]


def _check(job: Job) -> None:
    """Raise a usage error for options that mean nothing here, and for those that are missing."""
    wanted, is_bundle = job.wanted, job.kind == "bundle"
    if job.kind != "checkpoint":
        refuse(CheckpointOptions, "checkpoints")
    if job.kind != "own":
        refuse(OwnNetwork, "networks of your own (MODEL.onnx, package.module:factory)")
    if is_bundle:
        refuse(Described, "networks; a bundle says it itself")
    if wanted.fmt != "onnx":
        refuse(Said, "bundles (--fmt onnx), of which the other formats can then be made")
    if wanted.fmt != "trt":
        refuse(TensorRt, "--fmt trt")
    if wanted.fmt != "triton":
        refuse(Triton, "--fmt triton")
    _check_budget(job)
    if wanted.precision == "int8" and is_bundle and wanted.fmt != "triton":
        refuse_one("patches", "other precisions of a bundle, int8 has --calib")
    if wanted.precision == "fp32":
        refuse_one("coarse", "--precision fp16 and int8")
    if wanted.out is None and (wanted.fmt != "trt" or not is_bundle):
        raise usage("--out: expected where to write; only --fmt trt of a bundle can do without it")
    if wanted.share_contexts is not None:
        _check_sharing(job)
    elif wanted.validate_bf16 is not None:
        _check_bf16(job)
    elif is_bundle and wanted.fmt == "onnx" and wanted.precision == "fp32" and job.said.revision().is_empty:
        raise usage("a bundle holds its fp32 graphs already: give --precision fp16 or int8, --fmt trt or --fmt triton")
    job.tensorrt.build_options()  # before anything is made, which takes minutes


def _check_budget(job: Job) -> None:
    """Raise a usage error for options of int8 and of labelled images that mean nothing here."""
    if job.wanted.precision != "int8":
        refuse(Int8, "--precision int8")
        if job.wanted.share_contexts is None and job.wanted.validate_bf16 is None:
            refuse(Int8Budget, "--precision int8, --share-contexts and --validate-bf16")
    elif job.budget.evaluation:
        refuse_one("min_agreement", "int8 without --eval")
    else:
        refuse(Int8Budget, "--eval")


def _check_sharing(job: Job) -> None:
    """Raise a usage error where contexts cannot be compared in the same go."""
    if job.kind == "own":
        raise usage("--share-contexts: expected a network of fctl, which says where the cells of its features lie")
    if (
        job.wanted.precision != "fp32"
        or job.wanted.fmt != "onnx"
        or (job.kind == "bundle" and not job.said.revision().is_empty)
    ):
        raise usage("--share-contexts: expected a run of its own: first this, then anything else of its bundle")
    if job.wanted.validate_bf16 is not None:
        raise usage("--validate-bf16: expected a run of its own, after --share-contexts")


def _check_bf16(job: Job) -> None:
    """Raise a usage error where bf16 cannot be validated in the same go."""
    if job.kind != "bundle":
        raise usage("--validate-bf16: expected a bundle: export the network first")
    if job.wanted.precision != "fp32" or job.wanted.fmt != "onnx" or not job.said.revision().is_empty:
        raise usage("--validate-bf16: expected a run of its own: first this, then anything else of its bundle")


app = command(
    export,
    examples=(
        "checkpoint.pt -o city.fctl",
        "city.fctl --precision fp16 -o half.fctl",
    ),
    spellings=Spellings(options={"--contexts": "--context-sizes", "--bands": "--band-count"}),
)
