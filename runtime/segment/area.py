"""The part of a raster that is wanted, in its pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..raster.access import Sources
from ..raster.georeference import Georeference
from ..raster.source import RasterSource
from ..tiling.resampling import Pixels
from ..tiling.sources import HostSource, Source
from ..tiling.windows import Grid, Window
from .where import Where

if TYPE_CHECKING:
    from ..raster.outlines import Outlines


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """What is wanted of a raster.

    Attributes:
        box: The window of the raster that outputs cover.
        outlines: Polygons, outside of which pixels of the box are not wanted either; None where all of it is wanted.
    """

    box: Window
    outlines: Outlines | None = None

    @property
    def memory(self) -> int:
        """Bytes of memory that polygons take."""
        return self.outlines.memory if self.outlines else 0

    def tiles(self, grid: Grid) -> int:
        """How many tiles of a grid there are to segment: those that touch a polygon, where there are polygons."""
        return self.outlines.touched(grid) if self.outlines else len(grid)

    def inside(self, window: Window) -> NDArray[np.bool_] | None:
        """Which pixels (rows, columns) of a window are wanted; None for all."""
        part = window.shared(self.box)
        if part == window and self.outlines is None:
            return None
        found = np.zeros((window.height, window.width), np.bool_)
        if part:
            wanted = self.outlines.inside(part) if self.outlines else True
            found[part.inside(window)] = wanted
        return found


def area_of(where: Where, raster: RasterSource, sources: Sources = "local") -> Area:
    """Find out what is wanted of a raster.

    Args:
        where: What is asked.
        raster: The open raster.
        sources: Which files of polygons may be opened.

    Returns:
        The area, which has at least one pixel.

    Raises:
        InputError: Nothing that is asked for lies on the raster, or the raster lies nowhere.
    """
    height, width = raster.height, raster.width
    if where.everything:
        return Area(box=Window(0, 0, height, width))
    if where.window is not None:
        x, y, columns, rows = where.window
        box = Window(y, x, rows, columns).within(height, width)
        if box is None:
            found = ",".join(map(str, where.window))
            raise InputError(subject="`window`", expected=f"pixels of {width} columns and {height} rows", found=found)
        return Area(box=box)
    place = raster.georeference
    if where.bbox is not None:
        _check_placed(place, "`bbox`")
        return Area(box=_box_of(place.window_of(where.bbox, where.bbox_crs), height, width))
    assert where.aoi is not None
    _check_placed(place, "`aoi`")
    from ..raster.vectors import read_features

    features = read_features(Path(where.aoi), where.aoi_name, sources)
    from ..raster.placing import outlines_on  # only now: shapely, which it needs, may be missing

    outlines = outlines_on(features, place, height, width)
    return Area(box=outlines.box, outlines=outlines)


def _check_placed(place: Georeference, subject: str) -> None:
    """Refuse coordinates where the pixels of a raster have none."""
    if not place.is_placed:
        found = "control points or coefficients alone" if place.gcps[0] or place.rpcs else "none"
        raise InputError(
            subject=subject, expected="an image with a place on the ground", found=found,
            remedy="name pixels with `window`, or warp the image with gdalwarp first",
        )  # fmt: skip


def _box_of(bounds: tuple[float, ...], height: int, width: int) -> Window:
    """The window of the pixels with their centres in a rectangle of rows and columns."""
    if all(map(math.isfinite, bounds)):
        y, x, bottom, right = (math.ceil(bound - 0.5) for bound in bounds)
        box = Window(y, x, bottom - y, right - x).within(height, width) if bottom > y and right > x else None
        if box:
            return box
    found = "a box that holds no pixel of it"
    raise InputError(
        subject="`bbox`", expected="coordinates on the image", found=found,
        remedy="see where it lies, in which coordinate reference system, and that x comes before y",
    )  # fmt: skip


class AreaSource(HostSource):
    """A raster in which only an area has data; what contexts show of it, beyond the area too, is all there.

    Args:
        source: The raster.
        area: What is wanted of it.
    """

    def __init__(self, source: Source, area: Area) -> None:
        self._source, self._area, self.name = source, area, source.name
        self.height, self.width = source.height, source.width

    @property
    def implausible(self) -> int:  # type: ignore[override]
        """Pixels that were taken as missing for a value that nobody declared, so far."""
        return self._source.implausible

    def read(self, window: Window) -> Pixels:
        """Pixels (height, width, bands) of a window inside the raster, see `Source.read`."""
        return self._source.read(window)

    def valid(self, window: Window) -> NDArray[np.bool_] | None:
        """Where a window has data that is wanted, (height, width); the raster is not read where none of it is."""
        wanted, part = self._area.inside(window), window.shared(self._area.box)
        if wanted is None or part is None or not wanted.any():
            return self._source.valid(window) if wanted is None else wanted
        valid = self._source.valid(part)
        if valid is not None:
            wanted[part.inside(window)] &= valid
        return wanted
