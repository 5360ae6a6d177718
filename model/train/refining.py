"""How CascadePSP is trained: one class of a patch at a time, with a loss at each stride of the cascade."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from fctl.runtime.evaluate.metrics import IGNORE

from ..cascadepsp import WHOLE, CascadePsp, Stride

_GRADIENT = 5.0  # weight of the gradients' difference


def levels(network: CascadePsp, image: Tensor, coarse: Tensor) -> dict[Stride, Tensor]:
    """Refine masks of one class each, at all levels of the cascade.

    Args:
        network: The network.
        image: Raw pixels (N, bands, P, P) of any dtype.
        coarse: Coarse masks (N, P, P) of 0 and 1.

    Returns:
        Logits (N, 1, P, P) by stride.
    """
    pixels = network.encoder.scaled(image)
    return network.cascade(pixels, 2 * coarse[:, None].to(pixels.dtype) - 1, WHOLE)


def refinement_loss(logits: Mapping[Stride, Tensor], labels: Tensor) -> Tensor:
    """The loss of a cascade: cross entropy at the coarsest stride, L1 and L2 at the finest, both in between.

    Args:
        logits: Logits (N, 1, P, P) by stride.
        labels: Whether each pixel has the class (N, P, P), 255 where unlabelled.

    Returns:
        A scalar, the mean over the labelled pixels, with the difference of gradients at the finest stride added.
    """
    known = (labels != IGNORE)[:, None].float()
    target = (labels == 1)[:, None].float()
    count = known.sum().clamp(min=1)

    def mean(values: Tensor) -> Tensor:
        return (values * known).sum() / count

    def entropy(stride: Stride) -> Tensor:
        return mean(F.binary_cross_entropy_with_logits(logits[stride].float(), target, reduction="none"))

    def distance(stride: Stride) -> Tensor:
        difference = (torch.sigmoid(logits[stride].float()) - target).abs()
        return mean(difference + difference.square())

    edges = (gradient(torch.sigmoid(logits[1].float())) - gradient(target)).abs()
    return entropy(8) + (entropy(4) + distance(4)) / 2 + distance(1) + _GRADIENT * mean(edges)


def gradient(mask: Tensor) -> Tensor:
    """The magnitude (N, 1, P, P) of the gradient of masks, smoothed by 3x3 and found with Sobel's kernels."""
    slope = torch.tensor([1.0, 0.0, -1.0], device=mask.device) / 8
    smooth = torch.tensor([1.0, 2.0, 1.0], device=mask.device)
    kernels = torch.stack([torch.outer(slope, smooth), torch.outer(smooth, slope)])[:, None]
    blurred = F.avg_pool2d(F.pad(mask, (1, 1, 1, 1), mode="replicate"), 3, 1)
    along = F.conv2d(F.pad(blurred, (1, 1, 1, 1), mode="replicate"), kernels)
    return (along.square().sum(1, keepdim=True) + 1e-12).sqrt()  # whose slope at 0 is finite
