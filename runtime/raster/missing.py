"""Which samples of a raster have no data; docs/nodata.md states the rule.

A sample is one band at one pixel. It is missing where a declared nodata value, a mask or an alpha band says so, and in
a raster of floats also where it is not finite or beyond what is plausible.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import MaskFlags
from rasterio.io import DatasetReader
from rasterio.windows import Window

from ..tiling.plausible import Plausible
from .bands import Bands, Opacity, sample_windows
from .blocks import Blocks

Samples = NDArray[np.bool_]
"""One value for each sample, (height, width, bands)."""


class Missing:
    """Tells where an open raster has samples without data.

    Args:
        blocks: The open raster.
        bands: The bands in use.
        plausible: Which floats can be measurements, where that was found out before; None finds it out.

    Attributes:
        floating: Whether the raster holds floats.
        opacity: What was seen of the alpha band so far.
        range: Which floats can be measurements; None in a raster of integers.
    """

    def __init__(self, blocks: Blocks, bands: Bands, plausible: Plausible | None = None) -> None:
        self._blocks, self._bands, dataset = blocks, bands, blocks.dataset
        self._masked = tuple(index for index, band in enumerate(bands.used) if _is_masked(dataset, band))
        self.floating = np.dtype(dataset.dtypes[bands.used[0] - 1]).kind == "f"
        self.opacity = Opacity(bands.opaque, bands.between)  # a run that is resumed does not read all of the raster
        self.range = (plausible or self._range()) if self.floating else None

    @property
    def declares(self) -> bool:
        """Whether a nodata value, a mask, alpha or a palette may declare samples as missing."""
        palette = self._bands.palette
        return bool(self._masked or self._bands.alpha or (palette and not palette.is_opaque))

    def declared(self, window: Window) -> Samples | None:
        """Where samples have data by declaration: nodata values, masks and alpha.

        Args:
            window: A window that lies inside the raster.

        Returns:
            An array (height, width, bands); None where nothing is declared.
        """
        if not self.declares:
            return None
        palette = self._bands.palette
        found = np.ones((window.height, window.width, len(self._bands.used)), np.bool_)
        if self._masked:
            numbers = [self._bands.used[index] for index in self._masked]
            masks = self._blocks.read_masks(numbers, window)
            found[:, :, self._masked] = (masks != 0).transpose(1, 2, 0)
        if self._bands.alpha:
            alpha = self._blocks.read([self._bands.alpha], window)[0]
            self.opacity.add(alpha)
            found &= (alpha > 0)[:, :, None]
        if palette and not palette.is_opaque:
            found &= palette.opaque(self._blocks.read(self._bands.used[:1], window)[0])[:, :, None]
        return found

    def plausible(self, pixels: NDArray[np.generic]) -> Samples | None:
        """Where samples (height, width, bands) can be measurements; None for integers, which all can."""
        return self.range.holds(pixels) if self.range else None

    def _range(self) -> Plausible:
        """What is plausible in this raster of floats, by samples of it."""
        samples: list[list[NDArray[np.generic]]] = [[] for _ in self._bands.used]
        for window in sample_windows(self._blocks.dataset):
            pixels = self._blocks.read(self._bands.used, window)
            declared, readable = self.declared(window), self._blocks.readable(window)
            known = np.ones(pixels.shape[1:], np.bool_) if readable is None else readable
            for index, band in enumerate(pixels):
                samples[index].append(band[known if declared is None else known & declared[:, :, index]])
        self.opacity = Opacity(self._bands.opaque, self._bands.between)  # what is read for good counts from here
        return Plausible.of_samples([np.concatenate(band) for band in samples])


def _is_masked(dataset: DatasetReader, band: int) -> bool:
    """Whether a band has a mask to be heeded: alpha is judged apart, and a value that its type cannot hold is none."""
    flags = dataset.mask_flag_enums[band - 1]
    if MaskFlags.all_valid in flags or MaskFlags.alpha in flags:
        return False
    nodata, dtype = dataset.nodatavals[band - 1], np.dtype(dataset.dtypes[band - 1])
    if MaskFlags.nodata not in flags or nodata is None or dtype.kind == "f":
        return True
    limits = np.iinfo(dtype)
    return float(nodata).is_integer() and limits.min <= nodata <= limits.max
