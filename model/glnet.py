"""GLNet: a global branch that sees the whole image small, and a local one that sees patches (Chen et al., CVPR 2019).

Both are ResNets with feature pyramids. With sharing, the global branch hands its maps to the local one, cut to the
patch and enlarged; the local branch hands those of all patches back, shrunk and pasted together; and the last features
of both are concatenated and scored. So a scene is seen three times: by the global branch alone ("plain" here), by the
local branch with these maps, and by the global branch with what the local one found ("merged"). The two global branches
have weights of their own, as the released network has after its three trainings.

Cells of all stages of ResNet lie on each other: cell u of stride s is centred on pixel s * u. So positions of the
finest cells tell those of all others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .backbones import backbone_class
from .config import LOCAL, ConfigError, NetworkConfig
from .encoder import Encoder
from .fpn import Pyramid
from .geometry import apply_separable, crop_matrix
from .interface import SharingNetwork, TrainingScores
from .layers import resize

LEVELS = ("2", "3", "4", "5")  # strides of 2 to their power
MAPS = tuple(f"{kind}{level}" for kind in "cp" for level in LEVELS)
"""What a branch hands over: the stages of its backbone, and its smoothed maps."""

PENALTY = 0.15
"""Weight of the mean squared distance between the last features of both branches."""

Main = Literal["aggregate", "global", "local"]
"""What scores the patches (`NetworkConfig.decoder`): both branches, or one of them, as in the first two trainings."""


def plain_context(config: NetworkConfig) -> str | None:
    """The name of the context of the global branch alone; None where there is none."""
    return next((context.name for context in config.contexts if not context.gathers), None)


def merged_context(config: NetworkConfig) -> str | None:
    """The name of the context that is encoded with what patches know; None where nothing is shared so."""
    return next((context.name for context in config.contexts if context.gathers), None)


def maps_of(config: NetworkConfig, name: str) -> tuple[str, ...]:
    """The maps that a context hands over.

    Args:
        config: The network, of any kind.
        name: The name of the context.

    Returns:
        Names of the maps; empty where it hands over features alone.
    """
    handed = config.decoder == "local" or merged_context(config) is not None
    return MAPS if config.kind == "glnet" and handed and name == plain_context(config) else ()


def branch_of(config: NetworkConfig, part: Main) -> NetworkConfig:
    """The network of one of the trainings.

    Args:
        config: The whole network.
        part: What is trained: the global branch alone, the local one with its maps, or the global one with those of
            the local one, and both together.

    Returns:
        The network; the whole one for the last.
    """
    plain = tuple(context for context in config.contexts if not context.gathers)
    if part == "aggregate":
        return config
    shared = merged_context(config) is not None
    return replace(config, decoder=part, contexts=plain if part == "global" or shared else ())


class Heads(nn.Module):
    """The scores of each branch, and of both together: 3x3 convolutions.

    Args:
        channels: Channels of the features by head.
        main: The head whose scores count.
        classes: How many classes are scored.
    """

    def __init__(self, channels: Mapping[str, int], main: str, classes: int) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({name: nn.Conv2d(many, classes, 3, padding=1) for name, many in channels.items()})
        self.main = main

    @property
    def score(self) -> nn.Module:
        """The convolution whose scores count."""
        return self.heads[self.main]

    def forward(self, name: str, features: Tensor, size: int) -> Tensor:
        """Logits (N, classes, size, size) of a head, of features (N, C, h, w)."""
        return resize(self.heads[name](features), size)


class GLNet(SharingNetwork):
    """The network, or the part of it that one training is about (`branch_of`).

    Args:
        config: Everything that determines the network.

    Raises:
        ConfigError: Contexts, decoder or backbone are none of GLNet's.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        self.plain, self.merged = plain_context(config), merged_context(config)
        _check(config)
        kind, names = backbone_class(config.backbone), config.context_names
        self.shares = self.merged is not None or (config.decoder == "local" and self.plain is not None)
        last = kind.stages[-1].name
        if config.decoder != "global":
            self.encoder = Encoder(config, last)
        self.context_encoders = nn.ModuleDict({name: Encoder(config, last) for name in names})
        branches = (*((LOCAL,) if config.decoder != "global" else ()), *names)
        gathering = {LOCAL: self.shares, self.merged: True}
        self.pyramids = nn.ModuleDict({
            name: Pyramid(self._channels(), config.decoder_channels, shared=gathering.get(name, False))
            for name in branches
        })  # fmt: skip
        width = cast(Pyramid, self.pyramids[branches[0]]).channels
        channels = dict.fromkeys(branches if config.decoder != "local" else (LOCAL,), width)
        main = {"global": self.plain or "", "local": LOCAL}.get(config.decoder, config.decoder)
        self.decoder: Heads = Heads(
            channels | ({main: 2 * width} if main not in channels else {}), main, config.classes
        )
        self.fixed = self._fixed()

    def _channels(self) -> dict[str, int]:
        found = list(self.encoders()[0].backbone.channels.values())
        return dict(zip(LEVELS, found, strict=True))

    def _fixed(self) -> tuple[str, ...]:
        """What the trainings before have trained, and the one at hand leaves as it is."""
        before = []
        if self.config.decoder == "aggregate":
            before += ["encoder", f"pyramids.{LOCAL}", f"decoder.heads.{LOCAL}"]
        if self.shares:
            before += [f"context_encoders.{self.plain}", f"pyramids.{self.plain}", f"decoder.heads.{self.plain}"]
        return tuple(before)

    def encoders(self) -> tuple[Encoder, ...]:
        """The patch's encoder, if there is one, then those of the contexts."""
        own = () if self.config.decoder == "global" else (self.encoder,)
        return (*own, *(cast(Encoder, encoder) for encoder in self.context_encoders.values()))

    def maps(self, name: str) -> tuple[str, ...]:
        """The maps that a context hands over (`maps_of`)."""
        return maps_of(self.config, name)

    def encode(self, name: str, window: Tensor) -> Tensor:
        """Features (N, C, H, W) of raw windows (N, bands, S, S) of a context that hands over these alone."""
        (features,) = self.encode_maps(name, window, {})
        return features

    def encode_maps(self, name: str, window: Tensor, gathered: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Maps of raw windows (N, bands, S, S) of a context, or its last features alone, see `SharingNetwork`."""
        stages, pyramid = _stages(cast(Encoder, self.context_encoders[name]), window), self._pyramid(name)
        smoothed = pyramid.smoothed(stages, gathered)
        if names := self.maps(name):
            found = stages | smoothed
            return tuple(found[one] for one in names)
        return (pyramid.last(smoothed, gathered),)

    def maps_of_patches(
        self, patch: Tensor, contexts: Mapping[str, Tensor], positions: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Maps (N, C, h, w) of the local branch, of raw patches (N, bands, P, P), see `SharingNetwork`."""
        stages = _stages(self.encoder, patch)
        return stages | self._pyramid(LOCAL).smoothed(stages, self._cut(contexts, positions))

    def segment(
        self, patch: Tensor, contexts: Mapping[str, Tensor], positions: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Logits (N, classes, P, P) of raw patches (N, bands, P, P), see `ContextNetwork`."""
        main, positions = self.decoder.main, positions or {}
        if self.config.decoder == "global":
            return self._scores(main, self._last_of_context(contexts, positions))
        local = self._last_of_patch(patch, contexts, positions)
        if self.config.decoder == "local":
            return self._scores(main, local)
        return self._scores(main, torch.cat([local, self._last_of_context(contexts, positions)], dim=1))

    def scored(
        self, patch: Tensor, contexts: Mapping[str, Tensor], positions: Mapping[str, Tensor] | None = None
    ) -> TrainingScores:
        """Logits, those of the branch in training, and the distance of both branches, see `ContextNetwork`."""
        main, positions = self.decoder.main, positions or {}
        if self.config.decoder == "global" or self.plain is None:
            return TrainingScores(self.segment(patch, contexts, positions))
        local = self._last_of_patch(patch, contexts, positions)
        if self.config.decoder == "local":
            smoothed = {name: contexts[f"{self.plain}_{name}"] for name in MAPS}
            other = _crop(self._pyramid(self.plain).last(smoothed, {}), positions[self.plain])
            return TrainingScores(self._scores(main, local), (), PENALTY * F.mse_loss(local, other))
        other = self._last_of_context(contexts, positions)
        auxiliary = (self._scores(self.merged or self.plain, other),)
        logits = self._scores(main, torch.cat([local, other], dim=1))
        return TrainingScores(logits, auxiliary, PENALTY * F.mse_loss(local, other))

    def _pyramid(self, name: str) -> Pyramid:
        return cast(Pyramid, self.pyramids[name])

    def _scores(self, head: str, features: Tensor) -> Tensor:
        logits: Tensor = self.decoder(head, features, self.config.patch)
        return logits

    def _last_of_patch(self, patch: Tensor, contexts: Mapping[str, Tensor], positions: Mapping[str, Tensor]) -> Tensor:
        """The last features (N, C, h, w) of the local branch."""
        stages, other = _stages(self.encoder, patch), self._cut(contexts, positions)
        return self._pyramid(LOCAL).last(self._pyramid(LOCAL).smoothed(stages, other), other)

    def _last_of_context(self, contexts: Mapping[str, Tensor], positions: Mapping[str, Tensor]) -> Tensor:
        """The last features (N, C, h, w) of the global branch, cut to the patch."""
        name = self.merged or self.plain
        assert name is not None
        return _crop(contexts[name], positions[name])

    def _cut(self, contexts: Mapping[str, Tensor], positions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The maps of the global branch that are handed to patches, cut to them."""
        if not self.shares or self.plain is None:
            return {}
        found: dict[str, Tensor] = {}
        for index, level in enumerate(LEVELS):
            names = (f"c{level}", f"p{level}")
            first, second = (contexts[f"{self.plain}_{name}"] for name in names)
            rows, columns = _crops(positions[self.plain], first.shape[-1], 1 << index)
            found |= zip(names, (apply_separable(rows, one, columns) for one in (first, second)), strict=True)
        return found


def _crop(features: Tensor, positions: Tensor) -> Tensor:
    """The part of features on the finest grid that the patch covers, on the patch's own."""
    rows, columns = _crops(positions, features.shape[-1])
    return apply_separable(rows, features, columns)


def _crops(positions: Tensor, count: int, step: int = 1) -> tuple[Tensor, Tensor]:
    """The matrices that cut a map to the patch, along rows and along columns.

    Args:
        positions: Positions (N, 2, h) of the patch's finest cells in those of the context.
        count: Cells of the map along either axis.
        step: How many times as far apart they are as the finest.
    """
    rows, columns = (crop_matrix(positions[:, axis, ::step] / step, count) for axis in (0, 1))
    return rows, columns


def _stages(encoder: Encoder, raw: Tensor) -> dict[str, Tensor]:
    """Features of all stages, "c" and the level each, of raw pixels (N, bands, H, W)."""
    return {f"c{level}": features for level, features in zip(LEVELS, encoder(raw).values(), strict=True)}


def _check(config: NetworkConfig) -> None:
    """Check that a network is GLNet, or a part of it."""
    kind = backbone_class(config.backbone)
    for size in (config.patch, *(context.size for context in config.contexts)):
        kind.check_size(size)
    first = kind.stages[0]
    if [(stage.stride, stage.offset) for stage in kind.stages] != [(1 << int(level), 0) for level in LEVELS]:
        raise ConfigError(f"glnet needs a backbone with cells of 1/4 to 1/32 on each other, found {config.backbone!r}")
    if config.stage != first.name:
        raise ConfigError(f"glnet: stage must be the finest, {first.name!r}, found {config.stage!r}")
    if config.decoder not in ("aggregate", "global", "local"):
        raise ConfigError(f"glnet: decoder must be aggregate, global or local, found {config.decoder!r}")
    names, gathers = config.context_names, [context.gathers for context in config.contexts]
    allowed = {"aggregate": ([None], [None, *names[:1]]), "global": ([None],), "local": ([], [None])}
    if gathers not in allowed[config.decoder] or any(context.centred for context in config.contexts):
        raise ConfigError(
            "glnet has a global context, and with sharing a second one that gathers it, "
            f"found {', '.join(names) or 'none'}"
        )
    if len({context.size for context in config.contexts}) > 1:
        raise ConfigError("glnet: its contexts show one window, and must have one size")
