"""What contexts do in trained networks: python benchmarks/contexts.py DATA CHECKPOINT...

Part 7 of every Dubai scene is cut into patches that do not overlap, with their contexts from the scene. For each
network: mIoU by distance from the border of the patch, where contexts should matter most and overlapping tiles hide it;
and how large X_LCF and X_ALE are beside X_I, the shares of the position terms, and the weights of the fusion.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads must not spin

import itertools

import numpy as np
import torch
from dubai import SCENES, at, read_scene
from torch import Tensor, nn

from fctl.model.lcf import AdaptiveFusion
from fctl.model.network import FCtL
from fctl.model.serving.manifest import draft_manifest
from fctl.model.weights.checkpoints import load_network, read_checkpoint
from fctl.runtime.bundle.manifest import Manifest
from fctl.runtime.evaluate.metrics import IGNORE, Confusion
from fctl.runtime.segment.batches import PatchBatch, cut_batch
from fctl.runtime.tiling.sources import ArraySource
from fctl.runtime.tiling.windows import Window

RINGS = (0, 8, 16, 32, 64, 128)  # pixels from the border


def main() -> None:
    """Print two Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    arguments = parser.parse_args()
    rings = [f"{near} - {far}" for near, far in itertools.pairwise(RINGS)]
    print(f"| mIoU by pixels from the border | {' | '.join(rings)} | all |\n|{'---|' * (2 + len(rings))}")
    told = []
    for path in arguments.checkpoints:
        read = read_checkpoint(path)
        assert read.card is not None
        network = load_network(read.card.network, read.state, str(path))
        terms = Terms(network)
        manifest = draft_manifest(path.parent.name, read.card, dict.fromkeys(network.config.context_names))
        scores = by_distance(network, manifest, arguments.data)
        print(f"| {path.parent.name} | {' | '.join(f'{100 * value:.1f}' for value in scores)} |", flush=True)
        told += [f"- {path.parent.name}: {line}" for line in terms.told()]
    print("\n".join(told))


@torch.inference_mode()
def by_distance(network: FCtL, manifest: Manifest, data: Path) -> list[float]:
    """mIoU of each ring, and of all pixels."""
    side, classes = manifest.tile, len(manifest.classes)
    index = np.minimum(np.arange(side), np.arange(side)[::-1])
    distance = np.minimum(index[:, None], index[None, :])
    found = [Confusion.empty(classes) for _ in RINGS]
    for batch, labels in patches(manifest, data):
        ids = _logits(network, batch)[0].argmax(0).numpy().astype(np.uint8)
        for ring, (near, far) in enumerate(itertools.pairwise(RINGS)):
            inside = (distance >= near) & (distance < far)
            found[ring] += Confusion.of(np.where(inside, labels, IGNORE), ids, classes)
        found[-1] += Confusion.of(labels, ids, classes)
    return [confusion.miou() for confusion in found]


def patches(manifest: Manifest, data: Path) -> Iterator[tuple[PatchBatch, np.ndarray]]:
    """Patches side by side, one per batch, and their labels (P, P)."""
    side = manifest.tile
    for number in SCENES:
        scene = read_scene(data, number)
        for y in range(scene.held.y, scene.held.bottom - side + 1, side):
            for x in range(scene.held.x, scene.held.right - side + 1, side):
                tile = Window(y, x, side, side)
                yield cut_batch(manifest, ArraySource(scene.pixels), (tile,), 1), scene.labels[at(tile)]


class Terms:
    """Watches a network: norms of X_I, X_LCF and X_ALE, and the weights of its fusion."""

    def __init__(self, network: FCtL) -> None:
        self._network, self._sums, self._runs = network, dict[str, Tensor](), 0
        if network.lcf is not None:
            network.lcf.register_forward_hook(self._watch("X_LCF"))
            network.lcf.register_forward_pre_hook(lambda _, inputs: self._add("X_I", inputs[0]))
            if isinstance(network.lcf.fusion, AdaptiveFusion):
                network.lcf.fusion.split.register_forward_hook(self._weights)
        if network.ale is not None:
            network.ale.register_forward_hook(self._watch("X_ALE"))

    def told(self) -> list[str]:
        """In words."""
        lines = []
        if "X_I" in self._sums:
            base = self._sums["X_I"]
            sizes = [f"{name} {float(total / base):.2f}" for name, total in self._sums.items() if name[:2] == "X_"]
            lines.append(f"norms over that of X_I: {', '.join(sizes)}")
        if self._network.lcf is not None:
            shares = {
                name: float(layer.position.share().detach())
                for name, layer in self._network.lcf.attention.items()
                if layer.position is not None
            }
            lines.append(f"s(z): {', '.join(f'{name} {share:.2f}' for name, share in shares.items())}")
        if "weights" in self._sums:
            names = list(self._network.lcf.attention) if self._network.lcf is not None else []
            means = self._sums["weights"] / self._runs
            lines.append(f"fusion: {', '.join(f'{n} {float(m):.2f}' for n, m in zip(names, means, strict=True))}")
        return lines

    def _add(self, name: str, value: Tensor) -> None:
        self._runs += name == "X_I"
        self._sums[name] = self._sums.get(name, torch.zeros(())) + value.norm()

    def _watch(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda _module, _inputs, output: self._add(name, output)

    def _weights(self, _module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        count = len(self._network.lcf.attention) if self._network.lcf is not None else 1
        shares = torch.softmax(output.reshape(len(output), count, -1), dim=1).mean(dim=(0, 2))
        self._sums["weights"] = self._sums.get("weights", torch.zeros(count)) + shares


def _logits(network: FCtL, batch: PatchBatch) -> Tensor:
    contexts = {name: torch.from_numpy(window) for name, window in batch.contexts.items()}
    positions = {name: torch.from_numpy(place) for name, place in batch.positions.items()}
    logits: Tensor = network(torch.from_numpy(batch.patch), contexts, positions)
    return logits


if __name__ == "__main__":
    main()
