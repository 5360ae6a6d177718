"""Training FCtL on labelled scenes (§4.2).

Patches and contexts are cut by the runtime's own code from whole scenes, so training sees exactly what serving does.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fctl.runtime.evaluate.metrics import IGNORE, Confusion
from fctl.runtime.tiling.contexts import ContextWindow, cut_context
from fctl.runtime.tiling.resampling import resample
from fctl.runtime.tiling.sources import ArraySource, read_padded
from fctl.runtime.tiling.windows import Window

from ..backbones import backbone_class, stage_of
from ..geometry import cells_of_patch
from ..network import FCtL
from .losses import focal_loss


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A labelled image: pixels (H, W, bands) uint8, labels (H, W) uint8 with 255 where unlabelled."""

    name: str
    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train.

    steps, batch: optimizer steps and patches in each. rate, encoder_rate, position_rate: initial learning rates of the
    new layers, of the pretrained backbones and of the position terms (W_r and z of Eq. 2: few numbers, which need to
    go far), decayed by (1 - step / steps)^0.9. gamma: of the focal loss. balance: share of
    patches drawn by class. scale: the patch's window is from 1/scale to scale times its side, contexts likewise.
    colour: strength of brightness, contrast and saturation jitter. frozen: backbone stage up to which weights are
    kept; batch statistics of backbones are kept too, unless `statistics`. average: decay of the running average of the
    weights, which is what is kept. seed: of everything. power: of the decay of the rates. accumulate: batches in each
    step. class_weights: of the pixels of each class in the loss. turns: whether scenes are turned and flipped. fixed:
    parts of the network, by the start of their parameters' names, that are not trained. context_dropout: share of
    contexts that are shown black, each drawn by itself.
    """

    steps: int
    batch: int
    rate: float
    encoder_rate: float
    position_rate: float
    weight_decay: float
    gamma: float
    balance: float
    scale: float
    colour: float
    frozen: str | None
    average: float
    seed: int
    optimiser: Literal["adam", "adamw"] = "adamw"
    power: float = 0.9
    accumulate: int = 1
    class_weights: tuple[float, ...] | None = None
    turns: bool = True
    statistics: bool = False
    fixed: tuple[str, ...] = ()
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    context_dropout: float = 0.0


@dataclass(frozen=True)
class TrainingBatch:
    """patch (N, bands, P, P) and contexts (N, bands, S, S) by name, uint8; positions (N, 2, h) float32 by name, of the
    contexts that are placed (`NetworkConfig.placed`); labels (N, P, P) int64."""

    patch: Tensor
    contexts: dict[str, Tensor]
    positions: dict[str, Tensor]
    labels: Tensor


@dataclass(frozen=True)
class _Drawn:
    """One patch (P, P, bands) of a batch: contexts (S, S, bands) and positions (2, h) by name, labels (P, P)."""

    patch: NDArray[np.uint8]
    contexts: dict[str, NDArray[np.uint8]]
    positions: dict[str, Tensor]
    labels: NDArray[np.uint8]


class Sampler:
    """Random patches: some around a pixel of a class drawn evenly, so that rare ones are seen, the others anywhere."""

    def __init__(self, scenes: Sequence[Scene], network: FCtL, windows: dict[str, ContextWindow], recipe: Recipe):
        self.windows, self.recipe, self.config = windows, recipe, network.config
        turns = 8 if recipe.turns else 1
        self.views = [view for scene in scenes for view in itertools.islice(_dihedral(scene), turns)]
        labelled = np.array([(scene.labels != IGNORE).sum() for scene in scenes], dtype=np.float64).repeat(turns)
        self.chances = labelled / labelled.sum()

    def batch(self, seed: int) -> TrainingBatch:
        """The batch of that seed."""
        random, dropped = (np.random.default_rng((self.recipe.seed, seed, *more)) for more in ((), (1,)))
        items = [self._patch(random) for _ in range(self.recipe.batch)]
        for item in items:  # drawn apart: patches are the same whatever contexts there are
            for name, context in item.contexts.items():
                if dropped.random() < self.recipe.context_dropout:
                    item.contexts[name] = np.zeros_like(context)
        return TrainingBatch(
            patch=_stack([item.patch for item in items]),
            contexts={name: _stack([item.contexts[name] for item in items]) for name in self.windows},
            positions={name: torch.stack([item.positions[name] for item in items]) for name in self.config.placed},
            labels=torch.from_numpy(np.stack([item.labels for item in items]).astype(np.int64)),
        )

    def _patch(self, random: np.random.Generator) -> _Drawn:
        index = random.choice(len(self.views), p=self.chances)
        source, labels = self.views[index]
        side = round(self.config.patch * self.recipe.scale ** random.uniform(-1, 1) / 2) * 2
        y, x = self._corner(random, labels, side)
        tile = Window(y, x, side, side)
        return _Drawn(
            patch=resample(read_padded(source, tile), self.config.patch, "box"),
            contexts={name: cut_context(source, tile, window) for name, window in self.windows.items()},
            positions={name: self._places(tile, source, self.windows[name]) for name in self.config.placed},
            labels=_cut_labels(labels, tile, self.config.patch),
        )

    def _places(self, tile: Window, source: ArraySource, context: ContextWindow) -> Tensor:
        """Where the cells of a patch, which may be a larger or smaller tile, lie in a global context: (2, h)."""
        stage, patch = stage_of(self.config.backbone, self.config.stage), self.config.patch
        cells = backbone_class(self.config.backbone).grid(patch, stage)
        window, scale = context.around(tile, source), patch / tile.height
        axes = ((tile.y - window.y, window.height), (tile.x - window.x, window.width))
        return torch.stack([
            cells_of_patch(cells, stage, start=scale * start, window=scale * side, size=context.size)
            for start, side in axes
        ])  # fmt: skip

    def _corner(self, random: np.random.Generator, labels: NDArray[np.uint8], side: int) -> tuple[int, int]:
        height, width = labels.shape
        wanted = int(random.integers(self.config.classes))
        if random.random() < self.recipe.balance and len(candidates := _positions(labels, wanted)):
            y, x = candidates[random.integers(len(candidates))] - random.integers(0, side, 2)
        else:
            y, x = random.integers(0, [max(height - side, 0) + 1, max(width - side, 0) + 1])
        return int(np.clip(y, 0, max(height - side, 0))), int(np.clip(x, 0, max(width - side, 0)))


class Training:
    """One course of a recipe: a network, the running average of its weights and its optimizer, step by step.

    All of it but torch's random numbers can be kept with `state`, and goes on from there after `load`.
    """

    def __init__(self, network: FCtL, recipe: Recipe) -> None:
        freeze(network, recipe)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        decay = torch.optim.swa_utils.get_ema_multi_avg_fn(recipe.average)  # type: ignore[no-untyped-call]
        self.network, self.recipe, self.done = network, recipe, 0
        self.optimizer = _optimizer(network, recipe)
        self.average = torch.optim.swa_utils.AveragedModel(network, multi_avg_fn=decay, use_buffers=True)
        self.scaler = torch.amp.GradScaler(enabled=recipe.precision == "fp16")

    @property
    def averaged(self) -> FCtL:
        """The network with its averaged weights."""
        return cast(FCtL, self.average.module)

    @property
    def rate(self) -> float:
        """The learning rate of the new layers in the last step."""
        return float(self.optimizer.param_groups[-1]["lr"])

    def steps(self, sampler: Sampler, workers: int = 1) -> Iterator[float]:
        """Train up to the recipe's last step; yields the loss of every step. workers: threads that cut patches."""
        steps, many = self.recipe.steps, self.recipe.accumulate
        batches = _prefetched(sampler, range(self.done * many, steps * many), workers)
        for step in range(self.done, steps):
            for group in self.optimizer.param_groups:
                group["lr"] = group["initial_lr"] * (1 - step / steps) ** self.recipe.power
            loss = self._step(itertools.islice(batches, many))
            self.average.update_parameters(self.network)
            self.done = step + 1
            yield loss

    def _step(self, batches: Iterable[TrainingBatch]) -> float:
        """One step of the optimizer; the mean loss of its batches."""
        _train_mode(self.network, self.recipe.statistics)
        self.optimizer.zero_grad()
        total = 0.0
        for batch in batches:
            loss = self._loss(batch) / self.recipe.accumulate
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return total

    def _loss(self, batch: TrainingBatch) -> Tensor:
        device = next(self.network.parameters()).device
        lower = torch.float16 if self.recipe.precision == "fp16" else torch.bfloat16
        with torch.autocast(device.type, lower, enabled=self.recipe.precision != "fp32"):
            logits = _predict(self.network, batch, self.recipe)
        return _weighted_loss(logits.float(), batch.labels.to(device), self.recipe)

    def state(self) -> dict[str, Any]:
        """All that later steps depend on, as tensors and plain values."""
        return {
            "done": self.done,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a `state` of the same network and recipe."""
        self.done = state["done"]
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])


def recalibrate(
    network: FCtL, scenes: Sequence[Scene], windows: dict[str, ContextWindow], recipe: Recipe, batches: int = 100
) -> None:
    """Measure the decoder's batch statistics anew, in place, on patches as serving sees them: no jitter, no balance.

    Averaged weights have statistics of their own, and those of balanced patches are not those of a raster.
    """
    plain = _as_served(recipe)
    sampler = Sampler(scenes, network, windows, plain)
    norms = [m for m in network.decoder.modules() if isinstance(m, nn.BatchNorm2d) and m.weight.requires_grad]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over all batches
    _train_mode(network)
    with torch.no_grad():
        for index in range(batches):
            _predict(network, sampler.batch(recipe.steps + index), plain)


def _as_served(recipe: Recipe) -> Recipe:
    """The recipe without jitter and balance: patches as serving sees them."""
    return replace(recipe, balance=0.0, scale=1.0, colour=0.0, context_dropout=0.0)


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
            scores = _predict(network.eval(), batch, plain)[:, :, ::2, ::2].permute(0, 2, 3, 1).cpu()
            logits.append(scores[known].half())
            labels.append(batch.labels[:, ::2, ::2][known])
        offsets = _best_offsets(torch.cat(logits).float().numpy(), torch.cat(labels).numpy())
        bias = cast(Tensor, cast(nn.Conv2d, network.decoder.score).bias)
        bias += torch.from_numpy(offsets).to(bias.device)


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


def _weighted_loss(logits: Tensor, labels: Tensor, recipe: Recipe) -> Tensor:
    """Focal loss, mean over the labelled pixels, each of which weighs what its class does."""
    if recipe.class_weights is None:
        return focal_loss(logits, labels, gamma=recipe.gamma, ignore=IGNORE)
    pixels, total, weights = logits.movedim(1, -1), logits.sum() * 0, 0.0
    for index, weight in enumerate(recipe.class_weights):
        here = labels == index
        share = weight * float(here.sum())
        weights += share
        if share:
            total = total + share * focal_loss(pixels[here], labels[here], gamma=recipe.gamma, ignore=IGNORE)
    return total / weights if weights else total


def _predict(network: FCtL, batch: TrainingBatch, recipe: Recipe) -> Tensor:
    device = next(network.parameters()).device
    images = [image.to(device) for image in (batch.patch, *batch.contexts.values())]
    patch, *windows = _jitter(images, recipe.colour)
    positions = {name: place.to(device) for name, place in batch.positions.items()}
    logits: Tensor = network(patch, dict(zip(batch.contexts, windows, strict=True)), positions)
    return logits


def _train_mode(network: FCtL, statistics: bool = False) -> None:
    """Training mode, except that backbones keep ImageNet's batch statistics, unless `statistics`: batches here are
    small. What is not trained keeps its own."""
    network.train()
    for encoder in network.encoders():
        encoder.train(statistics)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and not module.weight.requires_grad:
            module.eval()


def freeze(network: FCtL, recipe: Recipe) -> None:
    """Take out of training what the recipe says."""
    if recipe.frozen:
        for encoder in network.encoders():
            encoder.backbone.freeze(recipe.frozen)
    for name, parameter in network.named_parameters():
        if any(f"{name}.".startswith(f"{part}.") for part in recipe.fixed):
            parameter.requires_grad_(False)


def _optimizer(network: FCtL, recipe: Recipe) -> torch.optim.Optimizer:
    trained = [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]
    position = [parameter for name, parameter in trained if ".position." in name]
    pretrained = [parameter for name, parameter in trained if "backbone" in name]
    new = [parameter for name, parameter in trained if "backbone" not in name and ".position." not in name]
    kind = torch.optim.AdamW if recipe.optimiser == "adamw" else torch.optim.Adam
    groups = [
        {"params": position, "initial_lr": recipe.position_rate, "weight_decay": 0.0},  # 0 is no better for z and W_r
        {"params": pretrained, "initial_lr": recipe.encoder_rate},
        {"params": new, "initial_lr": recipe.rate},
    ]
    return kind(groups, weight_decay=recipe.weight_decay)


def _jitter(images: list[Tensor], strength: float) -> list[Tensor]:
    """Brightness, contrast and saturation, drawn per item and applied alike to the patch and its contexts."""
    shape = (len(images[0]), 1, 1, 1)
    factors = [1 + strength * (2 * torch.rand(shape) - 1) for _ in range(3)]  # on the CPU: alike on every device
    brightness, contrast, saturation = (factor.to(images[0].device) for factor in factors)
    jittered = []
    for image in images:
        pixels = image.float()
        black = (image == 0).all(dim=1, keepdim=True)  # padding stays black
        grey = pixels.mean(dim=1, keepdim=True)
        pixels = (grey + (pixels - grey) * saturation - 127) * contrast + 127 * brightness
        pixels = pixels.clamp(0, 255).masked_fill(black, 0)
        jittered.append(pixels.contiguous(memory_format=torch.channels_last))
    return jittered


def _prefetched(sampler: Sampler, seeds: Sequence[int], workers: int = 1) -> Iterator[TrainingBatch]:
    """The batches of these seeds in order, cut by threads, each two ahead."""
    waiting = iter(seeds)
    with ThreadPoolExecutor(workers) as pool:
        pending = [pool.submit(sampler.batch, seed) for seed in itertools.islice(waiting, 2 * workers)]
        while pending:
            batch = pending.pop(0).result()
            pending += [pool.submit(sampler.batch, seed) for seed in itertools.islice(waiting, 1)]
            yield batch


def _dihedral(scene: Scene) -> Iterator[tuple[ArraySource, NDArray[np.uint8]]]:
    """The eight turns and flips of a scene, as views: patches and contexts turn together."""
    for pixels, labels in ((scene.pixels, scene.labels), (scene.pixels[:, ::-1], scene.labels[:, ::-1])):
        for turns in range(4):
            yield ArraySource(np.rot90(pixels, turns)), np.rot90(labels, turns)


def _positions(labels: NDArray[np.uint8], index: int) -> NDArray[np.int64]:
    """Pixels (n, 2) of a class, of every 64th: enough to aim at."""
    return np.argwhere(labels[::8, ::8] == index) * 8


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
