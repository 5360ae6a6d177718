"""The colours in which an image is shown on a screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rasterio.io import DatasetReader

from ..tiling.resampling import Pixels
from .bands import Bands, choose_bands
from .blocks import Blocks
from .files import reading
from .formats import check_real
from .places import Place
from .scaling import ScaleRange, Scaling, scaling_of

_COLOURS = 3
_STRETCH = "percentile:2,98"


@dataclass(frozen=True, slots=True, eq=False)
class Display:
    """What makes colours of the samples of an image.

    Attributes:
        bands: The bands that are shown.
        scaling: What turns samples into bytes, the same all over the image; None where samples are bytes.
    """

    bands: Bands
    scaling: Scaling | None

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of the bands to read, from 1; that of opacity comes last where there is one."""
        alpha = self.bands.alpha
        return self.bands.used if alpha is None else (*self.bands.used, alpha)

    def __call__(self, samples: NDArray[np.generic], valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Colours of samples.

        Args:
            samples: Samples (bands, rows, columns) of the bands in `numbers`.
            valid: Where they are data, (rows, columns).

        Returns:
            Red, green, blue and opacity, (rows, columns, 4).
        """
        pixels: Pixels = samples[:_COLOURS].transpose(1, 2, 0)
        if self.scaling:
            finite = np.isfinite(pixels)
            valid = valid & finite.all(axis=2)
            colours = self.scaling(np.where(finite, pixels, 0).astype(pixels.dtype))
        else:
            colours = self.bands.palette(pixels) if self.bands.palette else pixels
        if self.bands.palette:
            valid = valid & self.bands.palette.opaque(samples[0])
        if self.bands.alpha is not None:
            valid = valid & (samples[_COLOURS] != 0)
        found = np.empty((*valid.shape, 4), np.uint8)
        found[:, :, :3] = colours
        found[:, :, 3] = np.where(valid, 255, 0)
        return found


def display_of(dataset: DatasetReader, path: Place, named: Sequence[int] | None = None) -> Display:
    """Find out how an image is shown: bytes as they are, other samples between two percentiles of each band.

    Args:
        dataset: The open image.
        path: Its name, for messages.
        named: Numbers of three bands, from 1; None chooses them by their colours.

    Returns:
        What makes colours of its samples.

    Raises:
        RasterError: It has other bands than can be shown, or is damaged.
    """
    with reading(path, "it"):
        check_real(path, dataset.dtypes)
        bands = choose_bands(Blocks(dataset, "fail"), path, _COLOURS, named)
        if bands.palette or set(bands.dtypes(dataset)) == {"uint8"}:
            return Display(bands, None)
        return Display(bands, scaling_of(dataset, path, bands, ScaleRange.parsed(_STRETCH), "uint8"))
