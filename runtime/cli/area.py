"""Which part of an image ``fctl-run`` segments: its options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from .console import usage
from .groups import OptionGroup

if TYPE_CHECKING:
    from ..segment.where import Where

_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True, kw_only=True)
class AreaOptions(OptionGroup):
    """Which part of an image is wanted."""

    panel = "Area, in whose box outputs lie"

    window: Annotated[
        str | None,
        typer.Option(metavar="X,Y,WIDTH,HEIGHT", help="Pixels: first column, first row, columns, rows."),
    ] = None
    bbox: Annotated[
        str | None,
        typer.Option(
            metavar="MINX,MINY,MAXX,MAXY",
            help="Coordinates in the image's reference system, x (east) before y (north).",
        ),
    ] = None
    bbox_crs: Annotated[
        str | None,
        typer.Option(metavar="CRS", help="The system of --bbox, as EPSG:4326 for longitudes and latitudes."),
    ] = None
    aoi: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Polygons, outside of which there is no data: gpkg, geojson, fgb, shp, kml (docs/rasters.md).",
        ),
    ] = None
    aoi_name: Annotated[
        str | None,
        typer.Option(metavar="FIELD", help="The field that names a polygon in --stats. Default: name, id, or numbers."),
    ] = None

    def where(self) -> Where:
        """What is wanted.

        Raises:
            typer.BadParameter: An option cannot be read.
            InputError: Options do not go together.
        """
        from ..segment.where import Where

        window = None if self.window is None else _numbers("--window", self.window, int, "0,0,1024,768")
        bbox = None if self.bbox is None else _numbers("--bbox", self.bbox, float, "300000,2779000,300500,2779500")
        return Where(window=window, bbox=bbox, bbox_crs=self.bbox_crs, aoi=self.aoi, aoi_name=self.aoi_name)


def _numbers(option: str, text: str, kind: type[_Number], example: str) -> tuple[_Number, _Number, _Number, _Number]:
    """Four numbers with commas between them."""
    try:
        first, second, third, fourth = (kind(part) for part in text.split(","))
    except ValueError:
        raise usage(f"{option}: expected four numbers as in {example}, found {text!r}") from None
    return first, second, third, fourth
