"""The preview: a small picture of the image with its mask laid over it, and a legend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ...bundle.manifest import ClassInfo
from ...tiling.merge import NODATA
from ...tiling.resampling import Pixels
from ..picture import PictureScale
from ..pipeline import Block
from .base import BlockWriter, MaskedRaster

_OPACITY = 0.45
_JPEG_ENDINGS = (".jpg", ".jpeg")
_JPEG_QUALITY = 90


class PreviewSink:
    """A picture of at most 1600 pixels a side, JPEG or PNG by its name; its mask is sampled as blocks come by."""

    name = "preview"
    suffix = "_preview.jpg"
    needs_probabilities = False
    needs_picture = True

    def disk(self, height: int, width: int, classes: int) -> int:
        """Three bytes for each pixel of the picture."""
        small = PictureScale(height, width).size
        return 3 * small[0] * small[1]

    @contextmanager
    def open(self, path: Path, raster: MaskedRaster) -> Iterator[BlockWriter]:
        """Start a preview, see `Sink.open`."""
        small = PictureScale(raster.height, raster.width).size
        lines, columns = _nearest(raster.height, small[0]), _nearest(raster.width, small[1])
        ids = np.full(small, NODATA, np.uint8)

        def write(block: Block) -> None:
            window = block.window
            down = np.flatnonzero((lines >= window.y) & (lines < window.bottom))
            across = np.flatnonzero((columns >= window.x) & (columns < window.right))
            ids[np.ix_(down, across)] = block.ids[np.ix_(lines[down] - window.y, columns[across] - window.x)]

        yield write
        picture = draw_preview(raster.picture(), ids, raster.classes)
        if path.suffix.lower() in _JPEG_ENDINGS:
            picture.save(path, quality=_JPEG_QUALITY)
        else:
            picture.save(path)


def _nearest(side: int, size: int) -> NDArray[np.intp]:
    """For each pixel of a shrunken side, the pixel of the side that lies nearest to its centre."""
    return (2 * np.arange(size) + 1) * side // (2 * size)


def draw_preview(image: Pixels, ids: NDArray[np.uint8], classes: tuple[ClassInfo, ...]) -> Image.Image:
    """Lay a mask over its image, and put a legend of the classes that occur below.

    Args:
        image: Pixels (height, width, bands) of any dtype, of which the first three bands are shown.
        ids: Class ids (height, width) uint8.
        classes: The classes, by id.

    Returns:
        The picture.
    """
    colours = np.zeros((NODATA + 1, 3), np.float32)
    colours[: len(classes)] = [info.colour for info in classes]
    picture = displayable(image, ids != NODATA)
    for row, line in zip(picture, ids, strict=True):  # line by line, for the sake of memory
        opacity = np.where(line == NODATA, np.float32(0), np.float32(_OPACITY))[:, None]
        row[:] = row * (1 - opacity) + colours[line] * opacity
    canvas = Image.fromarray(picture)
    fractions = np.bincount(ids.ravel(), minlength=NODATA + 1) / ids.size
    return _with_legend(
        canvas, [(info, fractions[index]) for index, info in enumerate(classes) if fractions[index] > 0]
    )


def displayable(image: Pixels, valid: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
    """Three bands of uint8 that a person can look at.

    Args:
        image: Pixels (height, width, bands) of any dtype.
        valid: Where the image has data, (height, width); None for everywhere.

    Returns:
        Pixels (height, width, 3). uint8 stays as it is; other dtypes are stretched between the 2nd and 98th percentile
        of the values that have data and are finite, and are black where there are none.
    """
    bands = image[:, :, :3] if image.shape[2] >= 3 else np.repeat(image[:, :, :1], 3, axis=2)
    if bands.dtype == np.uint8:
        return bands.astype(np.uint8)
    values = bands.astype(np.float64)
    shown = np.isfinite(values) & (True if valid is None else valid[:, :, None])
    low, high = np.percentile(values[shown], (2, 98)) if shown.any() else (0.0, 0.0)
    stretched = np.where(np.isfinite(values), (values - low) / max(high - low, 1e-6), 0).clip(0, 1) * 255
    found: NDArray[np.uint8] = stretched.astype(np.uint8)
    return found


def _with_legend(picture: Image.Image, entries: list[tuple[ClassInfo, float]]) -> Image.Image:
    line, margin = 28, 10
    width = max(picture.width, 260)
    canvas = Image.new("RGB", (width, picture.height + line * len(entries) + 2 * margin), "white")
    canvas.paste(picture, (0, 0))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=16)
    for index, (info, fraction) in enumerate(entries):
        y = picture.height + margin + index * line
        draw.rectangle((margin, y + 4, margin + 28, y + line - 4), fill=info.colour, outline="black")
        draw.text((margin + 40, y + 5), f"{info.name}  {fraction:.1%}", fill="black", font=font)
    return canvas
