"""The optimisation of a network on batches of patches (§4.2)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from fctl.runtime.evaluate.metrics import IGNORE

from ..cascadepsp import CascadePsp, Stride
from ..interface import ContextNetwork, SharingNetwork
from .gathering import GatheredPatches
from .lattices import LatticePlace
from .losses import weighted_focal_loss
from .recipe import Recipe
from .refining import levels, refinement_loss
from .sampling import Sampler, TrainingBatch

_CLIP = 5.0  # largest norm of the gradients


class Training:
    """A network that is trained by a recipe, with its optimiser and the running average of its weights.

    All of it but PyTorch's random numbers can be saved with `state`; after `load`, training goes on from there.

    Args:
        network: The network. What the recipe freezes is frozen at once.
        recipe: How it is trained.

    Attributes:
        network: The network.
        recipe: The recipe.
        done: Number of steps that were made.
        optimizer: The optimiser.
    """

    def __init__(self, network: ContextNetwork, recipe: Recipe) -> None:
        freeze(network, recipe)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        decay = torch.optim.swa_utils.get_ema_multi_avg_fn(recipe.average)  # type: ignore[no-untyped-call]
        self.network, self.recipe, self.done = network, recipe, 0
        self.optimizer = _optimizer(network, recipe)
        self._average = torch.optim.swa_utils.AveragedModel(network, multi_avg_fn=decay, use_buffers=True)
        self._scaler = torch.amp.GradScaler(enabled=recipe.precision == "fp16")

    @property
    def averaged(self) -> ContextNetwork:
        """The network with its averaged weights."""
        return cast(ContextNetwork, self._average.module)

    @property
    def rate(self) -> float:
        """The learning rate of new layers in the last step."""
        return float(self.optimizer.param_groups[-1]["lr"])

    def steps(self, sampler: Sampler, workers: int = 1) -> Iterator[float]:
        """Train up to the recipe's last step.

        Args:
            sampler: Where batches come from.
            workers: Threads that cut patches.

        Yields:
            The loss of every step.
        """
        steps, many = self.recipe.steps, self.recipe.accumulate
        batches = sampler.batches(range(self.done * many, steps * many), workers)
        for step in range(self.done, steps):
            for group in self.optimizer.param_groups:
                group["lr"] = group["initial_lr"] * (1 - step / steps) ** self.recipe.power
            loss = self.step(itertools.islice(batches, many))
            self._average.update_parameters(self.network)
            self.done = step + 1
            yield loss

    def step(self, batches: Iterable[TrainingBatch]) -> float:
        """Make one step of the optimiser, at its present rates.

        Args:
            batches: The batches whose gradients are accumulated, as many as the recipe says.

        Returns:
            The mean loss of the batches.
        """
        train_mode(self.network, self.recipe.statistics)
        self.optimizer.zero_grad()
        total = 0.0
        for batch in batches:
            loss = self._loss(batch) / self.recipe.accumulate
            self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        self._scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), _CLIP)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        return total

    def _loss(self, batch: TrainingBatch) -> Tensor:
        """The loss of one batch, in fp32."""
        device = next(self.network.parameters()).device
        lower = torch.float16 if self.recipe.precision == "fp16" else torch.bfloat16
        with torch.autocast(device.type, lower, enabled=self.recipe.precision != "fp32"):
            if isinstance(self.network, CascadePsp):
                return refinement_loss(_levels(self.network, batch, self.recipe.colour), batch.labels.to(device))
            scores = self.network.scored(*_encoded_batch(self.network, batch, self.recipe.colour))
        labels, weights = batch.labels.to(device), self.recipe.class_weights
        losses = [
            weighted_focal_loss(logits.float(), labels, weights, gamma=self.recipe.gamma, ignore=IGNORE)
            for logits in (scores.logits, *scores.auxiliary)
        ]
        total = losses[0] if len(losses) == 1 else torch.stack(losses).sum()
        return total if scores.penalty is None else total + scores.penalty.float()

    def state(self) -> dict[str, Any]:
        """All that later steps depend on, as tensors and plain values."""
        return {
            "done": self.done,
            "network": self.network.state_dict(),
            "average": self._average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state.

        Args:
            state: What `state` returned for the same network and recipe.
        """
        self.done = state["done"]
        self.network.load_state_dict(state["network"])
        self._average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])


def freeze(network: ContextNetwork, recipe: Recipe) -> None:
    """Freeze the parameters that a recipe does not train, or that the network keeps.

    Args:
        network: The network; it is changed.
        recipe: The recipe.
    """
    if recipe.stem:
        for encoder in network.encoders():
            encoder.backbone.freeze(recipe.stem)
    for name, parameter in network.named_parameters():
        if any(f"{name}.".startswith(f"{part}.") for part in (*recipe.frozen, *network.fixed)):
            parameter.requires_grad_(False)


