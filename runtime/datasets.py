"""The former place of what is now in `fctl.runtime.evaluate`, for programs that were written against it."""

from __future__ import annotations

from .evaluate.datasets import open_dataset
from .evaluate.selection import select

__all__ = ["open_dataset", "select"]
