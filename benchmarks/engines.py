"""Patches a second of one bundle in every engine of a CPU: python -m benchmarks.engines [--bundle B].

A patch is counted with all of its contexts encoded. Rounds alternate between the engines, because the machine's speed
drifts; the median is printed, with the ratio to ONNX Runtime. PyTorch takes part where a checkpoint is given.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path

from fctl.calib.sample import sample_patches, shipped_images
from fctl.runtime.bundle.store import Bundle, read_bundle
from fctl.runtime.choices import Backend
from fctl.runtime.engines.base import RunPrecision
from fctl.runtime.errors import EngineError
from fctl.runtime.segment.batches import joined
from fctl.runtime.segment.network import Network

from .parts import pytorch
from .parts.networks import load_engine, runs
from .parts.timing import in_turn

RUNS: tuple[tuple[Backend, RunPrecision], ...] = (
    ("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"),
)  # fmt: skip


def main() -> None:
    """Time every engine that is installed and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", default="default")
    parser.add_argument("--checkpoint", type=Path, help="the bundle's checkpoint, to time PyTorch too")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()

    bundle = read_bundle(arguments.bundle)
    batch = joined(sample_patches(bundle.manifest, shipped_images(), arguments.batch, seed=1))
    steps: dict[str, Callable[[], object]] = {}
    for backend, precision in RUNS:
        try:
            steps[f"{backend} {precision}"] = runs(load_engine(bundle, backend, precision, arguments.batch), batch)
        except EngineError as error:
            print(f"skipped {backend} {precision}: {error}")
    if arguments.checkpoint:
        steps["PyTorch fp32"] = runs(_torch(bundle, arguments.checkpoint, arguments.batch), batch)
    _report(in_turn(steps, arguments.rounds), arguments.batch)


def _torch(bundle: Bundle, checkpoint: Path, batch: int) -> Network:
    """The checkpoint's network in PyTorch on the CPU."""
    from fctl.model.serving.module_network import ModuleNetwork

    module = pytorch.channels_last(pytorch.module_of(bundle, checkpoint))
    return ModuleNetwork(bundle.manifest, module, batch)


def _report(seconds: Mapping[str, list[float]], batch: int) -> None:
    base = statistics.median(next(iter(seconds.values())))
    print("| engine | patches/s (median) | lowest - highest | ratio to the first |\n|---|---|---|---|")
    for name, times in seconds.items():
        speeds = sorted(batch / t for t in times)
        middle = statistics.median(times)
        print(f"| {name} | {batch / middle:.1f} | {speeds[0]:.1f} - {speeds[-1]:.1f} | {base / middle:.2f} |")


if __name__ == "__main__":
    main()
