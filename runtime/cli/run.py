"""``fctl-run`` and ``fctl-info``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import FctlError
from .console import command, fail, one_line_errors, parse_bands, print_table, show_log, usage

if TYPE_CHECKING:
    from ..segment.results import Estimate, Paths, Report
    from ..segment.segmenter import Segmenter


_PRECISIONS = ("fp32", "bf16", "fp16", "int8")
_Action = Callable[[Path, "Paths"], "Report | Estimate"]


def run(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="GeoTIFF, PNG or JPEG files.")],
    bundle: Annotated[
        str, typer.Option(help="A bundle folder, or 'default' for the one shipped with fctl.")
    ] = "default",
    out: Annotated[
        Path, typer.Option(help="A folder; or, for one image, a name ending in .tif for the mask itself.")
    ] = Path(),
    backend: Annotated[
        str,
        typer.Option(
            help="auto, openvino, onnxruntime, tensorrt, tensorrt-rtx, onnxruntime-cuda or onnxruntime-tensorrt. auto: "
            "the fastest that is installed and ready."
        ),
    ] = "auto",
    precision: Annotated[
        str,
        typer.Option(
            help="fp32, bf16 (OpenVINO, where the processor can), or fp16 and int8 where the bundle has them."
        ),
    ] = "fp32",
    build_engines: Annotated[
        bool,
        typer.Option("--build-engines", help="tensorrt, tensorrt-rtx: build engines that are missing; takes minutes."),
    ] = False,
    batch: Annotated[int, typer.Option(min=1, help="Tiles per run of the engine.")] = 4,
    tta: Annotated[
        bool, typer.Option("--tta", help="Segment every patch in all 8 turns and average: better, 8 times the work.")
    ] = False,
    scene_size: Annotated[
        int | None,
        typer.Option(min=1, help="Side in pixels of the blocks that a global context shows of large rasters."),
    ] = None,
    bands: Annotated[
        str | None, typer.Option(help="Bands to use, from 1, in the bundle's order, as 3,2,1. Default: all but alpha.")
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also write a band of probability per class.")
    ] = False,
    preview: Annotated[bool, typer.Option(help="Also write a PNG of the mask over the image.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would take, and stop.")] = False,
) -> None:
    """Segment images into masks: <name>_mask.tif with class ids, colours and the image's georeference,
    <name>_prob.tif, <name>_preview.png."""
    chosen = parse_bands(bands)
    if precision not in _PRECISIONS:
        raise usage(f"--precision: expected {' or '.join(_PRECISIONS)}, found {precision!r}")
    targets = _targets(images, out, probabilities, preview)
    show_log()
    with one_line_errors():
        from ..segment.segmenter import Segmenter

        engine = {"backend": backend, "precision": precision, "batch": batch, "build_engines": build_engines}
        with Segmenter(bundle, **engine, tta=tta, scene_size=scene_size) as segmenter:  # type: ignore[arg-type]
            action = _estimator(segmenter, chosen) if dry_run else _runner(segmenter, chosen, overwrite)
            reports = [_attempt(action, image, paths) for image, paths in targets.items()]
    done = [report for report in reports if report is not None]
    if len(targets) > 1:
        _print_summary(done)
    if failed := len(targets) - len(done):
        if len(targets) > 1:
            typer.echo(f"{failed} of {len(targets)} images failed", err=True)
        raise typer.Exit(1)


def _targets(images: list[Path], out: Path, probabilities: bool, preview: bool) -> dict[Path, Paths]:
    """Output files by image; every output has its own name."""
    from ..segment.results import Paths

    is_file = out.suffix.lower() in (".tif", ".tiff")
    if is_file and len(images) > 1:
        raise usage(f"--out: expected a folder for {len(images)} images, found {out}")
    targets, taken = {}, dict[Path, Path]()
    for image in images:
        folder, stem = (out.parent, out.stem) if is_file else (out, image.stem)
        mask = out if is_file else folder / f"{stem}_mask.tif"
        if mask in taken:
            raise usage(f"{image} and {taken[mask]} would both be written to {mask}: run them apart")
        taken[mask] = image
        targets[image] = Paths(
            mask=mask,
            probabilities=folder / f"{stem}_prob.tif" if probabilities else None,
            preview=folder / f"{stem}_preview.png" if preview else None,
        )
    inputs = {image.resolve() for image in images}
    for image, paths in targets.items():
        for path in paths.wanted():
            if path.resolve() in inputs - {image.resolve()}:
                raise usage(f"{path}, an output of {image}, is itself one of the images: choose another --out")
    return targets


def _attempt(action: _Action, image: Path, paths: Paths) -> Report | Estimate | None:
    """What came of one image, None where it failed: that does not stop the others."""
    try:
        return action(image, paths)
    except FctlError as error:
        fail(error)
        return None


def _runner(segmenter: Segmenter, bands: tuple[int, ...] | None, overwrite: bool) -> _Action:
    def action(image: Path, paths: Paths) -> Report:
        with _progress(image.name) as advance:
            report = segmenter.segment_file(image, paths, bands=bands, overwrite=overwrite, progress=advance)
        _print_report(report)
        return report

    return action


def _estimator(segmenter: Segmenter, bands: tuple[int, ...] | None) -> _Action:
    def action(image: Path, paths: Paths) -> Estimate:
        estimate = segmenter.estimate(image, paths, bands=bands)
        _print_estimate(estimate, paths)
        return estimate

    return action


@contextmanager
def _progress(name: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with patches a second and time left, on standard error."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Speed(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.1f} patches/s" if task.speed else "")

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        Speed(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(name, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _print_report(report: Report) -> None:
    rows = [(name, f"{share:.1%}") for name, share in report.shares.items()]
    without = report.height * report.width - sum(report.pixels.values())
    if without:
        rows.append(("(no data)", f"{without / (report.height * report.width):.1%} of the image"))
    work = f"{report.tiles} tiles, {report.seconds:.1f} s, {report.speed:.1f} patches/s"
    print_table(f"{report.image.name}: {report.height} x {report.width}, {work}", rows, ("class", "share"))
    for path in report.paths.wanted():
        typer.echo(f"wrote {path}")


def _print_summary(done: list[Report | Estimate]) -> None:
    """One row per image."""
    rows = [(item.image.name, f"{item.height} x {item.width}", str(item.tiles), *_work(item)) for item in done]
    print_table("All images", rows, ("image", "size", "tiles", "work", "largest classes"))


def _work(item: Report | Estimate) -> tuple[str, str]:
    from ..segment.results import Estimate

    if isinstance(item, Estimate):
        return f"{item.memory >> 20} MiB of memory, {item.disk >> 20} MiB of disk", ""
    largest = sorted(item.shares.items(), key=lambda entry: -entry[1])[:3]
    shares = ", ".join(f"{name} {share:.1%}" for name, share in largest)
    return f"{item.seconds:.1f} s, {item.speed:.1f} patches/s", shares


def _print_estimate(estimate: Estimate, paths: Paths) -> None:
    mebibyte = 1 << 20
    rows = [
        ("size", f"{estimate.height} x {estimate.width} pixels"),
        ("tiles", str(estimate.tiles)),
        ("memory beside the engine's", f"{estimate.memory / mebibyte:.0f} MiB"),
        ("disk at most", f"{estimate.disk / mebibyte:.0f} MiB"),
        *(("would write", str(path)) for path in paths.wanted()),
    ]
    print_table(str(estimate.image), rows, ("", ""))


run_app = command(run)
