"""Warnings of rasterio that mean nothing here, ignored without touching those of the application."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def ignored(category: type[Warning]) -> Iterator[None]:
    """Ignore one category of warnings while a call of ours runs.

    ``warnings.catch_warnings`` would not do. It exchanges the list of filters and restores the old list later, so that
    two threads which overlap leave the wrong list behind. Here one entry is added to the list in force, and taken out
    of the same list.

    Args:
        category: The category.
    """
    filters, entry = warnings.filters, ("ignore", None, category, None, 0)
    assert isinstance(filters, list)
    filters.insert(0, entry)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the application cleared the list meanwhile
            filters.remove(entry)
