"""fctl's runtime: segments rasters with a bundle, without PyTorch.

This is its public face; that of evaluation is `fctl.runtime.evaluate`. Each name is loaded from its room on first use,
so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .bundle.store import Bundle, read_bundle
    from .errors import FctlError
    from .raster.places import Scene
    from .segment.batches import cut_batch, grid_of
    from .segment.outputs import deliver
    from .segment.results import DeviceSegmentation, Estimate, Paths, Report, Segmentation
    from .segment.segmenter import Segmenter
    from .segment.stream import Stream, StreamedFrame
    from .segment.where import Where
    from .stopwatch import Stopwatch
    from .storage.destination import Upload
    from .tiling.merge import Merger
    from .tiling.sources import ArraySource

__all__ = [
    "ArraySource",
    "Bundle",
    "DeviceSegmentation",
    "Estimate",
    "FctlError",
    "Merger",
    "Paths",
    "Report",
    "Scene",
    "Segmentation",
    "Segmenter",
    "Stopwatch",
    "Stream",
    "StreamedFrame",
    "Upload",
    "Where",
    "cut_batch",
    "deliver",
    "grid_of",
    "read_bundle",
]

_HOMES = {
    ".bundle.store": ("Bundle", "read_bundle"),
    ".errors": ("FctlError",),
    ".raster.places": ("Scene",),
    ".segment.batches": ("cut_batch", "grid_of"),
    ".segment.outputs": ("deliver",),
    ".segment.results": ("DeviceSegmentation", "Estimate", "Paths", "Report", "Segmentation"),
    ".segment.segmenter": ("Segmenter",),
    ".segment.stream": ("Stream", "StreamedFrame"),
    ".segment.where": ("Where",),
    ".stopwatch": ("Stopwatch",),
    ".storage.destination": ("Upload",),
    ".tiling.merge": ("Merger",),
    ".tiling.sources": ("ArraySource",),
}


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(home, __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
