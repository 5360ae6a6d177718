"""Where the patch's cells lie in a context: relative positions and crop matrices (§3.3 ``ground``, §3.4).

A cell position is a real number: the index, in cells of the context's grid, of the point on which a cell of the
patch is centred. Everything here is separable, so it is one vector or matrix per axis.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .backbones import Stage


def cells_of_patch(count: int, stage: Stage, *, start: float, window: float, size: int) -> Tensor:
    """Where the patch's cells lie in a context, along one axis.

    Args:
        count: Cells of the patch along the axis.
        stage: The stage that the cells belong to.
        start: First pixel of the patch within the context's window, in pixels of the raster.
        window: Side of that window in pixels of the raster.
        size: Pixels to which the window was resampled.

    Returns:
        Positions (count,) float32 in cells of the context.
    """
    pixel = start + stage.stride * torch.arange(count, dtype=torch.float64) + stage.offset
    resampled = (pixel + 0.5) * size / window - 0.5
    return ((resampled - stage.offset) / stage.stride).float()


def relative(positions: Tensor, count: int) -> Tensor:
    """Offsets from positions to all cells of a context.

    Args:
        positions: Positions (..., h) in cells of the context.
        count: Cells of the context along the axis.

    Returns:
        Offsets (..., h, count): those from position i to cell j are j - position i.
    """
    return torch.arange(count, dtype=positions.dtype, device=positions.device) - positions.unsqueeze(-1)


def crop_matrix(positions: Tensor, count: int) -> Tensor:
    """Bilinear weights that sample a context at positions, along one axis (§3.4.1).

    Args:
        positions: Positions (..., h) in cells of the context.
        count: Cells of the context along the axis.

    Returns:
        Rows of weights (..., h, count): a hat function around each position, as ``grid_sample`` applies with
        ``padding_mode="border"``.
    """
    inside = positions.clamp(0, count - 1)
    return torch.relu(1 - relative(inside, count).abs())


def apply_separable(rows: Tensor, features: Tensor, columns: Tensor) -> Tensor:
    """Apply one matrix along the rows and one along the columns of every channel: A_y X A_x^T.

    Args:
        rows: A_y (h, H), or (N, h, H) with one matrix for each item.
        features: X (N, C, H, W).
        columns: A_x (w, W), or (N, w, W).

    Returns:
        Features (N, C, h, w).
    """
    if rows.dim() == 3:  # one matrix per item, the same for all of its channels
        rows, columns = rows.unsqueeze(1), columns.unsqueeze(1)
    return rows @ (features @ columns.transpose(-1, -2))
