"""A bundle on a machine that may not have it: sent once, and kept by its digest."""

from __future__ import annotations

import io
import shutil
import zipfile
from pathlib import Path

from filelock import FileLock

from ..atomic import atomic_write
from ..bundle.store import Bundle, read_bundle
from ..engines.kept import cache_root
from ..errors import BundleError, FctlError
from .orders import Setup


def bundle_here(setup: Setup) -> Bundle:
    """The bundle of a setup, wherever this machine has it.

    Raises:
        BundleError: It has not.
    """
    for place in (setup.bundle, _kept(setup.digest)):
        if bundle := _read(place, setup.digest):
            return bundle
    raise BundleError(f"this worker has no bundle {setup.bundle}", remedy="start the run again, which sends it")


def has_bundle(setup: Setup) -> bool:
    """Whether this machine has the bundle of a setup."""
    try:
        bundle_here(setup)
    except BundleError:
        return False
    return True


def packed(bundle: Bundle) -> bytes:
    """All files of a bundle as one ZIP archive; graphs hardly shrink, so that they are stored."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(bundle.folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(bundle.folder).as_posix())
    return stream.getvalue()


def keep_bundle(digest: str, data: bytes) -> None:
    """Keep a bundle that was sent.

    Args:
        digest: Its digest.
        data: What `packed` gave.
    """
    place = _kept(digest)
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(place.with_suffix(".lock")):  # other workers of this machine get it at the same moment
        if _read(place, digest):
            return
        shutil.rmtree(place, ignore_errors=True)  # damaged
        with atomic_write(place) as temporary:
            temporary.mkdir()
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                archive.extractall(temporary)


def _read(place: str | Path, digest: str) -> Bundle | None:
    """The bundle at a place, whose files are verified; None where it is not the one of the digest."""
    try:
        bundle = read_bundle(place)
        return bundle if bundle.digest == digest else None
    except (FctlError, OSError):
        return None


def _kept(digest: str) -> Path:
    return cache_root() / "bundles" / f"{digest[:32]}.fctl"
