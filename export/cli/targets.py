"""Options of ``fctl-export`` about what one wants: a precision, INT8, TensorRT engines, or a repository for Triton."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fctl.runtime.choices import Precision
from fctl.runtime.cli.console import usage
from fctl.runtime.cli.groups import OptionGroup
from fctl.runtime.cli.options import Colours, class_colours, numbers, one_of
from fctl.runtime.engines.tensorrt.flavours import Flavour

from ..choices import Format, Ranges

if TYPE_CHECKING:
    from fctl.runtime.engines.tensorrt.plans import BuildOptions

    from ..revise import Revision


@dataclass(frozen=True, kw_only=True)
class Wanted(OptionGroup):
    """What is made, and where."""

    panel = "What you want"

    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="The bundle folder to make, NAME.fctl; a repository folder for triton. trt may leave it out: engines "
            "of a bundle then go to this machine's cache, where fctl-run finds them.",
        ),
    ] = None
    fmt: Annotated[
        Format,
        typer.Option(help="onnx: a bundle. trt: also TensorRT engines for this machine. triton: a model repository."),
    ] = "onnx"
    precision: Annotated[Precision, typer.Option(help="Of the graphs. int8 is calibrated with --calib.")] = "fp32"
    patches: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH", help="Images or folders for the parity gate; repeatable. Default: those shipped with fctl."
        ),
    ] = None
    coarse: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="For fp16 and int8 of a bundle that refines masks: those of the images in --patches or --calib, as "
            "fctl-run --out FOLDER makes them. Default: masks made of brightness.",
        ),
    ] = None

    share_contexts: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH",
            help="Images or folders on which to compare contexts that are encoded once a raster with exact ones, so "
            "that fctl-run knows whether to; repeatable. With --eval, labelled images decide.",
        ),
    ] = None
    validate_bf16: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH",
            help="Images or folders on which to compare bf16 with fp32, so that fctl-run --precision auto knows "
            "whether to take it; repeatable. With --eval, labelled images decide.",
        ),
    ] = None

    @property
    def images(self) -> tuple[Path, ...]:
        """Images or folders for the parity gate; none for those shipped with fctl."""
        return tuple(self.patches or ())


@dataclass(frozen=True, kw_only=True)
class Said(OptionGroup):
    """What a bundle says of itself, whatever its graphs are."""

    panel = "What the bundle says of itself"

    colours: Colours = None
    temperature: Annotated[
        float | None,
        typer.Option(
            metavar="NUMBER",
            help="Probabilities become surer (below 1) or less sure (above 1); fctl-eval --fit-temperature tells it.",
        ),
    ] = None

    def revision(self) -> Revision:
        """The options as `revise_bundle` takes them; a usage error where colours cannot be read."""
        from ..revise import Revision

        return Revision(colours=class_colours(self.colours), temperature=self.temperature)


@dataclass(frozen=True, kw_only=True)
class Int8(OptionGroup):
    """How int8 graphs are calibrated."""

    panel = "What you want: INT8 (--precision int8)"

    calib: Annotated[
        list[Path] | None,
        typer.Option(metavar="PATH", help="Images or folders like those that it will run on; repeatable."),
    ] = None
    count: Annotated[int, typer.Option(min=1, help="Patches to calibrate with; more are taken to try layers on.")] = 256
    seed: Annotated[int, typer.Option(min=0, help="Random seed that patches are drawn with.")] = 0
    ranges: Annotated[
        Ranges,
        typer.Option(
            metavar="NAME", help=f"How activations are ranged: {one_of(Ranges)}. auto: the best of the others."
        ),
    ] = "auto"
    min_agreement: Annotated[
        float,
        typer.Option(min=0, max=100, help="Percentage of the pixels that must keep their fp32 class, without --eval."),
    ] = 99.0
    min_class_iou: Annotated[
        float,
        typer.Option(
            min=0,
            max=100,
            help="IoU in percent, between fp32 and int8, that every class with 0.1 % of the pixels must keep.",
        ),
    ] = 85.0

    @property
    def least_class_iou(self) -> float:
        """`min_class_iou` as a proportion; a usage error where it was given as one."""
        if 0 < self.min_class_iou <= 1:
            raise usage(f"--min-class-iou: expected a percentage as 85, found {self.min_class_iou:g}")
        return self.min_class_iou / 100


@dataclass(frozen=True, kw_only=True)
class Int8Budget(OptionGroup):
    """Labelled images that decide how much int8 may cost."""

    panel = "What you want: INT8 within a budget of mIoU"

    evaluation: Annotated[
        Path | None,
        typer.Option("--eval", help="Labelled images (as fctl-eval --data); the budget is then the mIoU lost on them."),
    ] = None
    description: Annotated[Path | None, typer.Option(help="The description of --eval, as for fctl-eval.")] = None
    split: Annotated[str | None, typer.Option(metavar="SPLIT", help="Which images of --eval, as for fctl-eval.")] = None
    max_miou_drop: Annotated[float, typer.Option(min=0, max=100, help="Points of mIoU on --eval that may be lost.")] = (
        0.5
    )


@dataclass(frozen=True, kw_only=True)
class TensorRt(OptionGroup):
    """How engines are built."""

    panel = "What you want: TensorRT (--fmt trt)"

    flavour: Annotated[
        Flavour, typer.Option(metavar="NAME", help=f"What builds and runs the engines: {one_of(Flavour)}.")
    ] = "tensorrt"
    batch: Annotated[str, typer.Option(metavar="LIST", help="Batch sizes to build for, as 1,4,8.")] = "4"
    compute_capability: Annotated[
        int | None, typer.Option(help="tensorrt-rtx: build for GPUs that are not here, as 86 or 120.")
    ] = None
    workspace: Annotated[int | None, typer.Option(min=1, help="MiB of scratch memory at most.")] = None
    opt_level: Annotated[int | None, typer.Option(min=0, max=5, help="How long to search for kernels.")] = None
    hardware_compatible: Annotated[
        bool, typer.Option("--hardware-compatible", help="tensorrt: for all GPUs from Ampere on; slower.")
    ] = False
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="tensorrt: also for later minor versions; slower.")
    ] = False

    @property
    def batches(self) -> tuple[int, ...]:
        """Batch sizes in order, each once; a usage error where they cannot be read."""
        return tuple(sorted(set(numbers("--batch", self.batch, "1,4,8"))))

    def build_options(self) -> BuildOptions:
        """The options as `build_engines` takes them."""
        from fctl.runtime.engines.tensorrt.plans import BuildOptions

        return BuildOptions(
            flavour=self.flavour,
            batches=self.batches,
            compute_capability=self.compute_capability,
            workspace=self.workspace,
            optimisation=self.opt_level,
            hardware_compatible=self.hardware_compatible,
            version_compatible=self.version_compatible,
        )


@dataclass(frozen=True, kw_only=True)
class Triton(OptionGroup):
    """A model repository."""

    panel = "What you want: Triton (--fmt triton)"

    max_batch: Annotated[int, typer.Option(min=1, help="Largest batch that Triton may form.")] = 8
    plan: Annotated[Path | None, typer.Option(help="Serve this TensorRT plan of the fused graph.")] = None
