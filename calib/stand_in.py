"""Images as a bundle takes them: with their coarse masks, or what stands in for these, where it refines masks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fctl.runtime.bundle.manifest import Manifest
from fctl.runtime.raster.coarse import coarse_in, open_coarse
from fctl.runtime.raster.source import open_raster
from fctl.runtime.tiling.coarse import Coarse, CoarseSource
from fctl.runtime.tiling.sources import Source
from fctl.runtime.tiling.windows import Window

_BLOCK = 16  # pixels: as coarse as a mask whose borders lie beside those of the image
_STEP = 24  # of brightness, from which on a block has the next class


class StandIn:
    """A mask whose classes follow the brightness of an image in blocks, for patches that no mask is at hand for.

    Args:
        image: The image.
        classes: How many classes there are.
    """

    def __init__(self, image: Source, classes: int) -> None:
        self._image, self._classes = image, classes

    def read(self, window: Window) -> NDArray[np.uint8]:
        """Class ids (height, width) of a window inside the image."""
        around = window.aligned(_BLOCK, self._image.height, self._image.width)
        grey = self._image.read(around).mean(axis=2, dtype=np.float32)
        rows, columns = (np.arange(0, side, _BLOCK) for side in grey.shape)
        sums = np.add.reduceat(np.add.reduceat(grey, rows, axis=0), columns, axis=1)
        heights, widths = np.diff(np.append(rows, grey.shape[0])), np.diff(np.append(columns, grey.shape[1]))
        ids: NDArray[np.uint8] = (sums / np.outer(heights, widths) // _STEP % self._classes).astype(np.uint8)
        return ids.repeat(heights, axis=0).repeat(widths, axis=1)[window.inside(around)]


@contextlib.contextmanager
def open_image(path: Path, manifest: Manifest, rows: int, masks: Path | None = None) -> Iterator[Source]:
    """Open an image for a bundle.

    Args:
        path: The image.
        manifest: The bundle's manifest.
        rows: Rows that the caller goes back to.
        masks: For a bundle that refines masks, the folder of the image's mask; None for a stand-in.

    Yields:
        The image, with its mask or a stand-in where the bundle refines one.

    Raises:
        RasterError: The image or its mask cannot be read, or does not fit the bundle.
        InputError: The folder has no mask of the image.
    """
    with contextlib.ExitStack() as stack:
        image = stack.enter_context(open_raster(path, manifest.image, None, rows))
        if not manifest.refines:
            yield image
            return
        mask: Coarse = StandIn(image, len(manifest.classes))
        if masks is not None:
            file, size = coarse_in(masks, path, "`coarse`"), (image.height, image.width)
            mask = stack.enter_context(open_coarse(str(file), size, image.georeference, manifest.class_names))
        yield CoarseSource(image, mask, len(manifest.classes))
