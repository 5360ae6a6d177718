"""Copies of bundles."""

from __future__ import annotations

import shutil
from pathlib import Path


def copy_files(source: Path, target: Path) -> None:
    """Copy all files of a bundle, without their permissions: an installed bundle may be read-only.

    Args:
        source: The folder of the bundle.
        target: The folder of the copy; missing folders are made.
    """
    for path in sorted(source.rglob("*")):
        if path.is_file():
            copied = target / path.relative_to(source)
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copied)
