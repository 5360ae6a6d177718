"""Decoders that mirror their encoder, scale by scale: U-Net and SegNet."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import ConfigError
from .layers import conv_relu


class UNetDecoder(nn.Module):
    """The expanding half of U-Net: upsample with a 2x2 deconvolution, append the encoder's features, convolve twice.

    Args:
        channels: Channels of the stages s1, s2, s4, s8 and s16.
        width: Channels of the finest level.
        classes: How many classes are scored.

    Raises:
        ConfigError: The stages are others.
    """

    def __init__(self, channels: dict[str, int], width: int, classes: int) -> None:
        super().__init__()
        check_stages("unet", channels, ("s1", "s2", "s4", "s8", "s16"))
        self.up, self.join = nn.ModuleDict(), nn.ModuleDict()
        *finer, deepest = channels
        inputs = channels[deepest]
        for name in reversed(finer):
            outputs = width if name == finer[0] else channels[name]
            self.up[name] = nn.ConvTranspose2d(inputs, outputs, 2, 2)
            self.join[name] = nn.Sequential(
                conv_relu(channels[name] + outputs, outputs, 3), conv_relu(outputs, outputs, 3)
            )
            inputs = outputs
        self.deepest = deepest
        self.score = nn.Conv2d(inputs, classes, 1)

    def forward(self, features: dict[str, Tensor], size: int) -> Tensor:
        """Logits (N, classes, size, size) of features (N, C, h, w) by stage."""
        x = features[self.deepest]
        for name in self.up:
            x = self.join[name](torch.cat([features[name], self.up[name](x)], dim=1))
        logits: Tensor = self.score(x)
        return logits


class SegNetDecoder(nn.Module):
    """SegNet's decoder: every pool of the encoder is undone by putting values where its maxima lay, and convolving.

    The convolutions mirror VGG16's, and the last one of each scale has the channels of the next. The last one of all
    scores the classes.

    Args:
        channels: Channels of the stages conv1 to conv5, each of which a pool of 2x2 takes.
        width: Channels of the features that are scored.
        classes: How many classes are scored.

    Raises:
        ConfigError: The stages are others.
    """

    def __init__(self, channels: dict[str, int], width: int, classes: int) -> None:
        super().__init__()
        check_stages("segnet", channels, tuple(_CONVOLUTIONS))
        self.levels = nn.ModuleDict()
        names = list(channels)
        for name in reversed(names):
            outputs = width if name == names[0] else channels[names[names.index(name) - 1]]
            own = [channels[name]] * _CONVOLUTIONS[name]
            layers = [conv_relu(a, b, 3) for a, b in zip(own, [*own[1:], outputs], strict=True)]
            self.levels[name] = nn.Sequential(*layers)
        self.score = nn.Conv2d(width, classes, 3, padding=1)

    def forward(self, features: dict[str, Tensor], size: int) -> Tensor:
        """Logits (N, classes, size, size) of features (N, C, h, w) by stage."""
        x: Tensor | None = None
        for name, level in self.levels.items():
            x = level(unpool(F.max_pool2d(features[name], 2) if x is None else x, features[name]))
        logits: Tensor = self.score(x)
        return logits


_CONVOLUTIONS = {"conv1": 1, "conv2": 2, "conv3": 3, "conv4": 3, "conv5": 3}  # conv1's second one scores


def unpool(pooled: Tensor, fine: Tensor) -> Tensor:
    """Undo a pool of 2x2: every value goes where the largest of its four cells was, and the other three are 0.

    Equal to ``torch.nn.functional.max_unpool2d``, but no index is needed, which few engines could follow: a knock-out
    of comparisons finds the one place. Of equal cells the first one wins, in the order of rows, as in PyTorch's pool.

    Args:
        pooled: Values (N, C, h, w).
        fine: The features (N, C, 2h, 2w) that were pooled.

    Returns:
        Features (N, C, 2h, 2w).
    """
    a, b = fine[:, :, 0::2, 0::2], fine[:, :, 0::2, 1::2]
    c, d = fine[:, :, 1::2, 0::2], fine[:, :, 1::2, 1::2]
    above = torch.maximum(a, b) >= torch.maximum(c, d)
    upper, lower = torch.where(above, pooled, 0.0), torch.where(above, 0.0, pooled)
    first, third = a >= b, c >= d
    cells = [
        torch.where(first, upper, 0.0), torch.where(first, 0.0, upper),
        torch.where(third, lower, 0.0), torch.where(third, 0.0, lower),
    ]  # fmt: skip
    channels, height, width = pooled.shape[1:]
    stacked = torch.stack(cells, dim=2).reshape(-1, 4 * channels, height, width)
    return F.pixel_shuffle(stacked, 2)


def check_stages(kind: str, channels: dict[str, int], needed: tuple[str, ...]) -> None:
    """Check that a backbone has the stages that a decoder is made for.

    Args:
        kind: Name of the decoder.
        channels: Channels by stage of the backbone.
        needed: The stages that are needed, finest first.

    Raises:
        ConfigError: It has others.
    """
    if tuple(channels) != needed:
        raise ConfigError(f"decoder {kind!r} needs stages {', '.join(needed)}, found {', '.join(channels)}")
