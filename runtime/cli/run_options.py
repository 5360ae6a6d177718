"""Groups of options of ``fctl-run``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..choices import Backend, ContextEncoding, OnBadBlock, PrecisionChoice
from .groups import OptionGroup
from .options import Bands, BatchOrAuto, BuildEngines, Resolution, ScaleRange, one_of

if TYPE_CHECKING:
    from ..raster.access import Access


@dataclass(frozen=True, kw_only=True)
class EngineOptions(OptionGroup):
    """What runs the network."""

    panel = "Engine"

    backend: Annotated[
        Backend,
        typer.Option(metavar="ENGINE", help=f"{one_of(Backend)}. auto: the fastest that is installed and ready."),
    ] = "auto"
    precision: Annotated[
        PrecisionChoice,
        typer.Option(
            metavar="PRECISION",
            help=f"{one_of(PrecisionChoice)}. bf16 needs OpenVINO and a processor that can; fp16 and int8 a bundle "
            "that has them. auto: the fastest here of those that the bundle was validated for.",
        ),
    ] = "fp32"
    batch: BatchOrAuto = "4"
    build_engines: BuildEngines = False
    isolate: Annotated[
        bool,
        typer.Option("--isolate", help="Run the engine in a child process, which a graph of a stranger may crash."),
    ] = False


@dataclass(frozen=True, kw_only=True)
class ManyImages(OptionGroup):
    """How many images are found, passed over and reported."""

    panel = "Many images"

    mosaic: Annotated[
        bool,
        typer.Option("--mosaic", help="Take all images, tiles of one grid, as one: contexts see across their borders."),
    ] = False
    recursive: Annotated[bool, typer.Option("--recursive", help="Take the images of folders within folders too.")] = (
        False
    )
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Pass over images whose outputs are there, made in the same way.")
    ] = False
    json: Annotated[
        bool, typer.Option("--json", help="Print a line of JSON for each image on standard output, and no tables.")
    ] = False
    live: Annotated[
        bool,
        typer.Option("--live", help="Serve a page that fills while the run goes on, with progress (docs/view.md)."),
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

    def memory_size(self) -> int | None:
        """Most bytes of memory, or None."""
        from ..segment.memory import parsed_size

        return None if self.memory is None else parsed_size("`memory`", self.memory)

    def access(self) -> Access:
        """Which images may be opened."""
        from ..raster.access import Access
        from ..segment.memory import parsed_size

        return Access(
            sources="any" if self.allow_remote else "local", max_pixels=self.max_pixels, max_bands=self.max_bands,
            max_block=parsed_size("`max_block`", self.max_block),
        )  # fmt: skip


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
    contexts: Annotated[
        ContextEncoding,
        typer.Option(
            metavar="auto|exact|shared",
            help="Encode contexts once a patch (exact) or once a raster (shared: much faster, few pixels differ); "
            "auto: shared where the bundle was validated for it.",
        ),
    ] = "auto"
    scene_size: Annotated[
        int | None,
        typer.Option(min=1, help="Side in pixels of the blocks that a global context shows of large rasters."),
    ] = None
    refine: Annotated[
        str | None,
        typer.Option(metavar="BUNDLE", help="A bundle that refines the masks that --bundle makes (docs/refining.md)."),
    ] = None
    coarse: Annotated[
        Path | None,
        typer.Option(metavar="MASK", help="For a --bundle that refines masks: the mask of the one image."),
    ] = None
    bands: Bands = None
    scale_range: ScaleRange = None
    resolution: Resolution = "auto"

    @property
    def last(self) -> Segmentation:
        """How the bundle is opened that makes the outputs: the one that refines masks, where there is one."""
        if self.refine is None:
            return self
        return replace(self, bundle=self.refine, refine=None, contexts="auto", resolution="auto")

    @property
    def first(self) -> Segmentation:
        """How the bundle is opened whose masks are refined."""
        return replace(self, refine=None, scene_size=None)

    def check(self, images: int) -> None:
        """Refuse what cannot be refined, before any image is opened.

        Raises:
            InputError: The bundles do not go together, or one mask is given for several images.
            BundleError: A bundle is missing or damaged.
        """
        from ..bundle.store import read_bundle
        from ..errors import InputError
        from ..segment.refining import check_pair, check_refiner

        if self.coarse is not None and images > 1:
            raise InputError(
                subject="`coarse`", expected="one image, whose mask it is", found=f"{images} images",
                remedy="name the bundle that makes masks, and the one that refines them with `refine`",
            )  # fmt: skip
        if self.coarse is not None and self.refine is not None:
            raise InputError(
                "`coarse` is a mask that is there, `refine` is for one that `bundle` makes", remedy="give one of them"
            )
        if self.refine is not None:
            check_pair(read_bundle(self.bundle).manifest, read_bundle(self.refine).manifest)
        elif self.coarse is not None:
            check_refiner(read_bundle(self.bundle).manifest, self.coarse)
