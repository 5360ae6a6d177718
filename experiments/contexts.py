"""What contexts do in trained networks: python -m experiments.contexts DATA CHECKPOINT...

Part 7 of every Dubai scene is cut into patches that do not overlap, with their contexts from the scene. For each
network: mIoU by distance from the border of the patch, where contexts should matter most and overlapping tiles hide it;
and how large X_LCF and X_ALE are beside X_I, the position gates s(z) of Eq. 2, and the weights of the fusion.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads must not spin

import itertools

import numpy as np
import torch
from torch import Tensor, nn

from fctl.model.lcf import AdaptiveFusion, ContextAttention
from fctl.model.network import FCtL
from fctl.model.serving.manifest import draft_manifest
from fctl.model.serving.module_network import ModuleNetwork
from fctl.model.weights.checkpoints import load_network, read_checkpoint
from fctl.runtime.bundle.manifest import Manifest
from fctl.runtime.evaluate.metrics import IGNORE, Confusion
from fctl.runtime.segment.batches import PatchBatch, cut_batch
from fctl.runtime.segment.network import Network
from fctl.runtime.tiling.sources import ArraySource
from fctl.runtime.tiling.windows import Window

from .scenes import SCENES, Image8, at, read_scene

RINGS = (0, 8, 16, 32, 64, 128)  # pixels from the border


def main() -> None:
    """Print a Markdown table and a list."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    arguments = parser.parse_args()
    rings = [f"{near} - {far}" for near, far in itertools.pairwise(RINGS)]
    print(f"| mIoU by pixels from the border | {' | '.join(rings)} | all |\n|{'---|' * (2 + len(rings))}")
    lines = []
    for path in arguments.checkpoints:
        read = read_checkpoint(path)
        assert read.card is not None
        network = load_network(read.card.network, read.state, str(path))
        if not isinstance(network, FCtL):
            raise SystemExit(f"{path}: expected a network with LCF or ALE, found one of kind {network.config.kind}")
        terms = Terms(network)
        manifest = draft_manifest(path.parent.name, read.card, dict.fromkeys(network.config.context_names))
        scores = by_distance(ModuleNetwork(manifest, network, 1), arguments.data)
        print(f"| {path.parent.name} | {' | '.join(f'{100 * value:.1f}' for value in scores)} |", flush=True)
        lines += [f"- {path.parent.name}: {line}" for line in terms.lines()]
    print("\n".join(lines))


def by_distance(network: Network, data: Path) -> list[float]:
    """Score a network by distance from the border of the patch.

    Args:
        network: The network, for one patch at a time.
        data: The folder of the data set.

    Returns:
        mIoU of each ring, and of all pixels.
    """
    side, classes = network.manifest.tile, len(network.manifest.classes)
    index = np.minimum(np.arange(side), np.arange(side)[::-1])
    distance = np.minimum(index[:, None], index[None, :])
    found = [Confusion.empty(classes) for _ in RINGS]
    for batch, labels in patches(network.manifest, data):
        ids = network.on_host(network.run(batch))[0].argmax(0).astype(np.uint8)
        for ring, (near, far) in enumerate(itertools.pairwise(RINGS)):
            inside = (distance >= near) & (distance < far)
            found[ring] += Confusion.of(np.where(inside, labels, IGNORE).astype(np.uint8), ids, classes)
        found[-1] += Confusion.of(labels, ids, classes)
    return [confusion.miou() for confusion in found]


def patches(manifest: Manifest, data: Path) -> Iterator[tuple[PatchBatch, Image8]]:
    """Cut part 7 of all scenes into patches side by side.

    Args:
        manifest: How patches and contexts are cut.
        data: The folder of the data set.

    Yields:
        A batch of one patch, and its labels (P, P).
    """
    side = manifest.tile
    for number in SCENES:
        scene = read_scene(data, number)
        for y in range(scene.held.y, scene.held.bottom - side + 1, side):
            for x in range(scene.held.x, scene.held.right - side + 1, side):
                tile = Window(y, x, side, side)
                yield cut_batch(manifest, ArraySource(scene.pixels), (tile,), 1), scene.labels[at(tile)]


class Terms:
    """Watches a network run: the norms of X_I, X_LCF and X_ALE (§3.5), and the weights of its fusion (§3.2).

    Args:
        network: The network, which is hooked for good.
    """

    def __init__(self, network: FCtL) -> None:
        self._network, self._sums, self._runs = network, dict[str, Tensor](), 0
        if network.lcf is not None:
            network.lcf.register_forward_hook(self._watch("X_LCF"))
            network.lcf.register_forward_pre_hook(lambda _, inputs: self._add("X_I", inputs[0]))
            if isinstance(network.lcf.fusion, AdaptiveFusion):
                network.lcf.fusion.split.register_forward_hook(self._weights)
        if network.ale is not None:
            network.ale.register_forward_hook(self._watch("X_ALE"))

    def lines(self) -> list[str]:
        """What was seen, one line for each kind of figure."""
        lines = []
        if "X_I" in self._sums:
            base = self._sums["X_I"]
            sizes = [f"{name} {float(total / base):.2f}" for name, total in self._sums.items() if name[:2] == "X_"]
            lines.append(f"norms over that of X_I: {', '.join(sizes)}")
        if self._network.lcf is not None:
            layers = {name: cast(ContextAttention, layer) for name, layer in self._network.lcf.attention.items()}
            gates = {n: float(layer.position.share().detach()) for n, layer in layers.items() if layer.position}
            lines.append(f"s(z): {', '.join(f'{name} {gate:.2f}' for name, gate in gates.items())}")
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
        """Add the mean weight of every member of the fusion."""
        count = len(self._network.lcf.attention) if self._network.lcf is not None else 1
        means = torch.softmax(output.reshape(len(output), count, -1), dim=1).mean(dim=(0, 2))
        self._sums["weights"] = self._sums.get("weights", torch.zeros(count)) + means


if __name__ == "__main__":
    main()
