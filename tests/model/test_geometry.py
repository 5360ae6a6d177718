from __future__ import annotations

import pytest

pytest.importorskip("torch")

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fctl.model.backbones import BACKBONES, Stage, backbone_class, stage_of
from fctl.model.config import ConfigError
from fctl.model.geometry import apply_separable, cells_of_patch, crop_matrix, relative
from fctl.model.network import Placement
from fctl.runtime.tiling.contexts import Cells, cell_positions, context_window
from fctl.runtime.tiling.sources import ArraySource
from fctl.runtime.tiling.windows import Window

from .helpers import LARGE, MEDIUM, PATCH, WHOLE, WIDE, small_config

ALIKE = ("mit_b1", "mit_b2", "mit_b3", "mit_b4", "mit_b5")  # only wider or deeper than mit_b0: their cells lie as its
STAGES = [(name, stage.name) for name, kind in BACKBONES.items() if name not in ALIKE for stage in kind.stages]
STATIC = [WIDE, MEDIUM, LARGE]  # factors 1.5, 2 and 4
ODD = Stage(name="odd", channels=1, stride=8, offset=-2.5)  # far from a naive grid, as the VGG of the paper is


def bilinear(features: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Features (N, C, H, W) sampled by torch at cell positions rows (N, h) and columns (N, w)."""
    height, width = features.shape[2:]
    y, x = 2 * rows / (height - 1) - 1, 2 * columns / (width - 1) - 1
    grid = torch.stack(
        [x[:, None, :].expand(-1, rows.shape[1], -1), y[:, :, None].expand(-1, -1, columns.shape[1])], dim=-1
    )
    return F.grid_sample(features, grid, mode="bilinear", padding_mode="border", align_corners=True)


def true_positions(factor: float, size: int, stage: Stage, cells: int) -> Tensor:
    """Where the patch's cells lie in a centred context, in the context's cells, cell by cell."""
    positions = []
    for cell in range(cells):
        pixel = stage.stride * cell + stage.offset  # of the patch
        ground = pixel - (PATCH - 1) / 2  # from the common centre
        resampled = ground * size / (factor * PATCH) + (size - 1) / 2  # a pixel of the context
        positions.append((resampled - stage.offset) / stage.stride)
    return torch.tensor(positions)


@pytest.mark.parametrize("context", STATIC, ids=lambda context: f"factor {context.factor}")
@pytest.mark.parametrize("stage", ["s8", "s16"])
def test_static_crop_equals_sampling_at_the_true_positions(context: object, stage: str) -> None:
    place = Placement(small_config(contexts=(context,), stage=stage), context)  # type: ignore[arg-type]
    cells = stage_of("efficientnet_lite0", stage)
    features = torch.randn(2, 3, place.count, place.count)
    rows = true_positions(context.factor, context.size, cells, PATCH // cells.stride).expand(2, -1)  # type: ignore[attr-defined]
    torch.testing.assert_close(place.crop(features, None), bilinear(features, rows, rows), rtol=1e-4, atol=1e-5)


def test_moving_crop_equals_sampling_at_each_items_positions() -> None:
    place = Placement(small_config(contexts=(WHOLE,), stage="s8"), WHOLE)
    features = torch.randn(3, 2, place.count, place.count)
    positions = torch.rand(3, 2, 8) * 12 - 2  # some beyond the border, either side
    sampled = bilinear(features, positions[:, 0], positions[:, 1])
    torch.testing.assert_close(place.crop(features, positions), sampled, rtol=1e-4, atol=1e-5)


def test_crop_on_rectangles_keeps_rows_and_columns_apart() -> None:
    features = torch.randn(1, 2, 7, 5)
    rows, columns = torch.tensor([0.3, 2.0, 5.9]), torch.tensor([-1.0, 1.5, 3.2, 9.0])
    cropped = apply_separable(crop_matrix(rows, 7), features, crop_matrix(columns, 5))
    assert cropped.shape == (1, 2, 3, 4)
    torch.testing.assert_close(cropped, bilinear(features, rows[None], columns[None]), rtol=1e-4, atol=1e-5)


def test_a_ramp_over_the_ground_crops_to_the_ramp_under_the_patch() -> None:
    patch, factor, size, cells = 128, 3, 192, 8
    start = (factor * patch - patch) // 2
    own = ODD.stride * torch.arange(cells) + ODD.offset + start  # in pixels of the window
    context = (ODD.stride * torch.arange(24) + ODD.offset + 0.5) * (factor * patch / size) - 0.5
    positions = cells_of_patch(cells, ODD, start=start, window=factor * patch, size=size)
    torch.testing.assert_close(crop_matrix(positions, 24) @ context, own)


def test_rows_of_a_crop_sum_to_one_beyond_the_border_too() -> None:
    matrix = crop_matrix(torch.linspace(-5, 15, 41), 8)
    torch.testing.assert_close(matrix.sum(-1), torch.ones(41))
    assert matrix[0].tolist() == [1, 0, 0, 0, 0, 0, 0, 0]
    assert matrix[-1].tolist() == [0, 0, 0, 0, 0, 0, 0, 1]


def test_relative_counts_from_each_position_to_each_cell() -> None:
    assert relative(torch.tensor([[0.0, 1.5]]), 3).tolist() == [[[0, 1, 2], [-1.5, -0.5, 0.5]]]


@pytest.mark.parametrize("position", ["grid", "ground"])
def test_offsets_are_from_index_to_index_or_on_the_ground(position: str) -> None:
    config = small_config()
    assert config.lcf is not None
    config = small_config(lcf=type(config.lcf)(**(vars(config.lcf) | {"position": position})))
    offsets = Placement(config, LARGE).offsets(None)
    origin = torch.arange(4.0) if position == "grid" else true_positions(4.0, 64, stage_of(config.backbone, "s16"), 4)
    torch.testing.assert_close(offsets.rows, torch.arange(4.0)[None, :] - origin[:, None])
    torch.testing.assert_close(offsets.columns, offsets.rows)


def test_the_patch_lies_cell_on_cell_in_itself() -> None:
    offsets = Placement(small_config(), None).offsets(None)
    assert offsets.rows.diagonal().tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("stage", [*(stage_of(*pair) for pair in STAGES), ODD], ids=lambda stage: stage.name)
@pytest.mark.parametrize(("patch", "factor", "size"), [(64, 1.5, 96), (64, 2, 64), (256, 4, 256), (508, 3, 508)])
def test_runtime_and_model_agree_on_a_centred_window(stage: Stage, patch: int, factor: float, size: int) -> None:
    tile = Window(37, 1011, patch, patch)
    window = tile.centred(round(factor * patch), round(factor * patch))
    cells = Cells(stride=stage.stride, offset=stage.offset, count=patch // stage.stride)
    grid = Cells(stride=stage.stride, offset=stage.offset, count=size // stage.stride)
    found = cell_positions(tile, window, cells, grid, size)
    start = (window.height - patch) // 2
    expected = cells_of_patch(cells.count, stage, start=start, window=window.height, size=size).numpy()
    np.testing.assert_allclose(found, [expected, expected], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("stage", [*(stage_of(*pair) for pair in STAGES), ODD], ids=lambda stage: stage.name)
def test_runtime_and_model_agree_on_a_global_window(stage: Stage) -> None:
    tile, window, size = Window(120, 700, 64, 64), Window(0, 0, 400, 1000), 96
    cells = Cells(stride=stage.stride, offset=stage.offset, count=64 // stage.stride)
    rows, columns = cell_positions(tile, window, cells, cells, size)
    for found, start, side in ((rows, 120, 400), (columns, 700, 1000)):
        expected = cells_of_patch(cells.count, stage, start=start, window=side, size=size).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("context", STATIC, ids=lambda context: f"factor {context.factor}")
def test_the_network_expects_the_very_windows_that_the_runtime_cuts(context: object) -> None:
    config = small_config(contexts=(context,))
    stage, place = stage_of(config.backbone, config.stage), Placement(config, context)  # type: ignore[arg-type]
    cut = context_window(context.factor, size=context.size, resampling="box")  # type: ignore[attr-defined]
    tile = Window(500, 90, PATCH, PATCH)
    window = cut.around(tile, ArraySource(np.zeros((2000, 2000, 3), np.uint8)))
    cells = Cells(stride=stage.stride, offset=stage.offset, count=len(place.static))
    rows, columns = cell_positions(tile, window, cells, cells, cut.size)
    np.testing.assert_allclose(place.static.numpy(), rows, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(place.static.numpy(), columns, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("name", "stage"), STAGES)
def test_declared_stride_and_offset_are_where_gradients_come_from(name: str, stage: str) -> None:
    declared, size = stage_of(name, stage), allowed_size(name, 1024)
    x = torch.ones(1, 1, size, size, requires_grad=True)
    features = averaging(name, stage)(x)[stage]
    cell = features.shape[-1] // 2
    first, second = (centroid(features[:, :, cell + step, cell + step], x) for step in (0, 1))
    # Exact for plain convolutions, whose windows end well inside of 1024 pixels; half a pixel leaves room for
    # backbones that see farther, and is less than any mistake of padding makes.
    for axis in range(2):
        assert second[axis] - first[axis] == pytest.approx(declared.stride, abs=0.5)
        assert first[axis] == pytest.approx(declared.stride * cell + declared.offset, abs=0.5)


@pytest.mark.parametrize(("name", "stage"), STAGES)
def test_declared_grid_is_what_comes_out(name: str, stage: str) -> None:
    kind, declared, size = backbone_class(name), stage_of(name, stage), allowed_size(name, 250)
    with torch.device("meta"):  # shapes without the arithmetic
        features = kind(bands=2, last=stage).eval()(torch.zeros(1, 2, size, size))
    count = kind.grid(size, declared)
    assert list(features)[-1] == stage
    assert features[stage].shape == (1, declared.channels, count, count)


def allowed_size(name: str, at_least: int) -> int:
    """The smallest size from `at_least` on that a backbone accepts."""
    for size in range(at_least, at_least + 64):
        try:
            backbone_class(name).check_size(size)
        except ConfigError:
            continue
        return size
    raise AssertionError(f"{name} accepts no size near {at_least}")


def averaging(name: str, stage: str) -> nn.Module:
    """A backbone that does nothing but average: where its output depends on the input is then plain to see.

    One channel, for all would be alike. A maximum has the place of a mean; attention looks everywhere and is silent.
    """
    with torch.device("meta"):
        network = backbone_class(name)(bands=1, last=stage).eval()
    _average(network)
    return network.requires_grad_(False).eval()


def _average(module: nn.Module) -> None:
    for name, child in list(module.named_children()):
        if (stand_in := _stand_in(child)) is not None:
            setattr(module, name, stand_in)
        else:
            _average(child)


def _stand_in(layer: nn.Module) -> nn.Module | None:
    mean: nn.Module
    if isinstance(layer, nn.Conv2d | nn.Linear):
        if isinstance(layer, nn.Linear):
            mean = nn.Linear(1, 1)
        else:
            mean = nn.Conv2d(1, 1, layer.kernel_size, layer.stride, layer.padding, layer.dilation)  # type: ignore[arg-type]
        nn.init.constant_(mean.weight, 0.5 / mean.weight.numel())  # halved: sums of residuals stay below ReLU6's 6
        nn.init.zeros_(mean.bias)
        return mean
    if isinstance(layer, nn.MaxPool2d):
        return nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode)
    if isinstance(layer, nn.BatchNorm2d):
        return nn.BatchNorm2d(1, layer.eps)  # a fresh one is the identity
    if isinstance(layer, nn.LayerNorm):
        return nn.Identity()
    return _Silent() if "Attention" in type(layer).__name__ else None


class _Silent(nn.Module):
    def forward(self, x: Tensor, *_: object) -> Tensor:
        return torch.zeros_like(x)


def centroid(cell: Tensor, x: Tensor) -> tuple[float, float]:
    """The mean pixel, weighted by gradient, that one cell depends on: row and column."""
    (gradient,) = torch.autograd.grad(cell.sum(), x, retain_graph=True)
    weights = gradient[0, 0].double() / gradient.double().sum()
    pixels = torch.arange(x.shape[-1], dtype=torch.float64)
    return float(weights.sum(1) @ pixels), float(weights.sum(0) @ pixels)