def train_mode(network: ContextNetwork, statistics: bool = False) -> None:
    """Put a network into training mode, in which frozen layers keep their batch statistics.

    Args:
        network: The network; it is changed.
        statistics: Whether backbones measure batch statistics. Otherwise they keep those of ImageNet, since batches
            are small here.
    """
    network.train()
    for encoder in network.encoders():
        encoder.train(statistics)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and not module.weight.requires_grad:
            module.eval()


def predict(network: ContextNetwork, batch: TrainingBatch, colour: float) -> Tensor:
    """Segment a batch.

    Args:
        network: The network; its device is where the batch goes.
        batch: The batch.
        colour: Strength of the colour jitter.

    Returns:
        Logits (N, classes, P, P); of a network that refines masks those of one class each, (N, 1, P, P).
    """
    if isinstance(network, CascadePsp):
        return _levels(network, batch, colour)[1]
    logits: Tensor = network.segment(*_encoded_batch(network, batch, colour))
    return logits


def _encoded_batch(
    network: ContextNetwork, batch: TrainingBatch, colour: float
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Patches, features of contexts and positions, as a network segments them."""
    device = next(network.parameters()).device
    windows = {name: _windows_of(batch, name) for name in batch.contexts}
    images = [image.to(device) for image in (batch.patch, *itertools.chain(*windows.values()))]
    patch, *rest = jitter(images, colour)
    left, features = iter(rest), dict[str, Tensor]()
    for name, many in windows.items():
        found = list(itertools.islice(left, len(many)))
        if isinstance(network, SharingNetwork):
            features |= _maps(network, name, found, batch.scenes.get(name), features)
        else:
            features[name] = _encoded(network, name, found, batch.places.get(name))
    return patch, features, {name: place.to(device) for name, place in batch.positions.items()}


def _levels(network: CascadePsp, batch: TrainingBatch, colour: float) -> dict[Stride, Tensor]:
    """Logits (N, 1, P, P) by stride of a batch of coarse masks."""
    assert batch.coarse is not None
    device = next(network.parameters()).device
    (patch,) = jitter([batch.patch.to(device)], colour)
    return levels(network, patch, batch.coarse.to(device))


def _windows_of(batch: TrainingBatch, name: str) -> list[Tensor]:
    """The windows (N, bands, S, S) of a context: one for each patch, or several of its lattice.

    The patches in a window follow, where it is encoded with what they know.
    """
    found = batch.contexts[name]
    patches = batch.scenes[name].patches.unbind(dim=1) if name in batch.scenes else ()
    return [*(found.unbind(dim=1) if name in batch.places else [found]), *patches]


def _maps(
    network: SharingNetwork,
    name: str,
    images: list[Tensor],
    scene: GatheredPatches | None,
    features: dict[str, Tensor],
) -> dict[str, Tensor]:
    """Features of a context by its name, or by its name and those of its maps.

    Args:
        network: The network.
        name: The context.
        images: Its windows (N, bands, S, S), and the patches in them, of `_windows_of`.
        scene: Where these patches lie, if the context is encoded with what they know.
        features: Features of the contexts before.

    Returns:
        Features (N, C, H, W).
    """
    window, *patches = images
    gathered = scene.gathered(network, patches, features) if scene else {}
    found = network.encode_maps(name, window, gathered)
    return dict(zip(network.feature_names(name), found, strict=True))


def _encoded(network: ContextNetwork, name: str, windows: list[Tensor], place: LatticePlace | None) -> Tensor:
    """Features (N, C, H, W) of a context from its windows (N, bands, S, S)."""
    if place is None:
        return network.encode(name, windows[0])
    return place.features(network.encode_once(name, torch.cat(windows)).chunk(len(windows)))


def jitter(images: list[Tensor], strength: float) -> list[Tensor]:
    """Change brightness, contrast and saturation, alike in a patch and its contexts.

    Args:
        images: Patches and contexts (N, bands, H, W) uint8. What is drawn differs from item to item of the batch.
        strength: Strength from 0 to 1.

    Returns:
        The images as float32 in channels-last layout. Black pixels, such as padding, stay black.
    """
    shape = (len(images[0]), 1, 1, 1)
    factors = [1 + strength * (2 * torch.rand(shape) - 1) for _ in range(3)]  # on the CPU: alike on every device
    brightness, contrast, saturation = (factor.to(images[0].device) for factor in factors)
    jittered = []
    for image in images:
        pixels = image.float()
        black = (image == 0).all(dim=1, keepdim=True)
        grey = pixels.mean(dim=1, keepdim=True)
        pixels = (grey + (pixels - grey) * saturation - 127) * contrast + 127 * brightness
        pixels = pixels.clamp(0, 255).masked_fill(black, 0)
        jittered.append(pixels.contiguous(memory_format=torch.channels_last))
    return jittered


def _optimizer(network: ContextNetwork, recipe: Recipe) -> torch.optim.Optimizer:
    """The optimiser of what is trained, with the initial rates of its three kinds of parameters."""
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
