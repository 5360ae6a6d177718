"""The preview: an image with its mask laid over it, and a legend."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..bundle.manifest import ClassInfo
from ..tiling.merge import NODATA
from ..tiling.resampling import Pixels

_PREVIEW_SIDE = 1600
_OPACITY = 0.45


def preview_size(height: int, width: int) -> tuple[int, int]:
    """Size (height, width) of the preview of a raster: at most 1600 pixels a side."""
    scale = min(1.0, _PREVIEW_SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def draw_preview(image: Pixels, ids: NDArray[np.uint8], classes: tuple[ClassInfo, ...]) -> Image.Image:
    """The image, the mask laid over it, and a legend of the classes that occur.

    image (height, width, bands) of any dtype: its first three bands are shown; ids (height, width).
    """
    colours = np.zeros((NODATA + 1, 3), np.float32)
    colours[: len(classes)] = [info.colour for info in classes]
    ground = displayable(image).astype(np.float32)
    opacity = np.where(ids == NODATA, 0, _OPACITY)[:, :, None]
    blended = ground * (1 - opacity) + colours[ids] * opacity
    canvas = Image.fromarray(blended.astype(np.uint8))
    shares = np.bincount(ids.ravel(), minlength=NODATA + 1) / ids.size
    return _with_legend(canvas, [(info, shares[index]) for index, info in enumerate(classes) if shares[index] > 0])


def displayable(image: Pixels) -> NDArray[np.uint8]:
    """Three bands of uint8; other dtypes are stretched between their 2nd and 98th percentile."""
    bands = image[:, :, :3] if image.shape[2] >= 3 else np.repeat(image[:, :, :1], 3, axis=2)
    if bands.dtype == np.uint8:
        return bands
    low, high = np.nanpercentile(bands, (2, 98))
    stretched = np.nan_to_num((bands - low) / max(high - low, 1e-6)).clip(0, 1) * 255
    return stretched.astype(np.uint8)  # type: ignore[no-any-return]


def _with_legend(picture: Image.Image, entries: list[tuple[ClassInfo, float]]) -> Image.Image:
    line, margin = 28, 10
    width = max(picture.width, 260)
    canvas = Image.new("RGB", (width, picture.height + line * len(entries) + 2 * margin), "white")
    canvas.paste(picture, (0, 0))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=16)
    for index, (info, share) in enumerate(entries):
        y = picture.height + margin + index * line
        draw.rectangle((margin, y + 4, margin + 28, y + line - 4), fill=info.colour, outline="black")
        draw.text((margin + 40, y + 5), f"{info.name}  {share:.1%}", fill="black", font=font)
    return canvas
