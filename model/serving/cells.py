"""Where the cells of features lie in an image."""

from __future__ import annotations

from fctl.runtime.tiling.contexts import Cells

from ..backbones import Backbone, Stage


def cells_of(kind: type[Backbone], stage: Stage, size: int) -> Cells:
    """Where the cells of a stage lie in an image of that side in pixels, along either axis."""
    return Cells(stride=stage.stride, offset=stage.offset, count=kind.grid(size, stage))
