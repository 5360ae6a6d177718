"""CascadePSP (Cheng et al., CVPR 2020): a coarse mask refined class by class, as a whole and then at full size.

One module does all of it. It sees the image and three masks of one class, and scores the class at the strides 8, 4 and
1. In a cascade, finer scores are computed once more from coarser ones, which take the places of two of the masks. Of
the whole image, shrunk, there are three levels (`encode`); of a patch at full size, with what came of the whole image
as its mask, the last two (`segment`). Classes are folded into the batch, so that the network knows none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from .backbones import backbone_class, scaled
from .config import ConfigError, NetworkConfig
from .encoder import Encoder
from .geometry import apply_separable, crop_matrix
from .interface import ContextNetwork, ScoresKind
from .layers import conv_relu, resize
from .pooled import PspDecoder

Stride = Literal[8, 4, 1]

WHOLE: tuple[Stride, ...] = (8, 4, 1)
"""The levels of the cascade over the whole image."""

PATCH: tuple[Stride, ...] = (4, 1)
"""Those over a patch, whose mask is refined as a whole already."""

_MASKS = 3  # that the module sees beside the image
_FINEST = 32  # channels at full size
_ORDER = 0.01  # by which the last class stands back behind the first, in logits
_MIDDLE = 127.5  # of a band of a mask, which becomes -1 where it has not the class and 1 where it has


class RefinementDecoder(nn.Module):
    """Pyramid pooling, then two steps up: to the finest stage, and from there to the image.

    Args:
        channels: Channels by stage, finest first; the finest and the deepest one are used.
        width: Channels of the pooled features; half and a quarter as many are on the way up.
        bands: Bands of the image, which is seen once more at full size.
    """

    def __init__(self, channels: dict[str, int], width: int, bands: int) -> None:
        super().__init__()
        self.finest = next(iter(channels))
        self.coarse = PspDecoder(channels, width, 1)
        half, quarter = scaled(width, 0.5), scaled(width, 0.25)
        self.middle = conv_relu(width + channels[self.finest], half, 3)
        self.score_middle = nn.Conv2d(half, 1, 1)
        self.up = conv_relu(half, quarter, 3)
        self.fine = conv_relu(quarter + bands, scaled(_FINEST, min(1, width / 512)), 3)
        self.score = nn.Conv2d(scaled(_FINEST, min(1, width / 512)), 1, 1)

    def forward(self, features: dict[str, Tensor], image: Tensor, stride: Stride) -> list[Tensor]:
        """Score one class.

        Args:
            features: Features (N, C, h, w) by stage.
            image: Scaled pixels (N, bands, P, P).
            stride: Down to which of the strides.

        Returns:
            Logits (N, 1, P, P), the coarsest first, each enlarged to the image.
        """
        size = image.shape[-1]
        x = self.coarse.fused(features)
        found = [resize(self.coarse.score(x), size)]
        if stride < 8:
            fine = features[self.finest]
            x = self.middle(torch.cat([resize(x, fine.shape[-1]), fine], dim=1))
            found.append(resize(self.score_middle(x), size))
        if stride < 4:
            x = self.up(resize(x, size // 2))
            found.append(self.score(self.fine(torch.cat([resize(x, size), image], dim=1))))
        return found


class CascadePsp(ContextNetwork):
    """The network. Its patches and contexts have the bands of an image and, 0 or 255, one for each class of a mask.

    Args:
        config: Everything that determines the network.

    Raises:
        ConfigError: The backbone does not fit the sizes, or its deepest stage is not at a stride of 8.
    """

    scores: ClassVar[ScoresKind] = "probabilities"
    decoder: RefinementDecoder

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        kind = backbone_class(config.backbone)
        for size in (config.patch, *(context.size for context in config.contexts)):
            kind.check_size(size)
        if (kind.stages[0].stride, kind.stages[-1].stride) != (4, 8) or config.stage != kind.stages[-1].name:
            raise ConfigError(
                f"cascadepsp needs the deepest stage of a backbone with strides from 4 to 8, as resnet50_os8, found "
                f"{config.stage!r} of {config.backbone!r}"
            )
        self.encoder = Encoder(config, config.stage, more=_MASKS)
        self.encoder.neck = nn.Identity()  # the pooled features are as wide as the backbone makes them
        self.decoder = RefinementDecoder(self.encoder.backbone.channels, config.decoder_channels, config.bands)
        self.order: Tensor  # classes that a patch does not have look the same: of those, the first wins, not rounding
        self.register_buffer("order", torch.linspace(0, _ORDER, config.classes).reshape(1, -1, 1, 1), persistent=False)

    def encoders(self) -> tuple[Encoder, ...]:
        """The one encoder."""
        return (self.encoder,)

    def cascade(self, image: Tensor, mask: Tensor, levels: tuple[Stride, ...]) -> dict[Stride, Tensor]:
        """Refine masks of one class each.

        Args:
            image: Scaled pixels (N, bands, P, P).
            mask: Coarse masks (N, 1, P, P) from -1, where the class is not, to 1.
            levels: The stride of each level, the coarsest first.

        Returns:
            Logits (N, 1, P, P) by level.
        """
        found, fed = dict[Stride, Tensor](), [mask, mask]
        for stride in levels:
            logits = self.decoder(self.encoder.backbone(torch.cat([image, mask, *fed], dim=1)), image, stride)
            found[stride] = logits[-1]
            fed = [torch.tanh(part / 2) for part in (logits[0], logits[-1])]  # probabilities from -1 to 1
        return found

    def encode(self, name: str, window: Tensor) -> Tensor:
        """Refine the mask of a whole image.

        Args:
            name: Name of the context.
            window: Raw pixels (N, bands + classes, S, S); bands of a shrunken mask hold shares of 255.

        Returns:
            The probability (N, classes, S, S) of each class by itself.
        """
        pixels = self._pixels(window)
        return torch.sigmoid(self._refined(pixels, pixels[:, self.config.bands :] / _MIDDLE - 1, WHOLE))

    def segment(
        self, patch: Tensor, contexts: Mapping[str, Tensor], positions: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Refine what came of the whole image, where a patch is.

        Args:
            patch: Raw patches (N, bands + classes, P, P); of the mask, only the image's own is looked at.
            contexts: Probabilities (N, classes, S, S) of the whole image (`encode`), by name.
            positions: Positions (N, 2, P) of the patch's pixels in it, by name.

        Returns:
            Probabilities (N, classes, P, P): the odds p / (1 - p) of each class by itself, divided by the sum over the
            classes. Where two classes are all but sure, p itself would be the same for both.
        """
        (name,) = self.config.context_names
        assert positions is not None, "a refiner must know where its patches lie"
        whole, place = contexts[name], positions[name]
        rows, columns = (crop_matrix(place[:, axis], whole.shape[-1]) for axis in (0, 1))
        masks = 2 * apply_separable(rows, whole, columns) - 1
        return torch.softmax(self._refined(self._pixels(patch), masks, PATCH) - self.order, dim=1)

    def _pixels(self, raw: Tensor) -> Tensor:
        """Raw pixels as floats, before anything else: TensorRT takes uint8 for nothing but that."""
        return raw.to(self.encoder.mean.dtype)

    def _refined(self, raw: Tensor, masks: Tensor, levels: tuple[Stride, ...]) -> Tensor:
        """Logits (N, classes, P, P) of each class by itself, of masks (N, classes, P, P) from -1 to 1."""
        classes, size = self.config.classes, masks.shape[-1]
        image = self.encoder.scaled(raw[:, : self.config.bands])
        images = torch.cat([image] * classes, dim=1).reshape(-1, self.config.bands, size, size)
        logits = self.cascade(images, masks.reshape(-1, 1, size, size), levels)[levels[-1]]
        return logits.reshape(-1, classes, size, size)
