"""What is worked at of a raster: the part that is wanted, the size in which the network sees it, and its tiles."""

from __future__ import annotations

from dataclasses import dataclass

from ..bundle.manifest import Manifest
from ..raster.coarse import CoarseFile
from ..raster.resolution import Resolution
from ..raster.source import RasterSource
from ..tiling.coarse import CoarseSource
from ..tiling.rescale import Rescale
from ..tiling.rescaled import RescaledSource
from ..tiling.sources import Source
from ..tiling.windows import Grid, Window
from .area import Area, AreaSource, area_of
from .batches import grid_of
from .jobs import FileJob


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """How a raster is worked at.

    Attributes:
        area: The part of the raster that is wanted.
        rescale: The raster's own grid, and the grid in which the network works.
        grid: The tiles of the working grid that touch the area.
        everything: Whether all of the raster is wanted.
        coarse: The mask that is refined; None where a network makes masks itself.
        classes: How many classes that has.
    """

    area: Area
    rescale: Rescale
    grid: Grid
    everything: bool
    coarse: CoarseFile | None = None
    classes: int = 0

    @property
    def tiles(self) -> int:
        """How many tiles there are to segment; those that touch a polygon, where the raster keeps its size."""
        return self.area.tiles(self.grid) if self.rescale.is_identity else len(self.grid)

    @property
    def part(self) -> Window | None:
        """Where outputs lie in the raster; None where all of it is wanted."""
        return None if self.everything else self.area.box

    def source(self, raster: Source, held: int) -> Source:
        """The raster as the network sees it: of its working size, and without data where nothing is wanted.

        Args:
            raster: The raster, or a copy of it.
            held: Bytes of working pixels to hold.

        Returns:
            The raster itself, or something around it.
        """
        wanted = raster if self.everything else AreaSource(raster, self.area)
        if self.coarse:
            return CoarseSource(wanted, self.coarse, self.classes)
        return wanted if self.rescale.is_identity else RescaledSource(raster, self.rescale, held, wanted=wanted)


def frame_of(job: FileJob, manifest: Manifest, raster: RasterSource, coarse: CoarseFile | None = None) -> Frame:
    """How a raster is worked at, where a job asks for it.

    Args:
        job: What is asked.
        manifest: The manifest of the bundle.
        raster: The open raster.
        coarse: The open mask that is refined, where tiles will be looked at.

    Returns:
        The frame.

    Raises:
        InputError: Nothing that is asked for lies on the raster, or the raster lies nowhere.
        RasterError: The working grid would be larger than is allowed.
    """
    distance = None if manifest.refines else manifest.input.ground_sample_distance  # masks are refined as they are
    rescale = Resolution.parsed(job.resolution).rescale(raster, distance, job.access)
    area = area_of(job.where, raster, job.access.sources)
    grid = grid_of(manifest, rescale.rows, rescale.columns).touching(rescale.working_window(area.box))
    return Frame(
        area=area, rescale=rescale, grid=grid, everything=job.where.everything, coarse=coarse,
        classes=len(manifest.classes),
    )  # fmt: skip
