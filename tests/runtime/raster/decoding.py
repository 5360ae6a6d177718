"""Counts how often each block of a GeoTIFF is decoded, by watching which of its bytes GDAL reads.

A block is decoded once for each time that its compressed bytes are read, because GDAL keeps decoded blocks only.
"""

from __future__ import annotations

import bisect
import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
import rasterio

from fctl.runtime.raster import files


class _Watched:
    """A file that notes where it is read."""

    def __init__(self, file: IO[bytes], starts: list[int], counts: Counter[int]) -> None:
        self._file, self._starts, self._counts = file, starts, counts

    def read(self, size: int = -1) -> bytes:
        start = self._file.tell()
        data = self._file.read(size)
        first = bisect.bisect_left(self._starts, start)
        if start < self._starts[0]:  # the header, which is read with what follows it
            return data
        for offset in self._starts[first : bisect.bisect_left(self._starts, start + len(data))]:
            self._counts[offset] += 1
        return data

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)

    def __enter__(self) -> _Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


@contextlib.contextmanager
def counted(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[int]]:
    """Count how often each block of a GeoTIFF is decoded while it is read through `open_any` or `open_raster`.

    What lies beside the file and its limits are looked at as ever; only the bytes come
    from Python.

    Args:
        path: A local GeoTIFF, without files beside it.
        monkeypatch: What puts the watch in place.

    Yields:
        By the offset of a block in the file, how often it was decoded so far; blocks never read are missing.
    """
    starts = block_starts(path)
    counts: Counter[int] = Counter()
    plainly, check = files._opened, files.check_opened

    def opener(name: str, mode: str = "rb") -> object:
        return _Watched(Path(name).open(mode), starts, counts)

    def watched(place: str | Path, drivers: list[str] | None) -> files.OpenFile:
        if Path(place) != path:
            return plainly(place, drivers)
        return rasterio.open(path, driver="GTiff", opener=opener)

    def checked(dataset: files.OpenFile, place: str | Path) -> None:
        if Path(place) != path:  # the name under which GDAL sees our opener lies in no folder
            check(dataset, place)

    with monkeypatch.context() as patch:
        patch.setattr(files, "_opened", watched)
        patch.setattr(files, "check_opened", checked)
        yield counts


def block_starts(path: Path) -> list[int]:
    """Where the blocks of a GeoTIFF start in the file, in ascending order."""
    with rasterio.open(path) as dataset:
        found = {
            dataset.get_tag_item(f"BLOCK_OFFSET_{column}_{row}", "TIFF", bidx=band)
            for band in dataset.indexes
            for (row, column), _ in dataset.block_windows(band)
        }
    return sorted(int(offset) for offset in found if offset)
