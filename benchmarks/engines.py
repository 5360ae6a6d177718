"""Patches a second of the default bundle in every engine, in one process: python benchmarks/engines.py [--bundle B].

A patch is counted with all of its contexts encoded. Rounds alternate between the engines, because the machine's speed
drifts; the median is printed, with the ratio to ONNX Runtime. PyTorch takes part where a checkpoint is given.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

from parts.networks import scores_of, stacked
from parts.timing import in_turn

from fctl.calib.sample import sample_patches, shipped_images
from fctl.runtime.bundle.store import Bundle, read_bundle
from fctl.runtime.engines.choose import choose_engine
from fctl.runtime.errors import EngineError
from fctl.runtime.segment.batches import PatchBatch
from fctl.runtime.segment.opening import load_network

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
    batch = stacked(sample_patches(bundle.manifest, shipped_images(), arguments.batch, seed=1))
    steps: dict[str, Callable[[], object]] = {}
    for backend, precision in RUNS:
        try:
            steps[f"{backend} {precision}"] = _staged(bundle, backend, precision, batch)
        except EngineError as error:
            print(f"skipped {backend} {precision}: {error}")
    if arguments.checkpoint:
        steps["PyTorch fp32"] = _torch(arguments.checkpoint, batch)
    _report(in_turn(steps, arguments.rounds), arguments.batch)


def _staged(bundle: Bundle, backend: str, precision, batch: PatchBatch) -> Callable[[], object]:
    network = load_network(bundle, choose_engine(backend, precision), len(batch.patch))
    return lambda: network.on_host(scores_of(network, batch))


def _torch(checkpoint: Path, batch: PatchBatch) -> Callable[[], object]:
    import torch

    from fctl.model.weights.checkpoints import load_network, read_checkpoint

    read = read_checkpoint(checkpoint)
    assert read.card, "a checkpoint of fctl is needed"
    network = load_network(read.card.network, read.state, str(checkpoint)).to(memory_format=torch.channels_last)
    tensors = {name: torch.from_numpy(window) for name, window in batch.contexts.items()}

    def step() -> object:
        with torch.inference_mode():
            return network(torch.from_numpy(batch.patch), tensors)

    return step


def _report(seconds: dict[str, list[float]], batch: int) -> None:
    base = statistics.median(next(iter(seconds.values())))
    print("| engine | patches/s (median) | lowest - highest | ratio to the first |\n|---|---|---|---|")
    for name, times in seconds.items():
        speeds = sorted(batch / t for t in times)
        middle = statistics.median(times)
        print(f"| {name} | {batch / middle:.1f} | {speeds[0]:.1f} - {speeds[-1]:.1f} | {base / middle:.2f} |")


if __name__ == "__main__":
    main()
