"""The bundle, which is the contract between export and runtime: its manifest, and how it lies on disk."""

from __future__ import annotations

from .store import Bundle, read_bundle

__all__ = ["Bundle", "read_bundle"]
