"""What a bundle costs on one image: work of its network, time and memory of `fctl-run` from file to file (§4.4.6)."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from fctl.export.graphs import frozen
from fctl.model.interface import ContextNetwork
from fctl.model.serving.manifest import draft_manifest
from fctl.model.serving.module_network import ModuleNetwork
from fctl.model.weights.checkpoints import Card
from fctl.runtime.segment.pipeline import segment_rows
from fctl.runtime.tiling.coarse import CoarseArray, CoarseSource
from fctl.runtime.tiling.sources import ArraySource, Source

from .scenes import Image8

_RUN = """
from fctl.runtime.bench.machine import peak_memory
from fctl.runtime.cli.run import run_app
try:
    run_app()
finally:
    print(peak_memory())
"""
"""The kernel's figure of a child's peak has that of its parent in it, as it was when the child was made."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What `fctl-run` takes for one image.

    Attributes:
        seconds: By the clock, from the start of the process to its end.
        megabytes: The most memory that the process held, in 10^6 bytes.
    """

    seconds: float
    megabytes: float


def work(network: ContextNetwork, card: Card, image: Path, coarse: Image8 | None = None) -> float:
    """Count the work of a network over an image, by the operators that run once it is exported.

    Args:
        network: The network.
        card: How it is run.
        image: An image of three bands of uint8.
        coarse: Class ids (height, width) of its coarse mask, for a network that refines one.

    Returns:
        Multiply-accumulates, in 10^9: of all patches with their overlaps, and of all contexts, each encoded as often as
        a run encodes it.
    """
    manifest = draft_manifest("counted", card, {name: name for name in card.network.context_names})
    module = ModuleNetwork(manifest, frozen(network))
    source: Source = ArraySource(pixels_of(image))
    if coarse is not None:
        source = CoarseSource(source, CoarseArray(coarse), len(card.classes))
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        for _ in segment_rows(module, source):
            pass
    return float(counter.get_total_flops()) / 2e9


def run(bundles: Sequence[Path], image: Path, rounds: int = 3) -> Run:
    """Run `fctl-run` in processes of its own.

    Args:
        bundles: The bundle, or it and the one that refines its masks.
        image: The image.
        rounds: How often; medians count.

    Returns:
        Time and memory.
    """
    took = [_once(bundles, image) for _ in range(rounds)]
    return Run(
        seconds=statistics.median(one.seconds for one in took),
        megabytes=statistics.median(one.megabytes for one in took),
    )


def pixels_of(image: Path) -> Image8:
    """Pixels (height, width, 3) of an image of three bands of uint8."""
    return np.asarray(Image.open(image).convert("RGB"))


def _once(bundles: Sequence[Path], image: Path) -> Run:
    """One process, which tells its own peak."""
    with tempfile.TemporaryDirectory() as folder:
        named = [text for pair in zip(("--bundle", "--refine"), map(str, bundles), strict=False) for text in pair]
        command = [sys.executable, "-c", _RUN, str(image), *named, "--out", folder, "--quiet"]
        started = time.perf_counter()
        done = subprocess.run([*command, "--backend", "onnxruntime"], check=True, stdout=subprocess.PIPE, text=True)
        return Run(seconds=time.perf_counter() - started, megabytes=int(done.stdout.split()[-1]) / 1e6)
