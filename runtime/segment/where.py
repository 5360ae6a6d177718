"""Which part of a raster is wanted, as it is asked for."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError

AREA = "FCTL_AREA"
"""The tag that keeps what was asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Which part of a raster is wanted: one of `window`, `bbox` and `aoi`, or all of it where none is given.

    Attributes:
        window: First column, first row, width and height in pixels.
        bbox: Lowest x, lowest y, highest x and highest y, in the raster's coordinate reference system. In a raster that
            is turned, the window around it is wanted.
        bbox_crs: The system of `bbox`, such as "EPSG:4326" for longitudes and latitudes; None for the raster's own.
        aoi: A file of polygons, as GeoPackage, GeoJSON, FlatGeobuf, Shapefile or KML (extra `vector`).
        aoi_name: The field that names a polygon in statistics; None takes "name" or "id" where there is one.

    Raises:
        InputError: More than one is given, or one of them means nothing.
    """

    window: tuple[int, int, int, int] | None = None
    bbox: tuple[float, float, float, float] | None = None
    bbox_crs: str | None = None
    aoi: str | Path | None = None
    aoi_name: str | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("window", "bbox", "aoi") if getattr(self, name) is not None]
        if len(given) > 1:
            raise InputError(
                f"{' and '.join(f'`{name}`' for name in given)} are given: a run takes one of them",
                remedy="leave the others out",
            )
        for name, needed in (("bbox_crs", "bbox"), ("aoi_name", "aoi")):
            if getattr(self, name) is not None and needed not in given:
                raise InputError(f"`{name}` means nothing without `{needed}`", remedy="leave it out")
        if self.window is not None and (len(self.window) != 4 or min(self.window[2:]) < 1):
            expected = "first column, first row, width and height, the last two at least 1"
            raise InputError(subject="`window`", expected=expected, found=_listed(self.window))
        if self.bbox is not None and not _is_box(self.bbox):
            expected = "lowest x, lowest y, highest x and highest y"
            raise InputError(subject="`bbox`", expected=expected, found=_listed(self.bbox))

    @property
    def everything(self) -> bool:
        """Whether all of the raster is wanted."""
        return self.window is None and self.bbox is None and self.aoi is None

    def request(self) -> dict[str, object]:
        """What the bytes of outputs depend on, as values that JSON keeps as they are; nothing where all is wanted.

        Raises:
            InputError: The file of polygons cannot be read.
        """
        if self.everything:
            return {}
        asked: dict[str, object] = {"window": self.window and list(self.window), "bbox": self.bbox and list(self.bbox)}
        asked |= {"bbox CRS": self.bbox_crs, "names": self.aoi_name}
        if self.aoi is not None:
            from ..raster.vectors import digest_of

            asked["polygons"] = digest_of(Path(self.aoi))
        return {"area": {name: value for name, value in asked.items() if value is not None}}

    def tags(self) -> dict[str, str]:
        """What outputs say of a part that was asked for, so that a later run knows whether it would write the same."""
        return {} if self.everything else {AREA: json.dumps(self.request()["area"])}


EVERYWHERE = Where()
"""All of a raster."""


def _is_box(bbox: tuple[float, ...]) -> bool:
    return len(bbox) == 4 and all(map(math.isfinite, bbox)) and bbox[0] < bbox[2] and bbox[1] < bbox[3]


def _listed(numbers: tuple[float, ...]) -> str:
    return ",".join(f"{number:.15g}" for number in numbers)
