"""Every preset in one table: size, work, parity and speed in every engine. python benchmarks/matrix.py [--only a,b].

Weights are random, scaled so that signals neither fade nor explode: parity and speed need no trained ones. GMAC are
those of the exported graphs for one patch with all of its contexts. Rounds alternate between engines, because the
machine's speed drifts; medians are printed, and what matters is their ratio in one row. A dash is an engine that the
machine does not run.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from parts.networks import scores_of
from parts.random_weights import make_preset
from parts.timing import in_turn
from torch.utils.flop_counter import FlopCounterMode

from fctl.calib.sample import sample_patches, shipped_images
from fctl.export.graphs import frozen
from fctl.model.network import FCtL
from fctl.model.presets import PRESETS
from fctl.runtime.bundle.store import Bundle
from fctl.runtime.engines.choose import choose_engine
from fctl.runtime.errors import EngineError
from fctl.runtime.segment.batches import PatchBatch
from fctl.runtime.segment.opening import load_network

CLASSES = 6
ENGINES = (("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"))
HEADER = (
    "preset", "parameters, M", "GMAC: patch", "contexts", "LCF + ALE", "decoder", "bundle, MB", "max error",
    "same class", "PyTorch", "ONNX Runtime", "OpenVINO fp32", "OpenVINO bf16",
)  # fmt: skip


@dataclass(frozen=True)
class Work:
    """Multiply-accumulates of one patch, in 10^9."""

    patch: float
    contexts: float
    fusion: float
    decoder: float


def main() -> None:
    """Export and time the presets asked for; print rows of a Markdown table as they are done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="presets, comma-separated; default: all")
    parser.add_argument("--width", type=float, default=1.0, help="multiplies every number of channels")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print("Speeds: patches a second, batch 1, and their ratio to ONNX Runtime.\n")
    print(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}", flush=True)
    for name in arguments.only.split(",") if arguments.only else PRESETS:
        with tempfile.TemporaryDirectory() as folder:
            print(f"| {' | '.join(row(name, arguments.width, arguments.rounds, Path(folder)))} |", flush=True)
        gc.collect()


def row(name: str, width: float, rounds: int, folder: Path) -> list[str]:
    """One preset's cells."""
    made = make_preset(name, folder, classes=CLASSES, width=width)
    bundle, network, manifest = made.bundle, made.network, made.bundle.manifest
    batch = sample_patches(manifest, shipped_images(), 1, seed=1)[0]
    work = count(network, batch)
    speeds = timed(bundle, network, batch, rounds)
    base = speeds.get("onnxruntime fp32")
    parameters = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    size = sum(file.stat().st_size for file in bundle.folder.iterdir()) / 1e6
    figures = [parameters, work.patch, work.contexts, work.fusion, work.decoder]
    cells = [name, *(f"{figure:.1f}" for figure in figures), f"{size:.0f}"]
    parity = manifest.parity[0]
    cells += [f"{parity.max_error:.0e}", f"{parity.agreement:.3%}"]
    for engine in ("PyTorch", *(f"{backend} {precision}" for backend, precision in ENGINES)):
        cells.append(f"{speeds[engine]:.2f} ({speeds[engine] / base:.2f})" if engine in speeds and base else "-")
    return cells


def count(network: FCtL, batch: PatchBatch) -> Work:
    """The work of the exported network, from the operators that really run."""
    exported = frozen(network)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        exported(*_tensors(batch))
    totals = {name: sum(by_operator.values()) / 2e9 for name, by_operator in counter.get_flop_counts().items()}

    def of(*parts: str) -> float:
        return sum(totals.get(f"FCtL.{part}", 0.0) for part in parts)

    contexts = of(*(f"context_encoders.{name}" for name in network.config.context_names))
    patch, decoder = of("encoder"), of("decoder")
    return Work(patch, contexts, totals["Global"] - patch - contexts - decoder, decoder)


def timed(bundle: Bundle, network: FCtL, batch: PatchBatch, rounds: int) -> dict[str, float]:
    """Patches a second of every engine that this machine has."""
    steps: dict[str, Callable[[], object]] = {"PyTorch": _torch(network, batch)}
    for backend, precision in ENGINES:
        try:
            steps[f"{backend} {precision}"] = _staged(bundle, backend, precision, batch)
        except EngineError:
            continue
    return {name: 1 / statistics.median(times) for name, times in in_turn(steps, rounds).items()}


def _staged(bundle: Bundle, backend: str, precision, batch: PatchBatch) -> Callable[[], object]:
    network = load_network(bundle, choose_engine(backend, precision), 1)
    return lambda: network.on_host(scores_of(network, batch))


def _torch(network: FCtL, batch: PatchBatch) -> Callable[[], object]:
    network = network.to(memory_format=torch.channels_last)
    tensors = _tensors(batch)

    def step() -> object:
        with torch.inference_mode():
            return network(*tensors)

    return step


def _tensors(batch: PatchBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    contexts = {name: torch.from_numpy(np.ascontiguousarray(window)) for name, window in batch.contexts.items()}
    return torch.from_numpy(batch.patch), contexts, {k: torch.from_numpy(v) for k, v in batch.positions.items()}


if __name__ == "__main__":
    main()
