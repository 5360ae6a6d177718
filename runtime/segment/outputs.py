"""What is written for an image: mask, probabilities, preview."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .bundle import ClassInfo, Manifest
from .contexts import Pixels
from .engines import Engine
from .merge import NODATA
from .pipeline import Rows
from .raster import Georeference, RasterSpec, RasterWriter, create_raster
from .turns import Turn

_PREVIEW_SIDE = 1600
_OPACITY = 0.45


class OutputFiles:
    """Takes finished rows and writes them; counts the pixels of each class. Use `create_outputs`."""

    def __init__(self, classes: int, mask: RasterWriter, probabilities: RasterWriter | None) -> None:
        self._mask, self._probabilities = mask, probabilities
        self.pixels = np.zeros(classes, np.int64)

    @property
    def wants_probabilities(self) -> bool:
        """Whether rows need them."""
        return self._probabilities is not None

    def write(self, rows: Rows) -> None:
        """Append rows to every file."""
        self._mask.write(rows.ids[None])
        if self._probabilities and rows.probabilities is not None:
            self._probabilities.write(rows.probabilities)
        self.pixels += np.bincount(rows.ids.ravel(), minlength=NODATA + 1)[: len(self.pixels)]


@contextlib.contextmanager
def create_outputs(
    mask: Path,
    probabilities: Path | None,
    size: tuple[int, int],
    georeference: Georeference,
    manifest: Manifest,
    engine: Engine,
    turns: Sequence[Turn],
) -> Iterator[OutputFiles]:
    """Files for one image of `size` (height, width): a mask of class ids, and one band of probability per class."""
    classes = manifest.classes
    tags = _tags(manifest, engine, turns)
    ids = RasterSpec(
        height=size[0], width=size[1], dtype="uint8", descriptions=("class",), nodata=NODATA,
        colours=tuple(info.colour for info in classes), tags=tags,
    )  # fmt: skip
    shares = RasterSpec(
        height=size[0], width=size[1], dtype="float32", descriptions=manifest.class_names, nodata=float("nan"),
        colours=None, tags=tags,
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(create_raster(mask, ids, georeference))
        other = stack.enter_context(create_raster(probabilities, shares, georeference)) if probabilities else None
        yield OutputFiles(len(classes), writer, other)


def _tags(manifest: Manifest, engine: Engine, turns: Sequence[Turn]) -> dict[str, str]:
    """What made the file, and what its numbers mean: GeoTIFF has no other place for class names."""
    scenes = {context.name: context.scene for context in manifest.contexts if context.scene}
    tags = {
        "FCTL_BUNDLE": manifest.name,
        "FCTL_CHECKPOINT_SHA256": manifest.provenance.checkpoint_sha256,
        "FCTL_ENGINE": engine.name,
        "FCTL_DEVICE": engine.device,
        "FCTL_PRECISION": engine.precision,
        "FCTL_TURNS": str(len(turns)),
        "FCTL_CLASSES": json.dumps(dict(enumerate(manifest.class_names))),
    }
    return tags | ({"FCTL_SCENE_SIZE": json.dumps(scenes)} if scenes else {})


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
