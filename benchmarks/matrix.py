"""Size, work, parity and speed of every preset in one table: python -m benchmarks.matrix [--only a,b] [--verdicts].

Weights are random, scaled so that signals neither fade nor explode: parity and speed need no trained ones. GMAC are
those of the exported graphs for one patch with all of its contexts. Rounds alternate between engines, because the
machine's speed drifts; medians are printed, and what matters is their ratio in one row. A dash is an engine that the
machine does not run. With --verdicts, nothing is timed: the table has what each engine that is installed did at the
parity gate.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from fctl.calib.sample import sample_patches, shipped_images
from fctl.export.graphs import frozen
from fctl.model.interface import ContextNetwork, SharingNetwork
from fctl.model.serving.module_network import ModuleNetwork
from fctl.runtime.bundle.manifest import SEGMENTER
from fctl.runtime.bundle.store import Bundle
from fctl.runtime.errors import EngineError
from fctl.runtime.segment.batches import PatchBatch, on_host

from .engines import RUNS
from .parts.graph_work import giga_macs
from .parts.networks import load_engine, runs
from .parts.pytorch import channels_last
from .parts.random_weights import make_preset, segmenting
from .parts.timing import in_turn

CLASSES = 6
HEADER = (
    "preset", "parameters, M", "GMAC: patch", "contexts", "LCF + ALE", "decoder", "bundle, MB", "max error",
    "same class", "PyTorch", "ONNX Runtime", "OpenVINO fp32", "OpenVINO bf16",
)  # fmt: skip
VERDICT_HEADER = ("preset", "width", "engine", "same class", "max error", "verdict")


@dataclass(frozen=True)
class Work:
    """Multiply-accumulates of one patch, in 10^9.

    Attributes:
        patch: Of the patch's encoder.
        contexts: Of the encoders of all contexts.
        fusion: Of LCF and ALE (§3.2, §3.4).
        decoder: Of the decoder.
    """

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
    parser.add_argument(
        "--verdicts", action="store_true", help="what each engine did at the parity gate, and no speeds"
    )
    arguments = parser.parse_args()
    header = VERDICT_HEADER if arguments.verdicts else HEADER
    if not arguments.verdicts:
        print("Speeds: patches a second, batch 1, and their ratio to ONNX Runtime.\n")
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}", flush=True)
    for name in arguments.only.split(",") if arguments.only else segmenting():
        with tempfile.TemporaryDirectory() as folder:
            if arguments.verdicts:
                rows = verdicts(name, arguments.width, Path(folder))
            else:
                rows = [row(name, arguments.width, arguments.rounds, Path(folder))]
            for cells in rows:
                print(f"| {' | '.join(cells)} |", flush=True)
        gc.collect()


def verdicts(name: str, width: float, folder: Path) -> list[list[str]]:
    """What each engine did at the parity gate of a preset.

    Args:
        name: The preset.
        width: What every number of channels is multiplied by.
        folder: Where checkpoint and bundle are written.

    Returns:
        A row for each engine: the cells in the order of `VERDICT_HEADER`.
    """
    manifest = make_preset(name, folder, classes=CLASSES, width=width).bundle.manifest
    return [
        [
            name,
            f"{width:g}",
            f"{verdict.engine} {verdict.version}",
            "-" if verdict.agreement is None else f"{verdict.agreement:.3%}",
            "-" if verdict.max_error is None else f"{verdict.max_error:.0e}",
            "passed" if verdict.passed else verdict.reason,
        ]
        for verdict in manifest.engines
    ]


def row(name: str, width: float, rounds: int, folder: Path) -> list[str]:
    """Measure one preset.

    Args:
        name: The preset.
        width: What every number of channels is multiplied by.
        rounds: How many times each engine is timed.
        folder: Where checkpoint and bundle are written.

    Returns:
        The cells of its row, in the order of `HEADER`.
    """
    made = make_preset(name, folder, classes=CLASSES, width=width)
    bundle, network, manifest = made.bundle, made.network, made.bundle.manifest
    batch = sample_patches(manifest, shipped_images(), 1, seed=1)[0]
    work = count_graphs(bundle) if isinstance(network, SharingNetwork) else count(network, batch)
    speeds = speeds_of(bundle, network, batch, rounds)
    base = speeds.get("onnxruntime fp32")
    parameters = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    size = sum(file.stat().st_size for file in bundle.folder.iterdir()) / 1e6
    figures = [parameters, work.patch, work.contexts, work.fusion, work.decoder]
    cells = [name, *(f"{figure:.1f}" for figure in figures), f"{size:.0f}"]
    parity = manifest.parity[0]
    cells += [f"{parity.max_error:.0e}", f"{parity.agreement:.3%}"]
    for engine in ("PyTorch", *(f"{backend} {precision}" for backend, precision in RUNS)):
        cells.append(f"{speeds[engine]:.2f} ({speeds[engine] / base:.2f})" if engine in speeds and base else "-")
    return cells


def count(network: ContextNetwork, batch: PatchBatch) -> Work:
    """Count the work of a network on a batch of one patch, from the operators that run once it is exported."""
    exported = frozen(network)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        exported(*_tensors(batch))
    totals: dict[str, float] = {
        name: sum(by_operator.values()) / 2e9 for name, by_operator in counter.get_flop_counts().items()
    }

    def of(*parts: str) -> float:
        return sum(totals.get(f"{type(exported).__name__}.{part}", 0.0) for part in parts)

    contexts = of(*(f"context_encoders.{name}" for name in network.config.context_names))
    patch, decoder = of("encoder"), of("decoder")
    return Work(patch, contexts, totals["Global"] - patch - contexts - decoder, decoder)


def count_graphs(bundle: Bundle) -> Work:
    """Count the work of graphs that hand maps to each other: of the segmenter, and of those before it, once each."""
    found = {graph.role: giga_macs(bundle.folder / graph.file) for graph in bundle.manifest.graphs}
    segmenter = found.pop(SEGMENTER)
    return Work(segmenter, sum(found.values()), 0.0, 0.0)


def speeds_of(bundle: Bundle, network: ContextNetwork, batch: PatchBatch, rounds: int) -> dict[str, float]:
    """Time a network in PyTorch and its bundle in every engine that this machine has.

    Args:
        bundle: The bundle.
        network: The network that it was exported from.
        batch: One patch.
        rounds: How many times each is timed.

    Returns:
        Patches a second, by engine and precision.
    """
    module = ModuleNetwork(bundle.manifest, channels_last(network), 1)
    steps: dict[str, Callable[[], object]] = {"PyTorch": runs(module, batch)}
    for backend, precision in RUNS:
        try:
            steps[f"{backend} {precision}"] = runs(load_engine(bundle, backend, precision, 1), batch)
        except EngineError:
            continue
    return {name: 1 / statistics.median(times) for name, times in in_turn(steps, rounds).items()}


def _tensors(batch: PatchBatch) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """A batch as `FCtL.forward` takes it."""
    names = (*batch.contexts, *batch.shared)
    contexts = {name: torch.from_numpy(batch.pixels_of(name)) for name in names}
    positions = {name: torch.from_numpy(place) for name, place in batch.positions.items()}
    return torch.from_numpy(on_host(batch.patch)), contexts, positions


if __name__ == "__main__":
    main()
