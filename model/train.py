"""Training FCtL on labelled scenes (§4.2).

Patches and contexts are cut by the runtime's own code from whole scenes, so training sees exactly what serving does.
"""

from __future__ import annotations

import copy
import csv
import itertools
import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fctl.runtime.contexts import ArraySource, ContextWindow, cut_context, read_padded, resample
from fctl.runtime.metrics import IGNORE, Confusion
from fctl.runtime.windows import Window

from .config import GLOBAL, ConfigError
from .losses import focal_loss
from .network import FCtL

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A labelled image: pixels (H, W, bands) uint8, labels (H, W) uint8 with 255 where unlabelled."""

    name: str
    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train.

    steps, batch: optimizer steps and patches in each. rate, encoder_rate: initial learning rates of the new layers
    and of the pretrained backbones, decayed by (1 - step / steps)^0.9. gamma: of the focal loss. balance: share of
    patches drawn by class. scale: the patch's window is from 1/scale to scale times its side, contexts likewise.
    colour: strength of brightness, contrast and saturation jitter. frozen: backbone stage up to which weights are
    kept; batch statistics of backbones are kept anyway. average: decay of the running average of the weights, which is
    what is kept. seed: of everything.
    """

    steps: int
    batch: int
    rate: float
    encoder_rate: float
    weight_decay: float
    gamma: float
    balance: float
    scale: float
    colour: float
    frozen: str | None
    average: float
    seed: int


@dataclass(frozen=True)
class Batch:
    """patch (N, bands, P, P) and contexts (N, bands, S, S) by name, uint8; labels (N, P, P) int64."""

    patch: Tensor
    contexts: dict[str, Tensor]
    labels: Tensor


class Sampler:
    """Random patches: some around a pixel of a class drawn evenly, so that rare ones are seen, the others anywhere."""

    def __init__(self, scenes: Sequence[Scene], network: FCtL, windows: dict[str, ContextWindow], recipe: Recipe):
        self.windows, self.recipe = windows, recipe
        self.side, self.classes = network.config.patch, network.config.classes
        if any(context.factor == GLOBAL for context in network.config.contexts):
            raise ConfigError("training with a global context is not supported yet: use contexts with factors")
        self.views = [view for scene in scenes for view in _dihedral(scene)]
        labelled = np.array([(labels != IGNORE).sum() for _, labels in self.views], dtype=np.float64)
        self.chances = labelled / labelled.sum()
        # A thinned list of pixel positions per view and class is enough to aim at.
        self.positions = [
            [np.argwhere(labels[::8, ::8] == index) * 8 for index in range(self.classes)] for _, labels in self.views
        ]

    def batch(self, seed: int) -> Batch:
        """The batch of that seed."""
        random = np.random.default_rng((self.recipe.seed, seed))
        items = [self._patch(random) for _ in range(self.recipe.batch)]
        return Batch(
            patch=_stack([patch for patch, _, _ in items]),
            contexts={name: _stack([contexts[name] for _, contexts, _ in items]) for name in self.windows},
            labels=torch.from_numpy(np.stack([labels for _, _, labels in items]).astype(np.int64)),
        )

    def _patch(
        self, random: np.random.Generator
    ) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.uint8]], NDArray[np.uint8]]:
        index = random.choice(len(self.views), p=self.chances)
        source, labels = self.views[index]
        side = round(self.side * self.recipe.scale ** random.uniform(-1, 1) / 2) * 2
        y, x = self._corner(random, index, labels, side)
        tile = Window(y, x, side, side)
        pixels = resample(read_padded(source, tile), self.side, "box")
        contexts = {name: cut_context(source, tile, window) for name, window in self.windows.items()}
        return pixels, contexts, _cut_labels(labels, tile, self.side)

    def _corner(self, random: np.random.Generator, index: int, labels: NDArray[np.uint8], side: int) -> tuple[int, int]:
        height, width = labels.shape
        candidates = self.positions[index][random.integers(self.classes)]
        if random.random() < self.recipe.balance and len(candidates):
            y, x = candidates[random.integers(len(candidates))] - random.integers(0, side, 2)
        else:
            y, x = random.integers(0, [max(height - side, 0) + 1, max(width - side, 0) + 1])
        return int(np.clip(y, 0, max(height - side, 0))), int(np.clip(x, 0, max(width - side, 0)))


