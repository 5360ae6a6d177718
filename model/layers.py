"""Layers that backbones and decoders share."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class ConvBn(nn.Module):
    """Convolution and batch norm.

    With batch statistics in training; otherwise the norm's constants are folded into the convolution, which is
    equal and saves a pass over the features. padding: (before, after) on both axes.
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
        """(N, C, H, W) -> (N, C', h, w)."""
        if self.training:
            normed: Tensor = self.bn(self.convolve(x, self.conv.weight, None))
            return normed
        return self.convolve(x, *self.folded())

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution with its padding: (N, C, H, W) -> (N, C', h, w)."""
        before, after = self.padding
        if before != after:
            x = F.pad(x, (before, after, before, after))
            before = 0
        return F.conv2d(x, weight, bias, self.conv.stride, before, 1, self.conv.groups)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the convolution that equals this layer in evaluation."""
        assert self.bn.running_var is not None and self.bn.running_mean is not None
        scale = self.bn.weight * (self.bn.running_var + self.bn.eps).rsqrt()
        return self.conv.weight * scale.reshape(-1, 1, 1, 1), self.bn.bias - self.bn.running_mean * scale
