"""Engines that the parity gate did not see are tried when they are loaded, on a small patch that the bundle keeps.

The patch is a square of pixels, mirrored until it fills a tile: it stays small, and looks like an image all the same.
"""

from __future__ import annotations

import logging
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..bundle.files import WrongFileError, regular_size, sha256
from ..bundle.manifest import Manifest
from ..bundle.store import Bundle, boundary
from ..bundle.verdicts import SelfCheck
from ..engines.base import RunPrecision
from ..engines.choose import engine_version
from ..errors import BundleError, EngineError
from ..tiling.sources import ArraySource
from ..tiling.windows import Window
from .batches import PatchBatch, cut_batch
from .network import EngineNetwork

log = logging.getLogger(__name__)

CHECK_FILE = "check.npz"

_SQUARE = 64  # pixels a side of what is stored, half of that for rasters of many bands
_LARGEST_SQUARE = 1 << 16  # bytes of it
_LARGEST_SCORES = 100_000  # bytes of the scores that are stored
_LARGEST_FILE = 1 << 20  # bytes; more than both together
_ERRORS: dict[RunPrecision, float] = {"fp32": 5e-3, "fp16": 3e-2, "bf16": 0.1}  # parts of max |score|; int8 may do more
_ALIKE = 0.99  # of the stored pixels; the others may lie at a tie
_done: set[tuple[str, ...]] = set()


@dataclass(frozen=True, eq=False)
class StoredCheck:
    """What a bundle keeps.

    Attributes:
        square: Raw pixels (side, side, bands).
        scores: Scores (classes, n, n) float16 of every `step`-th row and column, as parts of max |score|.
    """

    square: NDArray[np.generic]
    scores: NDArray[np.float16]


def square_of(patch: NDArray[np.generic]) -> NDArray[np.generic]:
    """The pixels of a patch that are stored.

    Args:
        patch: A raw patch (bands, P, P).

    Returns:
        A square (side, side, bands) of its middle.
    """
    side = _SQUARE
    while side > 8 and side * side * len(patch) * patch.dtype.itemsize > _LARGEST_SQUARE:
        side //= 2
    side = min(side, patch.shape[-1])
    first = (patch.shape[-1] - side) // 2
    return np.ascontiguousarray(patch[:, first : first + side, first : first + side].transpose(1, 2, 0))


def check_batch(manifest: Manifest, square: NDArray[np.generic], size: int) -> PatchBatch:
    """A batch of one patch that is filled with the mirrored square.

    Args:
        manifest: How patches and contexts are cut.
        square: Raw pixels (side, side, bands).
        size: How many patches the batch holds, all but the first black.

    Returns:
        The batch.
    """
    more = manifest.tile - square.shape[0]
    pixels = np.pad(square, ((0, more), (0, more), (0, 0)), mode="symmetric")
    return cut_batch(manifest, ArraySource(pixels), (Window(0, 0, manifest.tile, manifest.tile),), size)


def write_check(folder: Path, square: NDArray[np.generic], scores: NDArray[np.float32]) -> SelfCheck:
    """Write the file of a bundle that is being made.

    Args:
        folder: The bundle.
        square: Raw pixels (side, side, bands).
        scores: What the network scores on `check_batch` of it, (classes, P, P).

    Returns:
        What the manifest says of it.
    """
    path = folder / CHECK_FILE
    np.savez(path, square=square, scores=_parts(scores).astype(np.float16))
    return SelfCheck(file=path.name, sha256=sha256(path))


def self_check(network: EngineNetwork) -> None:
    """Try an engine on the bundle's own patch, unless the parity gate saw it; once in a process.

    Args:
        network: The bundle in the engine.

    Raises:
        EngineError: The engine does not compute what the network computes; the error names another one.
        BundleError: The bundle's file is missing, damaged or not understood.
    """
    manifest, engine = network.manifest, network.engine
    version = engine_version(engine.name)
    seen = {(verdict.engine, verdict.version) for verdict in manifest.engines}
    error = _ERRORS.get(engine.precision)
    if manifest.check is None or error is None or (engine.name, version) in seen:
        return
    key = (str(network.bundle.folder), manifest.check.sha256, engine.name, version, engine.precision)
    if key in _done:
        return
    stored = read_check(network.bundle, manifest.check)
    batch = check_batch(manifest, stored.square, network.batch)
    found = _parts(np.asarray(network.on_host(network.run(batch))[0]))
    if found.shape != stored.scores.shape:
        raise _damaged(network.bundle, manifest.check, f"scores {stored.scores.shape}, expected {found.shape}")
    alike = float((np.abs(found - stored.scores.astype(np.float32)).max(0) <= error).mean())
    if not alike >= _ALIKE:
        others = [verdict.engine for verdict in manifest.engines if verdict.passed and verdict.engine != engine.name]
        raise EngineError(
            f"{engine.name} {version} gives the network's scores at only {alike:.1%} of the pixels of the bundle's "
            "own patch",
            subject=network.bundle.folder,
            remedy=f"choose `backend` {others[0] if others else 'onnxruntime'}, or another version of {engine.name}",
        )
    _done.add(key)
    log.info("%s %s was not at the parity gate: it agrees on the bundle's own patch", engine.name, version)


def _parts(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Some of the scores (classes, P, P), as parts of the largest."""
    count = max(8, min(32, math.isqrt(_LARGEST_SCORES // 2 // len(scores))))
    step = -(-scores.shape[-1] // count)
    largest = np.abs(scores).max()
    return scores[:, ::step, ::step] / (largest if np.isfinite(largest) and largest > 0 else np.float32(1))


def read_check(bundle: Bundle, check: SelfCheck) -> StoredCheck:
    """Read the patch of a bundle, verified.

    Args:
        bundle: The bundle.
        check: What its manifest says of the file.

    Returns:
        What the file holds.

    Raises:
        BundleError: It is missing, damaged or not understood.
    """
    path = bundle.folder / check.file
    if check.file != CHECK_FILE:
        raise _damaged(bundle, check, f"the name {check.file!r}")
    try:
        size = regular_size(path, boundary(bundle.folder))
    except WrongFileError as error:
        raise _damaged(bundle, check, str(error)) from None
    if size > _LARGEST_FILE or sha256(path) != check.sha256:
        raise _damaged(bundle, check, "another file")
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _LARGEST_FILE:
                raise ValueError("more than it may hold")
        with np.load(path, allow_pickle=False) as arrays:
            square, scores = arrays["square"], arrays["scores"]
    except Exception as error:  # a damaged archive may fail anywhere
        raise _damaged(bundle, check, str(error)) from None
    spec, tile = bundle.manifest.input, bundle.manifest.tile
    fits = square.ndim == 3 and square.shape[2] == spec.bands and str(square.dtype) == spec.dtype
    if not fits or not 0 < square.shape[0] == square.shape[1] <= tile or scores.dtype != np.float16:
        raise _damaged(bundle, check, f"{square.dtype} {square.shape}")
    return StoredCheck(square, scores)


def _damaged(bundle: Bundle, check: SelfCheck, found: str) -> BundleError:
    """The error of a file that is not the one that was written."""
    return BundleError(
        subject=f"{bundle.folder}: check.file",
        expected=f"{CHECK_FILE} with sha256 {check.sha256[:12]}...",
        found=found,
        remedy="copy the bundle whole, or export it again",
    )
