"""How much GDAL holds of what it decoded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import rasterio


@contextmanager
def decoded_cache(nbytes: int) -> Iterator[None]:
    """Let GDAL hold so many bytes of decoded blocks, of all open rasters of the process together."""
    with rasterio.Env(GDAL_CACHEMAX=nbytes):
        yield
