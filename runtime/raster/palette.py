"""The colours that the samples of a palette image stand for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.io import DatasetReader

from ..tiling.resampling import Pixels


@dataclass(frozen=True, slots=True, eq=False)
class Palette:
    """A table of colours.

    Attributes:
        colours: Red, green, blue and opacity by sample, (samples, 4) uint8; what the table lacks is opaque black.
    """

    colours: NDArray[np.uint8]

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The dtype of colours."""
        return self.colours.dtype

    @property
    def is_opaque(self) -> bool:
        """Whether no colour is fully transparent."""
        return bool((self.colours[:, 3] > 0).all())

    def __call__(self, pixels: Pixels) -> Pixels:
        """The colours of samples (height, width, 3) that are the same in all three bands."""
        return self.colours[pixels[:, :, 0], :3]

    def opaque(self, samples: NDArray[np.generic]) -> NDArray[np.bool_]:
        """Where samples stand for a colour that is not fully transparent."""
        found: NDArray[np.bool_] = self.colours[samples, 3] > 0
        return found


def palette_of(dataset: DatasetReader, band: int) -> Palette | None:
    """The palette of a band of unsigned integers; None where it has none.

    Args:
        dataset: The open raster.
        band: The number of the band, from 1.

    Returns:
        The palette.
    """
    dtype = dataset.dtypes[band - 1]
    if dataset.colorinterp[band - 1] != ColorInterp.palette or dtype not in ("uint8", "uint16"):
        return None
    try:
        entries = dataset.colormap(band)
    except ValueError:  # marked so, but without a table
        return None
    colours = np.zeros((np.iinfo(dtype).max + 1, 4), np.uint8)
    colours[:, 3] = 255
    for sample, colour in entries.items():
        if sample < len(colours):
            colours[sample] = colour
    return Palette(colours)
