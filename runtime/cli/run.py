"""``fctl-run``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..choices import Backend, OnBadBlock, RunPrecision
from ..errors import OutputError
from .console import command, echo, fail, usage
from .groups import OptionGroup
from .interrupts import ending_at_once
from .options import Bands, Batch, BuildEngines, Overwrite, band_numbers, one_of
from .spellings import Spellings
from .tables import print_table, progress_bars

if TYPE_CHECKING:
    from ..raster.places import Place
    from ..segment.results import Estimate, Paths, Report
    from ..segment.segmenter import Segmenter


_Action = Callable[["Place", "Paths"], "Report | Estimate"]


@dataclass(frozen=True, kw_only=True)
class Outputs(OptionGroup):
    """What is written, and where."""

    panel = "Outputs"

    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="A folder; or, for one image, a name ending in .tif for the mask itself."),
    ] = Path()
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also write a band of probability per class.")
    ] = False
    preview: Annotated[bool, typer.Option(help="Also write a PNG of the mask over the image.")] = True
    overwrite: Overwrite = False
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on where an earlier run of the same outputs ended (NAME.fctl-run beside them)."
        ),
    ] = False
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what it would take, and stop.")] = False


@dataclass(frozen=True, kw_only=True)
class EngineOptions(OptionGroup):
    """What runs the network."""

    panel = "Engine"

    backend: Annotated[
        Backend,
        typer.Option(metavar="ENGINE", help=f"{one_of(Backend)}. auto: the fastest that is installed and ready."),
    ] = "auto"
    precision: Annotated[
        RunPrecision,
        typer.Option(help="bf16 needs OpenVINO and a processor that can; fp16 and int8 a bundle that has them."),
    ] = "fp32"
    batch: Batch = 4
    build_engines: BuildEngines = False
    isolate: Annotated[
        bool,
        typer.Option("--isolate", help="Run the engine in a child process, which a graph of a stranger may crash."),
    ] = False


@dataclass(frozen=True, kw_only=True)
class Limits(OptionGroup):
    """What an image may be, and what a run may take."""

    panel = "Limits"

    memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Most memory of the whole process, as 600M or 2G: kept to, or refused."),
    ] = None
    on_bad_block: Annotated[
        OnBadBlock,
        typer.Option(help="A block of an image that cannot be read: fail, or nodata to leave it out and go on."),
    ] = "fail"
    allow_remote: Annotated[
        bool,
        typer.Option("--allow-remote", help="Open whatever GDAL opens, also what names other files: trust the images."),
    ] = False
    max_pixels: Annotated[int, typer.Option(min=1, help="Most pixels of an image.")] = 40_000_000_000
    max_bands: Annotated[int, typer.Option(min=1, help="Most bands of an image.")] = 1000
    max_block: Annotated[
        str, typer.Option(metavar="SIZE", help="Most memory of one block of an image, as GDAL decodes it.")
    ] = "2G"


@dataclass(frozen=True, kw_only=True)
class Segmentation(OptionGroup):
    """How images are segmented."""

    panel = "Segmentation"

    bundle: Annotated[str, typer.Option(help="A bundle folder, or 'default' for the one shipped with fctl.")] = (
        "default"
    )
    tta: Annotated[
        bool, typer.Option("--tta", help="Segment every patch in all 8 turns and average: better, 8 times the work.")
    ] = False
    scene_size: Annotated[
        int | None,
        typer.Option(min=1, help="Side in pixels of the blocks that a global context shows of large rasters."),
    ] = None
    bands: Bands = None


def run(
    images: Annotated[  # no paths: names of parts of containers may hold "//"
        list[str],
        typer.Argument(metavar="IMAGE", help="GeoTIFF, PNG or JPEG files, or parts of containers as GDAL names them."),
    ],
    segmentation: Segmentation,
    engine: EngineOptions,
    outputs: Outputs,
    limits: Limits,
) -> None:
    """Segment images into masks with class ids, colours and the image's georeference.

    Writes <name>_mask.tif, <name>_preview.png and, where wanted, <name>_prob.tif.
    """
    bands = band_numbers(segmentation.bands)
    targets = _targets(images, outputs)

    with ending_at_once(), _segmenter(segmentation, engine, limits) as segmenter:
        action = (_estimator if outputs.dry_run else _runner)(segmenter, bands, outputs, limits)
        reports = [_attempt(action, image, paths) for image, paths in targets.items()]
    done = [report for report in reports if report is not None]
    if len(targets) > 1:
        _print_summary(done)
    if failed := len(targets) - len(done):
        if len(targets) > 1:
            typer.echo(f"{failed} of {len(targets)} images failed", err=True)
        raise typer.Exit(1)


def _segmenter(segmentation: Segmentation, engine: EngineOptions, limits: Limits) -> Segmenter:
    from ..raster.access import Access
    from ..segment.memory import parsed_size
    from ..segment.segmenter import Segmenter

    return Segmenter(
        segmentation.bundle,
        backend=engine.backend,
        precision=engine.precision,
        batch=engine.batch,
        build_engines=engine.build_engines,
        tta=segmentation.tta,
        scene_size=segmentation.scene_size,
        isolate=engine.isolate,
        sources=Access(
            sources="any" if limits.allow_remote else "local",
            max_pixels=limits.max_pixels,
            max_bands=limits.max_bands,
            max_block=parsed_size("`max_block`", limits.max_block),
        ),
    )


def _targets(images: list[str], outputs: Outputs) -> dict[Place, Paths]:
    """Output files by image; every output has its own name."""
    from ..raster.places import Place, file_of, place_of, stem_of
    from ..segment.results import Paths

    out = outputs.out
    is_file = out.suffix.lower() in (".tif", ".tiff")
    if is_file and len(images) > 1:
        raise usage(f"--out: expected a folder for {len(images)} images, found {out}")
    if not is_file and (out.is_file() or out.suffix.lower() in (".png", ".jpg", ".jpeg")):
        what = "it is a file" if out.is_file() else "pictures are no masks"
        wanted = "a folder, or for one image a name ending in .tif"
        raise OutputError(f"cannot write {out}: {what}; --out takes {wanted}")
    targets, taken = dict[Place, Paths](), dict[Path, Place]()
    for image in map(place_of, images):
        folder, stem = (out.parent, out.stem) if is_file else (out, stem_of(image))
        mask = out if is_file else folder / f"{stem}_mask.tif"
        if mask in taken:
            if image == taken[mask]:
                raise usage(f"{image} is named twice: name each image once")
            raise usage(f"{image} and {taken[mask]} would both be written to {mask}: give each an --out of its own")
        taken[mask] = image
        targets[image] = Paths(
            mask=mask,
            probabilities=folder / f"{stem}_prob.tif" if outputs.probabilities else None,
            preview=folder / f"{stem}_preview.png" if outputs.preview else None,
        )
    inputs = {file_of(image).resolve() for image in targets}
    for image, paths in targets.items():
        for path in paths.wanted():
            if path.resolve() in inputs - {file_of(image).resolve()}:
                raise usage(f"{path}, an output of {image}, is itself one of the images: choose another --out")
    return targets


def _attempt(action: _Action, image: Place, paths: Paths) -> Report | Estimate | None:
    """What came of one image, or None where it failed; a failure of whatever kind does not stop the others."""
    try:
        return action(image, paths)
    except Exception as error:
        fail(error, image)
        return None


def _runner(segmenter: Segmenter, bands: tuple[int, ...] | None, outputs: Outputs, limits: Limits) -> _Action:
    """What segments one image and prints what came of it."""
    from ..segment.memory import parsed_size

    memory = None if limits.memory is None else parsed_size("`memory`", limits.memory)

    def action(image: Place, paths: Paths) -> Report:
        with progress_bars("patches") as advance:
            report = segmenter.segment_file(
                image, paths, bands=bands, overwrite=outputs.overwrite, resume=outputs.resume, memory=memory,
                on_bad_block=limits.on_bad_block, progress=partial(advance, _name(image)),
            )  # fmt: skip
        _print_report(report)
        return report

    return action


def _estimator(segmenter: Segmenter, bands: tuple[int, ...] | None, outputs: Outputs, limits: Limits) -> _Action:
    """What prints how much one image would take."""

    def action(image: Place, paths: Paths) -> Estimate:
        estimate = segmenter.estimate(image, paths, bands=bands, overwrite=outputs.overwrite, trial=True)
        _print_estimate(estimate, paths)
        return estimate

    return action


def _name(image: Place) -> str:
    """What tables call an image: the file without its folder, or the name of a part of a container."""
    return image if isinstance(image, str) else image.name


def _print_report(report: Report) -> None:
    rows = [(name, f"{share:.1%}") for name, share in report.shares.items()]
    without = report.height * report.width - sum(report.pixels.values())
    if without:
        rows.append(("(no data)", f"{without / (report.height * report.width):.1%} of the image"))
    work = f"{report.tiles} tiles, {report.seconds:.1f} s, {report.speed:.1f} patches/s"
    print_table(f"{_name(report.image)}: {report.height} x {report.width}, {work}", rows, ("class", "share"))
    for path in report.paths.wanted():
        echo(f"wrote {path}")


def _print_summary(done: list[Report | Estimate]) -> None:
    """One row per image."""
    rows = [(_name(item.image), f"{item.height} x {item.width}", str(item.tiles), *_work(item)) for item in done]
    print_table("All images", rows, ("image", "size", "tiles", "work", "largest classes"))


def _work(item: Report | Estimate) -> tuple[str, str]:
    from ..segment.results import Estimate

    if isinstance(item, Estimate):
        return f"{item.memory >> 20} MiB of memory, {item.disk >> 20} MiB of disk", ""
    largest = sorted(item.shares.items(), key=lambda entry: -entry[1])[:3]
    shares = ", ".join(f"{name} {share:.1%}" for name, share in largest)
    return f"{item.seconds:.1f} s, {item.speed:.1f} patches/s", shares


def _foreseen(estimate: Estimate) -> list[tuple[str, str]]:
    """What a trial told."""
    if estimate.process is None or estimate.seconds is None:
        return []
    minutes, seconds = divmod(round(estimate.seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return [
        ("memory of the whole process", f"{estimate.process / (1 << 20):.0f} MiB"),
        ("time", f"{hours}:{minutes:02}:{seconds:02}"),
    ]


def _print_estimate(estimate: Estimate, paths: Paths) -> None:
    mebibyte = 1 << 20
    rows = [
        ("size", f"{estimate.height} x {estimate.width} pixels"),
        ("tiles", str(estimate.tiles)),
        *_foreseen(estimate),
        ("disk at most", f"{estimate.disk / mebibyte:.0f} MiB"),
        *(("would write", str(path)) for path in paths.wanted()),
    ]
    print_table(str(estimate.image), rows, ("", ""))


run_app = command(
    run,
    examples=("image.tif", "scenes/*.tif --bundle city.fctl -o masks/ --probabilities"),
    spellings=Spellings(options={"--sources": "--allow-remote"}),
)