def train(
    network: FCtL, scenes: Sequence[Scene], windows: dict[str, ContextWindow], recipe: Recipe, folder: Path
) -> FCtL:
    """Train in place and return the network with its averaged weights; `folder` gets log.csv and average.pt."""
    torch.manual_seed(recipe.seed)
    if recipe.frozen:
        for encoder in network.encoders():
            encoder.backbone.freeze(recipe.frozen)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = _optimizer(network, recipe)
    decay = torch.optim.swa_utils.get_ema_multi_avg_fn(recipe.average)  # type: ignore[no-untyped-call]
    average = torch.optim.swa_utils.AveragedModel(network, multi_avg_fn=decay, use_buffers=True)
    folder.mkdir(parents=True, exist_ok=True)
    sampler = Sampler(scenes, network, windows, recipe)
    with (folder / "log.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "loss", "seconds"])
        started, losses = time.monotonic(), []
        for step, batch in enumerate(_prefetched(sampler, recipe.steps)):
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * (1 - step / recipe.steps) ** 0.9
            losses.append(_step(network, batch, optimizer, recipe))
            average.update_parameters(network)
            if (step + 1) % 50 == 0:
                row = (step + 1, round(float(np.mean(losses)), 4), round(time.monotonic() - started, 1))
                writer.writerow(row)
                file.flush()
                log.info("step %d of %d, loss %.4f, %.0f s", row[0], recipe.steps, row[1], row[2])
                losses = []
            if (step + 1) % 250 == 0:
                torch.save(average.module.state_dict(), folder / "average.pt")
    trained = cast(FCtL, average.module)
    recalibrate(trained, scenes, windows, recipe)
    return trained.eval()


def recalibrate(
    network: FCtL, scenes: Sequence[Scene], windows: dict[str, ContextWindow], recipe: Recipe, batches: int = 100
) -> None:
    """Measure the decoder's batch statistics anew, in place, on patches as serving sees them: no jitter, no balance.

    Averaged weights have statistics of their own, and those of balanced patches are not those of a raster.
    """
    plain = _as_served(recipe)
    sampler = Sampler(scenes, network, windows, plain)
    norms = [module for module in network.decoder.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over all batches
    _train_mode(network)
    with torch.no_grad():
        for index in range(batches):
            _predict(network, sampler.batch(recipe.steps + index), plain)


def _as_served(recipe: Recipe) -> Recipe:
    """The recipe without jitter and balance: patches as serving sees them."""
    return replace(recipe, balance=0.0, scale=1.0, colour=0.0)


def mean_weights(one: FCtL, other: FCtL) -> FCtL:
    """A network whose weights are the mean of two; `recalibrate` it before use."""
    result, states = copy.deepcopy(one), (one.state_dict(), other.state_dict())
    result.load_state_dict(
        {key: (value + states[1][key]) / 2 if value.is_floating_point() else value for key, value in states[0].items()}
    )
    return result


def fit_class_offsets(
    network: FCtL, scenes: Sequence[Scene], windows: dict[str, ContextWindow], recipe: Recipe, batches: int = 50
) -> None:
    """Shift the score of each class, in place, so that the mIoU on plain training patches is highest.

    Training weighs pixels alike, IoU does not: the best threshold between two classes is not where they are as likely.
    """
    plain = _as_served(recipe)
    sampler = Sampler(scenes, network, windows, plain)
    logits, labels = [], []
    with torch.no_grad():
        for index in range(batches):
            batch = sampler.batch(2 * recipe.steps + index)
            known = batch.labels[:, ::2, ::2] != IGNORE  # every fourth pixel is enough
            logits.append(_predict(network.eval(), batch, plain)[:, :, ::2, ::2].permute(0, 2, 3, 1)[known].half())
            labels.append(batch.labels[:, ::2, ::2][known])
        offsets = _best_offsets(torch.cat(logits).float().numpy(), torch.cat(labels).numpy())
        cast(nn.Conv2d, network.decoder.score).bias += torch.from_numpy(offsets)  # type: ignore[operator]


def _best_offsets(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Coordinate search with steps of 0.4, 0.2 and 0.1: logits (pixels, classes), labels (pixels,) -> (classes,)."""
    classes = logits.shape[1]

    def score(offsets: NDArray[np.float32]) -> float:
        return Confusion.of(labels, (logits + offsets).argmax(1), classes).miou()

    best = np.zeros(classes, np.float32)
    highest = score(best)
    for step, _, index, sign in itertools.product((0.4, 0.2, 0.1), range(2), range(classes), (-1, 1)):
        tried = best.copy()
        tried[index] += sign * step
        reached = score(tried)
        if reached > highest + 1e-5:
            best, highest = tried, reached
    centred: NDArray[np.float32] = best - best.mean()
    return centred


def _step(network: FCtL, batch: Batch, optimizer: torch.optim.Optimizer, recipe: Recipe) -> float:
    _train_mode(network)
    loss = focal_loss(_predict(network, batch, recipe), batch.labels, gamma=recipe.gamma, ignore=IGNORE)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
    optimizer.step()
    return loss.item()


def _predict(network: FCtL, batch: Batch, recipe: Recipe) -> Tensor:
    inputs = _jitter([batch.patch, *batch.contexts.values()], recipe.colour)
    logits: Tensor = network(inputs[0], dict(zip(batch.contexts, inputs[1:], strict=True)))
    return logits


def _train_mode(network: FCtL) -> None:
    """Training mode, except that backbones keep ImageNet's batch statistics: batches here are small."""
    network.train()
    for encoder in network.encoders():
        encoder.eval()


def _optimizer(network: FCtL, recipe: Recipe) -> torch.optim.Optimizer:
    trained = [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]
    pretrained = [parameter for name, parameter in trained if "backbone" in name]
    new = [parameter for name, parameter in trained if "backbone" not in name]
    return torch.optim.AdamW(
        [{"params": pretrained, "initial_lr": recipe.encoder_rate}, {"params": new, "initial_lr": recipe.rate}],
        weight_decay=recipe.weight_decay,
    )


def _jitter(images: list[Tensor], strength: float) -> list[Tensor]:
    """Brightness, contrast and saturation, drawn per item and applied alike to the patch and its contexts."""
    shape = (len(images[0]), 1, 1, 1)
    brightness, contrast, saturation = (1 + strength * (2 * torch.rand(shape) - 1) for _ in range(3))
    jittered = []
    for image in images:
        pixels = image.float()
        black = (image == 0).all(dim=1, keepdim=True)  # padding stays black
        grey = pixels.mean(dim=1, keepdim=True)
        pixels = (grey + (pixels - grey) * saturation - 127) * contrast + 127 * brightness
        pixels = pixels.clamp(0, 255).masked_fill(black, 0)
        jittered.append(pixels.contiguous(memory_format=torch.channels_last))
    return jittered


def _prefetched(sampler: Sampler, steps: int) -> Iterator[Batch]:
    """Batches in order, cut by a thread two ahead."""
    with ThreadPoolExecutor(1) as pool:
        pending = [pool.submit(sampler.batch, step) for step in range(min(2, steps))]
        for step in itertools.count(len(pending)):
            if not pending:
                return
            if step < steps:
                pending.append(pool.submit(sampler.batch, step))
            yield pending.pop(0).result()


def _dihedral(scene: Scene) -> Iterator[tuple[ArraySource, NDArray[np.uint8]]]:
    """The eight turns and flips of a scene, as views: patches and contexts turn together."""
    for pixels, labels in ((scene.pixels, scene.labels), (scene.pixels[:, ::-1], scene.labels[:, ::-1])):
        for turns in range(4):
            yield ArraySource(np.rot90(pixels, turns)), np.rot90(labels, turns)


def _cut_labels(labels: NDArray[np.uint8], tile: Window, side: int) -> NDArray[np.uint8]:
    """Nearest labels of a window, 255 beyond the scene: (side, side)."""
    index = ((np.arange(side) + 0.5) * tile.height / side).astype(int)
    rows, columns = tile.y + index, tile.x + index
    cut = np.full((side, side), IGNORE, np.uint8)
    inside = np.ix_(rows < labels.shape[0], columns < labels.shape[1])
    cut[inside] = labels[np.ix_(rows[rows < labels.shape[0]], columns[columns < labels.shape[1]])]
    return cut


def _stack(images: list[NDArray[np.uint8]]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2)))
