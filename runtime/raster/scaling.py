"""Samples of one depth as samples of another, between bounds that are the same for the whole raster."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.errors import NodataShadowWarning
from rasterio.io import DatasetReader

from ..errors import InputError, RasterError
from ..tiling.plausible import Plausible
from ..tiling.resampling import Pixels
from .bands import Bands
from .formats import VALUES
from .places import Place
from .silence import ignored

_SIDE = 1024  # of what percentiles are measured on, in pixels
_WORKING = 1 << 20  # samples that are in work at a time
_OFFSET_SINCE = 4.0  # Sentinel-2's processing baseline from which 1000 is added to all samples
_NUMBER = r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*"


@dataclass(frozen=True, slots=True)
class ScaleRange:
    """Which values become the lowest and the highest of a network's.

    Attributes:
        kind: "bounds": two values, for all bands; "percentile": two percentiles of each band; "metadata": 0 and 1 of
            what the file's scale and offset make of its samples.
        low: The lower value or percentile.
        high: The upper value or percentile.
    """

    kind: Literal["bounds", "percentile", "metadata"]
    low: float = 0
    high: float = 1

    @classmethod
    def parsed(cls, text: str) -> ScaleRange:
        """The range that a text names.

        Args:
            text: "MIN,MAX", "percentile:LOW,HIGH" or "metadata".

        Returns:
            The range.

        Raises:
            InputError: The text is anything else, or the range is empty.
        """
        if text.strip() == "metadata":
            return cls("metadata")
        match = re.fullmatch(rf"(percentile:)?{_NUMBER},{_NUMBER}", text.strip())
        if match:
            low, high = float(match[2]), float(match[3])
            if low < high and np.isfinite((low, high)).all() and not (match[1] and (low < 0 or high > 100)):
                return cls("percentile" if match[1] else "bounds", low, high)
        raise InputError(
            subject="`scale_range`", expected="MIN,MAX as in 0,3000, percentile:2,98 or metadata", found=repr(text)
        )


@dataclass(frozen=True, slots=True, eq=False)
class Scaling:
    """Turns samples into those of a network, band by band and linearly; those beyond the bounds become the bounds.

    Attributes:
        low: By band, the sample that becomes 0.
        high: By band, the sample that becomes the highest value: 255, 65535, 32767, or 1 for floats.
        dtype: The dtype of a network's samples.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    dtype: np.dtype[np.generic]

    def __call__(self, pixels: Pixels) -> Pixels:
        """Samples (height, width, bands) in the network's dtype; those that come must be finite."""
        found = np.empty(pixels.shape, self.dtype)
        exact = pixels.dtype.itemsize <= 2 or pixels.dtype == np.float32
        work: np.dtype[np.floating] = np.dtype(np.float32 if exact else np.float64)
        top = VALUES[self.dtype.name][1]
        low = np.array(self.low, work)
        factor = (top / (np.array(self.high) - np.array(self.low))).astype(work)
        step = max(1, _WORKING // max(1, pixels.shape[1] * pixels.shape[2]))
        for y in range(0, pixels.shape[0], step):
            part = pixels[y : y + step].astype(work)
            part -= low
            part *= factor
            np.clip(part, 0, top, out=part)
            found[y : y + step] = np.rint(part, out=part) if self.dtype.kind in "iu" else part
        return found

    def __str__(self) -> str:
        """The bounds of each band, as in "100,3000 120,2900 90,2700"."""
        return " ".join(f"{low:.9g},{high:.9g}" for low, high in zip(self.low, self.high, strict=True))


def scaling_of(dataset: DatasetReader, path: Place, bands: Bands, wanted: ScaleRange, dtype: str) -> Scaling:
    """Measure the bounds of a raster, once for all of it.

    Args:
        dataset: The open raster.
        path: Its name, for messages.
        bands: The bands in use.
        wanted: Which values become the lowest and the highest.
        dtype: NumPy's name of the network's dtype.

    Returns:
        What turns the raster's samples into the network's.

    Raises:
        RasterError: The file states no scale, or one that does not fit its values.
        RasterioError: The raster cannot be read.
    """
    if wanted.kind == "bounds":
        bounds = [(wanted.low, wanted.high)] * len(bands.used)
    elif wanted.kind == "percentile":
        bounds = [_percentiles(values, wanted) for values in _samples(dataset, bands)]
    else:
        bounds = [_physical(dataset, path, band) for band in bands.used]
        _check_physical(path, bounds, _samples(dataset, bands))
    low, high = zip(*bounds, strict=True)
    return Scaling(tuple(low), tuple(high), np.dtype(dtype))


def _samples(dataset: DatasetReader, bands: Bands) -> list[NDArray[np.generic]]:
    """Samples of each band that have data, of the whole raster at a smaller size, which overviews give at once."""
    factor = max(1, max(dataset.shape) / _SIDE)
    shape = tuple(max(1, round(length / factor)) for length in dataset.shape)
    numbers = sorted(set(bands.used))
    pixels = dataset.read(numbers, out_shape=(len(numbers), *shape), resampling=Resampling.nearest)
    with ignored(NodataShadowWarning):
        masks = dataset.read_masks(numbers, out_shape=(len(numbers), *shape), resampling=Resampling.nearest)
    valid = masks != 0
    if bands.alpha:
        valid &= dataset.read(bands.alpha, out_shape=shape, resampling=Resampling.nearest) != 0
    found = [values[has_data] for values, has_data in zip(pixels, valid, strict=True)]
    if pixels.dtype.kind == "f":
        plausible = Plausible.of_samples(found)
        found = [
            values[(values >= low) & (values <= high)]
            for values, low, high in zip(found, plausible.low, plausible.high, strict=True)
        ]
    by_band = dict(zip(numbers, found, strict=True))
    return [by_band[band] for band in bands.used]


def _percentiles(values: NDArray[np.generic], wanted: ScaleRange) -> tuple[float, float]:
    """Two percentiles of a band; what lies between two that are equal, or of no value, is 1."""
    if not values.size:
        return 0.0, 1.0
    low, high = np.percentile(values.astype(np.float64), (wanted.low, wanted.high)).tolist()
    return low, high if high > low else low + 1


def _physical(dataset: DatasetReader, path: Place, band: int) -> tuple[float, float]:
    """The samples of a band that stand for 0 and 1, by its scale and offset or by the metadata of Sentinel-2."""
    scale, offset = dataset.scales[band - 1], dataset.offsets[band - 1]
    if (scale, offset) == (1.0, 0.0):
        tags = {**dataset.tags(), **dataset.tags(band)}
        quantification = _tag(tags, r"((BOA|L2A_BOA|L1C_TOA)_)?QUANTIFICATION_VALUE")
        if not quantification:
            raise RasterError(
                subject=path, expected="a scale or an offset in the metadata", found="none",
                remedy="name the bounds with `scale_range`, as MIN,MAX or percentile:2,98",
            )  # fmt: skip
        added = _tag(tags, r"(BOA|RADIO)_ADD_OFFSET(_\w+)?")
        if added is None:
            added = -1000.0 if (_tag(tags, "PROCESSING_BASELINE") or 0) >= _OFFSET_SINCE else 0.0
        scale, offset = 1 / quantification, added / quantification
    if not np.isfinite((scale, offset)).all() or scale <= 0:
        raise RasterError(
            subject=path, expected="a scale above 0 and an offset in the metadata", found=f"{scale} and {offset}",
            remedy="name the bounds with `scale_range`, as MIN,MAX or percentile:2,98",
        )  # fmt: skip
    return (0 - offset) / scale, (1 - offset) / scale


def _check_physical(path: Place, bounds: Sequence[tuple[float, float]], samples: Sequence[NDArray[np.generic]]) -> None:
    """Raise RasterError where most values of a raster lie beyond 0 and 1 once scale and offset were heeded."""
    for (low, high), values in zip(bounds, samples, strict=True):
        if not values.size:
            continue
        median = (float(np.median(values.astype(np.float64))) - low) / (high - low)
        if not 0 <= median <= 1:
            raise RasterError(
                subject=path, expected="values from 0 to 1 once scale and offset are heeded",
                found=f"a median of {median:.4g}",
                remedy="name the bounds with `scale_range`, as MIN,MAX or percentile:2,98",
            )  # fmt: skip


def _tag(tags: dict[str, str], pattern: str) -> float | None:
    """The number of the first tag whose name matches, whatever its case."""
    for name, text in tags.items():
        if re.fullmatch(pattern, name, re.IGNORECASE):
            try:
                return float(text)
            except ValueError:
                continue
    return None
