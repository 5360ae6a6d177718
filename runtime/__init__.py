"""fctl's runtime: segments rasters with a bundle, without PyTorch.

`Segmenter` is what an application embeds. It is loaded on first use, so that importing this package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .segment.results import DeviceSegmentation, Paths, Report, Segmentation
    from .segment.segmenter import Segmenter

__all__ = ["DeviceSegmentation", "Paths", "Report", "Segmentation", "Segmenter"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .segment import segmenter

    return getattr(segmenter, name)
