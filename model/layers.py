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
        dilation: Distance, in pixels, of neighbouring weights of the kernel.
        padding: Pixels before and after, on both axes; None for half of what the kernel spans on either side.
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
        dilation: int = 1,
        padding: tuple[int, int] | None = None,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, dilation=dilation, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=eps)
        self.padding = padding or (dilation * (kernel // 2),) * 2

    def forward(self, x: Tensor) -> Tensor:
        """Normalised features (N, C', h, w) of features (N, C, H, W)."""
        if self.training:
            y = self.convolve(x, self.conv.weight, None)
            if y.numel() > y.shape[1]:  # one value has no variance: a batch of one image that is pooled to one cell
                normed: Tensor = self.bn(y)
                return normed
        return self.convolve(x, *self.folded())

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Convolve with other weights, but this layer's padding, stride, dilation and groups.

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
        return F.conv2d(x, weight, bias, self.conv.stride, before, self.conv.dilation, self.conv.groups)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight (C', C / groups, kernel, kernel) and bias (C',) of the convolution that equals this layer."""
        assert self.bn.running_var is not None and self.bn.running_mean is not None
        scale = self.bn.weight * (self.bn.running_var + self.bn.eps).rsqrt()
        return self.conv.weight * scale.reshape(-1, 1, 1, 1), self.bn.bias - self.bn.running_mean * scale


def conv_relu(inputs: int, outputs: int, kernel: int, *, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Make a convolution with batch norm (`ConvBn`, which explains the arguments) and a ReLU.

    Returns:
        A module from features (N, inputs, H, W) to features (N, outputs, h, w).
    """
    return nn.Sequential(ConvBn(inputs, outputs, kernel, stride=stride, dilation=dilation), nn.ReLU())


def resize(x: Tensor, size: int) -> Tensor:
    """Resample features bilinearly.

    Args:
        x: Features (N, C, h, h).
        size: The side that is wanted, in pixels.

    Returns:
        Features (N, C, size, size). The corners of pixels are aligned, not their centres.
    """
    # By factor, not by size: the graph then holds a constant instead of asking for the batch's shape.
    return F.interpolate(x, scale_factor=size / x.shape[-1], mode="bilinear", align_corners=False)


def tokens(x: Tensor) -> Tensor:
    """Cells as tokens.

    Args:
        x: Features (N, C, h, w).

    Returns:
        Tokens (N, h*w, C). Only the batch's size is left open, so that an exported graph does not ask for shapes.
    """
    _, channels, height, width = x.shape
    return x.reshape(-1, channels, height * width).transpose(1, 2)
