"""The former place of what is now in `fctl.runtime`, for programs that were written against it."""

from __future__ import annotations

from .tiling.merge import Merger

__all__ = ["Merger"]
