"""FCtL: a patch segmented together with its contexts (Fig. 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from .ale import enhancement
from .backbones import backbone_class, stage_of
from .config import LOCAL, ConfigError, ContextConfig, NetworkConfig
from .decoder import decoder
from .encoder import Encoder
from .geometry import apply_separable, cells_of_patch, crop_matrix, relative
from .interface import ContextNetwork
from .lcf import LocalityAwareContextFusion, Offsets, sum_of


class Placement(nn.Module):
    """Where the patch's cells lie in one context.

    In a context that is centred on the patch, positions are constants. A global context is one image for all patches,
    so the patch's place in it is an input: `positions` (N, 2, h), rows then columns, in cells of the context
    (`geometry.cells_of_patch`, one axis at a time).

    Args:
        config: The network.
        context: The context, or None for the patch itself.
    """

    def __init__(self, config: NetworkConfig, context: ContextConfig | None) -> None:
        super().__init__()
        kind = backbone_class(config.backbone)
        stage = stage_of(config.backbone, config.stage)
        cells = kind.grid(config.patch, stage)
        self.count = kind.grid(context.size, stage) if context else cells
        self.grid = config.lcf is not None and config.lcf.position == "grid"
        self.static: Tensor
        self.index: Tensor
        static = torch.zeros(0)
        if context is None:
            static = torch.arange(cells, dtype=torch.float32)
        elif context.centred:
            window = context.window(config.patch)
            start = (window - config.patch) // 2
            static = cells_of_patch(cells, stage, start=start, window=window, size=context.size)
        self.register_buffer("static", static, persistent=False)
        self.register_buffer("index", torch.arange(cells, dtype=torch.float32), persistent=False)

    def crop(self, features: Tensor, positions: Tensor | None) -> Tensor:
        """The part of a context that the patch covers, on the patch's grid (§3.4.1).

        Args:
            features: Features (N, C, H, W) of the context.
            positions: Positions (N, 2, h) in a global context, else None.

        Returns:
            Features (N, C, h, w).
        """
        rows, columns = self._axes(positions)
        return apply_separable(crop_matrix(rows, self.count), features, crop_matrix(columns, self.count))

    def offsets(self, positions: Tensor | None) -> Offsets:
        """r of Eq. 2 in cells of the context: from index to index ("grid") or measured on the ground ("ground").

        Args:
            positions: Positions (N, 2, h) in a global context, else None.

        Returns:
            Offsets along both axes.
        """
        rows, columns = (self.index, self.index) if self.grid else self._axes(positions)
        return Offsets(rows=relative(rows, self.count), columns=relative(columns, self.count))

    def _axes(self, positions: Tensor | None) -> tuple[Tensor, Tensor]:
        """Positions along rows and along columns."""
        if positions is None:
            return self.static, self.static
        return positions[:, 0], positions[:, 1]


class FCtL(ContextNetwork):
    """The network: it segments a patch from the sum of its own features, X_LCF and X_ALE (§3.5).

    Args:
        config: Everything that determines the network.

    Raises:
        ConfigError: The backbone has no such stage, or does not fit the sizes, the channels or the decoder.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        kind = backbone_class(config.backbone)
        for size in (config.patch, *(context.size for context in config.contexts)):
            kind.check_size(size)
        stage_of(config.backbone, config.stage)
        if config.resume and not kind.resumes:
            raise ConfigError(f"backbone {config.backbone!r} computes no stage from another; set resume to false")
        names = config.context_names

        self.encoder = Encoder(config, kind.stages[-1].name)
        if config.resume and not isinstance(self.encoder.neck, nn.Identity):
            own = self.encoder.backbone.channels[config.stage]
            raise ConfigError(f"resume needs the {own} channels of stage {config.stage!r}, found {config.channels}")
        separate = names if config.encoders == "separate" else ()
        self.context_encoders = nn.ModuleDict({name: Encoder(config, config.stage) for name in separate})

        self.lcf = self.ale = None
        if config.lcf:
            members = ((LOCAL,) if config.lcf.self_attention else ()) + names
            self.lcf = LocalityAwareContextFusion(members, config.channels, config.lcf)
        if config.ale:
            self.ale = enhancement(names, config.channels, config.ale)
        self.place = nn.ModuleDict({LOCAL: Placement(config, None)})
        self.place.update({context.name: Placement(config, context) for context in config.contexts})

        channels = self.encoder.backbone.channels | {config.stage: config.channels}
        self.decoder = decoder(config.decoder, channels, config.decoder_channels, config.classes)

    def encoders(self) -> tuple[Encoder, ...]:
        """The patch's encoder, then the contexts' own, if they have any."""
        return (self.encoder, *(cast(Encoder, encoder) for encoder in self.context_encoders.values()))

    def placement(self, name: str) -> Placement:
        """Where the patch's cells lie in the context of that name, or in the patch itself ("local")."""
        return cast(Placement, self.place[name])

    def encode(self, name: str, window: Tensor) -> Tensor:
        """Features X_U (N, C, H, W) of the enhanced stage, of raw windows (N, bands, S, S) of a context."""
        features: Tensor = self._encoder(name)(window, self.config.stage)[self.config.stage]
        return features

    def encode_once(self, name: str, window: Tensor) -> Tensor:
        """Features (N, C, h, w) of the enhanced stage, in windows whose outer cells will be dropped."""
        return self._encoder(name).inside(window)

    def _encoder(self, name: str) -> Encoder:
        return cast(Encoder, self.context_encoders[name]) if self.config.encoders == "separate" else self.encoder

    def segment(
        self, patch: Tensor, contexts: Mapping[str, Tensor], positions: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Logits (N, classes, P, P) of raw patches (N, bands, P, P), from the features X_U of their contexts."""
        stage, resume = self.config.stage, self.config.resume
        features = self.encoder(patch, stage if resume else None)
        features[stage] = self.enhance(features[stage], contexts, positions or {})
        if resume:
            features |= self.encoder.backbone.resume(features[stage], stage)
        logits: Tensor = self.decoder(features, self.config.patch)
        return logits

    def enhance(self, x: Tensor, contexts: Mapping[str, Tensor], positions: Mapping[str, Tensor]) -> Tensor:
        """Enhance the features of patches: X_I + X_LCF + X_ALE.

        Args:
            x: Features X_I (N, C, h, w).
            contexts: By name, features X_U (N, C, H, W) of the contexts.
            positions: As in `segment`.

        Returns:
            Enhanced features (N, C, h, w).
        """
        terms = [x]
        if self.lcf is not None:
            members = {LOCAL: x, **contexts}
            offsets = {name: self._offsets(name, positions) for name in self.lcf.attention}
            terms.append(self.lcf(x, members, offsets))
        if self.ale is not None:
            cropped = {name: self.placement(name).crop(u, positions.get(name)) for name, u in contexts.items()}
            terms.append(self.ale(x, cropped))
        return sum_of(terms)

    def _offsets(self, name: str, positions: Mapping[str, Tensor]) -> Offsets | None:
        """Offsets for the position term of one member of U, None where there is none."""
        if self.config.lcf is None or self.config.lcf.position is None:
            return None
        return self.placement(name).offsets(positions.get(name))
