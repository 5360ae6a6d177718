"""How the paper's public release runs a network over an image, and the plain loop over tiles that most people write.

Both take an image file to a mask file in PyTorch, one patch at a time. They are written from what the release does, not
from the runtime: Pillow crops and shrinks the contexts of every patch, and scores of the whole image lie in memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fctl.model.interface import ContextNetwork
from fctl.runtime.bench.process import CaseProcess
from fctl.runtime.bundle.manifest import Manifest
from fctl.runtime.segment.batches import grid_of
from fctl.runtime.segment.results import Paths
from fctl.runtime.segment.segmenter import Segmenter
from fctl.runtime.tiling.windows import Window

Steps = Callable[[Path, Path], None]
"""Takes an image file to a mask file."""


@dataclass(frozen=True, slots=True)
class Took:
    """What a run took.

    Attributes:
        seconds: By the clock, from file to file.
        processor: Seconds of processor time of its process.
    """

    seconds: float
    processor: float


def timed(steps: Steps, image: Path, mask: Path) -> Took:
    """Run in this process, and tell what it took."""
    clock, processor = time.perf_counter(), time.process_time()
    steps(image, mask)
    return Took(time.perf_counter() - clock, time.process_time() - processor)


@dataclass(frozen=True, slots=True)
class MaskRun:
    """What a process of ours is asked to do: an image file to a mask file."""

    image: Path
    mask: Path

    def __call__(self, segmenter: Segmenter) -> Took:
        """Segment the image."""

        def steps(image: Path, mask: Path) -> None:
            segmenter.segment_file(image, Paths(mask=mask), overwrite=True)

        return timed(steps, self.image, self.mask)


def elsewhere(process: CaseProcess, image: Path, mask: Path) -> Took:
    """Run in the process of a case."""
    return process.ask(MaskRun(image, mask))


def release(module: ContextNetwork, manifest: Manifest) -> Steps:
    """The release's procedure (§4.2): every patch with its contexts, logits summed, the best class of each pixel.

    Args:
        module: The network, in evaluation mode.
        manifest: Where patches and contexts lie. No context may be placed by an input.

    Returns:
        The procedure.
    """

    def run(image: Path, mask: Path) -> None:
        whole = Image.open(image).convert("RGB")
        shared: dict[tuple[str, Window], Tensor] = {}  # the release encodes the global context once an image
        raster = Window(0, 0, whole.height, whole.width)

        def scores(tile: Window) -> Tensor:
            features = {}
            for context in manifest.contexts:
                window = context.window.around(tile, raster)
                if not context.window.shared:
                    features[context.name] = module.encode(context.name, _cut(whole, window, context.size))
                    continue
                key = (context.name, window)
                if key not in shared:
                    shared[key] = module.encode(context.name, _cut(whole, window, context.size))
                features[context.name] = shared[key]
            return module.segment(_cut(whole, tile, manifest.tile), features)

        _save(_summed(manifest, whole, scores), mask)

    return run


def plain(module: ContextNetwork, manifest: Manifest) -> Steps:
    """The plain loop: the same tiles through a network without contexts.

    Args:
        module: The network without contexts, in evaluation mode.
        manifest: Where patches lie.

    Returns:
        The procedure.
    """

    def run(image: Path, mask: Path) -> None:
        whole = Image.open(image).convert("RGB")
        _save(_summed(manifest, whole, lambda tile: module.segment(_cut(whole, tile, manifest.tile), {})), mask)

    return run


def _summed(manifest: Manifest, whole: Image.Image, scores: Callable[[Window], Tensor]) -> NDArray[np.float32]:
    """Logits (classes, height, width) of all tiles, summed over the whole image."""
    total = np.zeros((len(manifest.classes), whole.height, whole.width), np.float32)
    grid = grid_of(manifest, whole.height, whole.width)
    with torch.inference_mode():
        for y in grid.rows:
            for x in grid.columns:
                tile = Window(y, x, grid.tile, grid.tile)
                rows, columns = min(grid.tile, whole.height - y), min(grid.tile, whole.width - x)
                total[:, y : y + rows, x : x + columns] += scores(tile)[0, :, :rows, :columns].numpy()
    return total


def _cut(whole: Image.Image, window: Window, side: int) -> Tensor:
    """A window (1, 3, side, side) of the image, black beyond it, shrunk with Pillow as the release does."""
    part = whole.crop((window.x, window.y, window.right, window.bottom))
    if part.size != (side, side):
        part = part.resize((side, side), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(part).transpose(2, 0, 1)[None].copy())


def _save(scores: NDArray[np.float32], mask: Path) -> None:
    Image.fromarray(scores.argmax(0).astype(np.uint8)).save(mask)
