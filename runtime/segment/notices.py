"""Warnings about pixels that a run left without data, and about large rasters."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ..bundle.manifest import Manifest
from ..raster.files import place_in
from ..tiling.sources import Source
from ..tiling.windows import Window

log = logging.getLogger(__name__)

_LISTED = 5  # blocks that a warning names


def warn_of_values(name: str, pixels: int) -> None:
    """Log a warning where a raster holds values that nobody declared as nodata, and that cannot be measurements.

    Args:
        name: What the image is called.
        pixels: How many pixels hold such values.
    """
    if pixels:
        log.warning(
            "%s: %s far beyond all others, though no such nodata value is declared: taken as having no data "
            "(declare it with gdal_edit.py -a_nodata VALUE)",
            name, counted(pixels, "pixel holds a value", "pixels hold values"),
        )  # fmt: skip


def warn_of_scores(name: str, pixels: int) -> None:
    """Log a warning where a network gave scores that are not finite.

    Args:
        name: What the image is called.
        pixels: How many pixels have such scores.
    """
    if pixels:
        log.warning(
            "%s: the network gave scores that are not finite at %s: left without data (255; see what the image holds "
            "there, or try another `precision`)",
            name, counted(pixels, "pixel", "pixels"),
        )  # fmt: skip


def warn_of_blocks(name: str, blocks: Sequence[Window]) -> None:
    """Log a warning where blocks of a raster could not be read.

    Args:
        name: What the image is called.
        blocks: The blocks.
    """
    if blocks:
        listed = ", ".join(place_in(window) for window in blocks[:_LISTED])
        more = f" and {len(blocks) - _LISTED} more" if len(blocks) > _LISTED else ""
        log.warning(
            "%s: %s left without data: %s%s",
            name, counted(len(blocks), "block cannot be read and is", "blocks cannot be read and are"), listed, more,
        )  # fmt: skip


def counted(number: int, one: str, many: str) -> str:
    """A number and what is counted, in words for one and for more."""
    return f"{number} {one if number == 1 else many}"


def warn_of_scene_blocks(manifest: Manifest, source: Source, warned: set[str]) -> None:
    """Warn where a raster is too large to be shown whole, once of each size, for frames of a stream are alike.

    Args:
        manifest: The bundle's manifest.
        source: The raster.
        warned: What was warned of so far.
    """
    for context in manifest.contexts:
        rows, columns = context.window.blocks(manifest.tile, source)
        warning = (
            f"context {context.name} was the whole of images of about {context.scene} pixels, this raster is "
            f"{source.height} x {source.width}: it is cut into {rows} x {columns} scene blocks (`scene_size`)"
        )
        if rows * columns > 1 and warning not in warned and not context.gathering:
            warned.add(warning)
            log.warning("%s", warning)
