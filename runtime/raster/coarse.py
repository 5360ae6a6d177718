"""Coarse masks on disk: rasters of class ids that lie on their images pixel by pixel."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, RasterError, printable
from ..tiling.merge import NODATA
from ..tiling.windows import Window
from .access import Access
from .blocks import rasterio_window
from .classnames import CLASSES, names_in
from .files import OpenFile, open_any, place_in, reading
from .georeference import Georeference, georeference_of

_REMEDY = "give the mask that a bundle made of this very image"
_ENDINGS = ("_mask.tif", ".tif", ".png")
_SHIFT = 1e-3  # pixels by which two grids may differ: what writing coordinates as text loses

_DEFAULT = Access()


class CoarseFile:
    """An open mask; `open_coarse` makes it. Only one thread at a time may use it.

    Args:
        dataset: The open raster, of one band of uint8.
        path: Its name, for messages.
        classes: How many classes there are.
    """

    def __init__(self, dataset: OpenFile, path: str, classes: int) -> None:
        self._dataset, self._path = dataset, path
        self._known = np.zeros(NODATA + 1, np.bool_)
        self._known[:classes] = self._known[NODATA] = True
        nodata = dataset.nodata
        self._nodata = int(nodata) if nodata is not None and 0 <= nodata < NODATA and nodata == int(nodata) else None

    def read(self, window: Window) -> NDArray[np.uint8]:
        """Class ids (height, width) of a window inside the mask; 255 where there is no class.

        Raises:
            RasterError: The file is damaged, or holds an id that is no class.
        """
        with reading(self._path, place_in(window)):
            ids: NDArray[np.uint8] = self._dataset.read(1, window=rasterio_window(window))
        if self._nodata is not None:
            ids[ids == self._nodata] = NODATA
        if not self._known[ids].all():
            found = int(ids[~self._known[ids]][0])
            raise RasterError(
                subject=self._path, expected=f"class ids up to {int(np.flatnonzero(self._known)[-2])}, or 255",
                found=f"{found} in {place_in(window)}", remedy=_REMEDY,
            )  # fmt: skip
        return ids


@contextlib.contextmanager
def open_coarse(
    path: str, size: tuple[int, int], place: Georeference, names: Sequence[str], access: Access = _DEFAULT
) -> Iterator[CoarseFile]:
    """Open a coarse mask that lies on an image.

    Args:
        path: The mask.
        size: Height and width of the image in pixels.
        place: Where the image lies on the ground.
        names: The names of the classes by id. A mask that names its own must have the same.
        access: Which files may be opened, and how large they may be.

    Yields:
        The open mask.

    Raises:
        RasterError: The mask is missing, no mask, of other classes, or does not lie on the image.
    """
    with open_any(path, access) as dataset:
        if dataset.count != 1 or dataset.dtypes[0] != "uint8":
            found = f"{dataset.count} of {dataset.dtypes[0]}"
            raise RasterError(subject=path, expected="a mask: one band of class ids in uint8", found=found)
        if (found_size := (dataset.height, dataset.width)) != size:
            raise RasterError(
                subject=path, expected=f"a mask of {size[0]} x {size[1]} pixels, as its image has",
                found=f"{found_size[0]} x {found_size[1]}", remedy=_REMEDY,
            )  # fmt: skip
        _check_place(path, georeference_of(dataset), place)
        _check_names(path, dataset.tags(), names)
        yield CoarseFile(dataset, path, len(names))


def coarse_in(folder: Path, image: Path, subject: str) -> Path:
    """Find the mask of an image in a folder.

    Args:
        folder: The folder, as ``fctl-run --out`` fills it.
        image: The image.
        subject: What the folder was given as, for messages.

    Returns:
        The mask: NAME_mask.tif, NAME.tif or NAME.png.

    Raises:
        InputError: There is none.
    """
    names = [f"{image.stem}{ending}" for ending in _ENDINGS]
    if found := next((folder / name for name in names if (folder / name).is_file()), None):
        return found
    expected = f"the mask of {image.stem}: {' or '.join(names)}"
    raise InputError(subject=f"{subject}: {folder}", expected=expected, found="none of these")


def _check_place(path: str, found: Georeference, wanted: Georeference) -> None:
    """Refuse a mask that lies elsewhere than its image; one that lies nowhere, as a PNG, says nothing against it."""
    if found.transform is None and found.crs is None:
        return
    same = (found.transform is None) == (wanted.transform is None)
    if found.transform and wanted.transform:
        pixel = max(abs(wanted.transform.a), abs(wanted.transform.b), abs(wanted.transform.d), abs(wanted.transform.e))
        same = found.transform.almost_equals(wanted.transform, _SHIFT * pixel)
    if not same or found.crs != wanted.crs:
        raise RasterError(
            subject=path, expected="a mask with the place on the ground that its image has", found="another",
            remedy=_REMEDY,
        )  # fmt: skip


def _check_names(path: str, tags: Mapping[str, str], names: Sequence[str]) -> None:
    """Refuse a mask that says it has other classes, or the same in another order."""
    found = names_in(tags)
    if CLASSES in tags and found != list(names):
        raise RasterError(
            subject=path, expected=f"a mask of the classes {', '.join(names)}",
            found=", ".join(found) or f"{CLASSES}={printable(tags[CLASSES])}",
        )  # fmt: skip
