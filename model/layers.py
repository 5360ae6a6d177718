"""Layers that backbones and decoders share."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class ConvBn(nn.Module):
    """A convolution without bias, and batch norm.

    In training, batch statistics are used. Otherwise the norm's constants are folded into the convolution, which is
    equal and saves a pass over the features.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        kernel: Side of the kernel.
        stride: Stride of the convolution.
        groups: Groups of channels.
        padding: Pixels before and after, on both axes; None for half the kernel on either side.
        eps: What batch norm adds to the variance.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        padding: tuple[int, int] | None = None,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=eps)
        self.padding = padding or (kernel // 2, kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised features (N, C', h, w) of features (N, C, H, W)."""
        if self.training:
            normed: Tensor = self.bn(self.convolve(x, self.conv.weight, None))
            return normed
        return self.convolve(x, *self.folded())

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Convolve with other weights, but this layer's padding, stride and groups.

        Args:
            x: Features (N, C, H, W).
            weight: Weight (C', C / groups, kernel, kernel).
            bias: Bias (C',), or None.

        Returns:
            Features (N, C', h, w).
        """
        before, after = self.padding
        if before != after:
            x = F.pad(x, (before, after, before, after))
            before = 0
        return F.conv2d(x, weight, bias, self.conv.stride, before, 1, self.conv.groups)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight (C', C / groups, kernel, kernel) and bias (C',) of the convolution that equals this layer."""
        assert self.bn.running_var is not None and self.bn.running_mean is not None
        scale = self.bn.weight * (self.bn.running_var + self.bn.eps).rsqrt()
        return self.conv.weight * scale.reshape(-1, 1, 1, 1), self.bn.bias - self.bn.running_mean * scale


def tokens(x: Tensor) -> Tensor:
    """Cells as tokens.

    Args:
        x: Features (N, C, h, w).

    Returns:
        Tokens (N, h*w, C). Only the batch's size is left open, so that an exported graph does not ask for shapes.
    """
    _, channels, height, width = x.shape
    return x.reshape(-1, channels, height * width).transpose(1, 2)
