"""The former place of what is now in `fctl.runtime`, for programs that were written against it."""

from __future__ import annotations

from .segment.batches import cut_batch, cut_scene, grid_of

__all__ = ["cut_batch", "cut_scene", "grid_of"]
