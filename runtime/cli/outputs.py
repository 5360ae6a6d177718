"""What ``fctl-run`` writes: its options, and the files that they ask for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..choices import ConfidenceType, ProbabilityType
from .console import usage
from .groups import OptionGroup
from .options import Colours, Overwrite, class_colours, pairs
from .spellings import Spellings

if TYPE_CHECKING:
    from ..segment.options import OutputOptions
    from ..segment.results import Paths

_STATS, _VECTOR = ("csv", "json"), ("gpkg", "geojson", "fgb", "parquet")

SPELLINGS = Spellings(
    values={
        "--confidence": {
            word: ("--confidence", "--confidence-type", kind)
            for word, kind in (
                ("probability", "probability"), ("agreement", "agreement"), ("disagreement", "agreement"),
            )
        },
        "--probabilities": {
            kind: ("--probabilities", "--probability-type", kind) for kind in ("uint8", "float32")
        },
        "--preview": {
            "jpg": ("--preview",), "jpeg": ("--preview",), "png": ("--preview", "--preview-format", "png"),
        },
    }
)  # fmt: skip
"""Flags that take a value where one is given."""


@dataclass(frozen=True, kw_only=True)
class Outputs(OptionGroup):
    """What is written, and where."""

    panel = "Outputs"

    out: Annotated[
        str,
        typer.Option(
            "--out",
            "-o",
            metavar="PLACE",
            help="A folder, or a URL such as s3://bucket/masks; for one image also a name ending in .tif for the mask.",
        ),
    ] = "."
    staging: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Where outputs that go to a URL are made. Default: in the user's cache folder (FCTL_CACHE).",
        ),
    ] = None
    probabilities: Annotated[
        bool,
        typer.Option(
            "--probabilities", help="Also write a band of probability per class, in 254ths (docs/outputs.md)."
        ),
    ] = False
    probability_type: Annotated[
        ProbabilityType,
        typer.Option(help="uint8 takes a quarter of float32's space; '--probabilities float32' says it in one."),
    ] = "uint8"
    confidence: Annotated[
        bool, typer.Option("--confidence", help="Also write how sure the network is of each pixel, in 254ths.")
    ] = False
    confidence_type: Annotated[
        ConfidenceType,
        typer.Option(
            help="probability: the highest one. agreement: the share of the overlapping tiles that say the same; "
            "'--confidence agreement' says it in one."
        ),
    ] = "probability"
    stats: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Also write pixels, share and hectares by class: csv, json, or the name of a file."
        ),
    ] = None
    vector: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Also write polygons by class: gpkg, geojson, fgb, parquet, or the name of a file."
        ),
    ] = None
    min_area: Annotated[float, typer.Option(min=0, metavar="M2", help="Leave out polygons of fewer square metres.")] = (
        0.0
    )
    simplify: Annotated[
        float, typer.Option(min=0, metavar="METRES", help="Draw polygons with fewer corners, at most so far off.")
    ] = 0.0
    preview: Annotated[
        bool,
        typer.Option(help="Also write a picture of the mask over the image, as JPEG; '--preview png' writes a PNG."),
    ] = True
    preview_format: Annotated[Literal["jpg", "png"], typer.Option(help="The format of that picture.")] = "jpg"
    colours: Colours = None
    co: Annotated[
        list[str] | None,
        typer.Option("--co", metavar="KEY=VALUE", help="An option of GDAL's COG driver for the mask; may be repeated."),
    ] = None
    overwrite: Overwrite = False
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on where an earlier run of the same outputs ended (NAME.fctl-run beside them)."
        ),
    ] = False
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what it would take, and stop.")] = False

    def paths(self, mask: Path, stem: str, images: int) -> Paths:
        """The files to write for one image.

        Args:
            mask: Its mask.
            stem: What the names of its other outputs begin with.
            images: How many images there are.

        Returns:
            The files, and how they are written.

        Raises:
            typer.BadParameter: An option cannot be read.
        """
        from ..segment.results import Paths

        others = {
            "confidence": mask.with_name(f"{stem}_confidence.tif") if self.confidence else None,
            "stats": _other("--stats", self.stats, mask.with_name(f"{stem}_stats"), _STATS, images),
            "vector": _other("--vector", self.vector, mask.with_name(f"{stem}_polygons"), _VECTOR, images),
        }
        return Paths(
            mask=mask,
            probabilities=mask.with_name(f"{stem}_prob.tif") if self.probabilities else None,
            preview=mask.with_name(f"{stem}_preview.{self.preview_format}") if self.preview else None,
            others={name: path for name, path in others.items() if path},
            options=self._options(),
        )

    def _options(self) -> OutputOptions:
        from ..segment.options import OutputOptions

        return OutputOptions(
            probability_type=self.probability_type,
            confidence_type=self.confidence_type,
            colours=class_colours(self.colours),
            creation=dict(pairs("--co", self.co or [])),
            min_area=self.min_area,
            simplify=self.simplify,
        )


def _other(option: str, value: str | None, named: Path, endings: tuple[str, ...], images: int) -> Path | None:
    """The file of an output that is asked for by its ending, or by a name of its own."""
    if value is None:
        return None
    if value.lower() in endings:
        return named.with_name(f"{named.name}.{value.lower()}")
    from ..storage.places import is_remote_place

    if is_remote_place(value):
        raise usage(f"{option}: expected a file of this machine, found {value!r}; {' or '.join(endings)} goes to --out")
    path = Path(value)
    if path.suffix.lower().lstrip(".") not in endings:
        raise usage(f"{option}: expected {' or '.join(endings)}, or a name with such an ending, found {value!r}")
    if images > 1:
        raise usage(f"{option}: expected {' or '.join(endings)} for {images} images, found one name, {value}")
    return path
