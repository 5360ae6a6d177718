"""Patches a second of the default bundle in every engine, in one process: python benchmarks/engines.py [--bundle B].

A patch is counted with all of its contexts encoded. Rounds alternate between the engines, because the machine's speed
drifts; the median is printed, with the ratio to ONNX Runtime. PyTorch takes part where a checkpoint is given.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fctl.calib.sample import sample_patches, shipped_images
from fctl.runtime.bundle import Bundle, read_bundle
from fctl.runtime.engines import choose_engine
from fctl.runtime.errors import EngineError
from fctl.runtime.inference import StagedNetwork

RUNS = (("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"))


def main() -> None:
    """Time every engine that is installed and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", default="default")
    parser.add_argument("--checkpoint", type=Path, help="the bundle's checkpoint, to time PyTorch too")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()

    bundle = read_bundle(arguments.bundle)
    patches = sample_patches(bundle.manifest, shipped_images(), arguments.batch, seed=1)
    patch = np.concatenate([item.patch for item in patches])
    windows = {c.name: np.concatenate([item.contexts[c.name] for item in patches]) for c in bundle.manifest.contexts}

    steps: dict[str, Callable[[], object]] = {}
    for backend, precision in RUNS:
        try:
            steps[f"{backend} {precision}"] = _staged(bundle, backend, precision, patch, windows)
        except EngineError as error:
            print(f"skipped {backend} {precision}: {error}")
    if arguments.checkpoint:
        steps["PyTorch fp32"] = _torch(arguments.checkpoint, patch, windows)
    _report(steps, arguments.batch, arguments.rounds)


def _staged(bundle: Bundle, backend: str, precision, patch, windows) -> Callable[[], object]:
    network = StagedNetwork(bundle, choose_engine(backend, precision), len(patch))

    def step() -> object:
        features = {c.name: network.encode(c, windows[c.name]) for c in bundle.manifest.contexts}
        return network.segment(patch, features, {})

    return step


def _torch(checkpoint: Path, patch, windows) -> Callable[[], object]:
    import torch

    from fctl.model.checkpoints import load_network, read_checkpoint

    read = read_checkpoint(checkpoint)
    assert read.card, "a checkpoint of fctl is needed"
    network = load_network(read.card.network, read.state, str(checkpoint)).to(memory_format=torch.channels_last)
    tensors = {name: torch.from_numpy(window) for name, window in windows.items()}

    def step() -> object:
        with torch.inference_mode():
            return network(torch.from_numpy(patch), tensors)

    return step


def _report(steps: dict[str, Callable[[], object]], batch: int, rounds: int) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    for _ in range(rounds):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - started)
    base = statistics.median(next(iter(seconds.values())))
    print("| engine | patches/s (median) | lowest - highest | ratio to the first |\n|---|---|---|---|")
    for name, times in seconds.items():
        speeds = sorted(batch / t for t in times)
        middle = statistics.median(times)
        print(f"| {name} | {batch / middle:.1f} | {speeds[0]:.1f} - {speeds[-1]:.1f} | {base / middle:.2f} |")


if __name__ == "__main__":
    main()
