"""Where the patch's cells lie in a context: relative positions and crop matrices (§3.3 ``ground``, §3.4).

A cell position is a real number: the index, in cells of the context's grid, of the point on which a cell of the
patch is centred. Everything here is separable, so it is one vector or matrix per axis.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .backbones import Stage


def cells_of_patch(count: int, stage: Stage, *, start: float, window: float, size: int) -> Tensor:
    """Positions (count,) of the patch's cells in the cells of a context, along one axis.

    start: first pixel of the patch within the context window; window: side of that window; both in pixels of the
    raster. size: pixels to which the window was resampled.
    """
    pixel = start + stage.stride * torch.arange(count, dtype=torch.float64) + stage.offset
    resampled = (pixel + 0.5) * size / window - 0.5
    return ((resampled - stage.offset) / stage.stride).float()


def relative(positions: Tensor, count: int) -> Tensor:
    """Offsets j - position: (..., h) -> (..., h, count), in cells of the context."""
    return torch.arange(count, dtype=positions.dtype, device=positions.device) - positions.unsqueeze(-1)


def crop_matrix(positions: Tensor, count: int) -> Tensor:
    """Rows of bilinear weights over the context's cells, (..., h) -> (..., h, count).

    A hat function around each position: the same as sampling with ``grid_sample(padding_mode="border")``.
    """
    inside = positions.clamp(0, count - 1)
    return torch.relu(1 - relative(inside, count).abs())


def apply_separable(rows: Tensor, features: Tensor, columns: Tensor) -> Tensor:
    """Ay X Ax^T per channel: rows ([N,] h, H), features (N, C, H, W), columns ([N,] w, W) -> (N, C, h, w)."""
    if rows.dim() == 3:  # one matrix per item, the same for all of its channels
        rows, columns = rows.unsqueeze(1), columns.unsqueeze(1)
    return rows @ (features @ columns.transpose(-1, -2))
