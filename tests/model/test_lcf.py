from __future__ import annotations

import itertools

import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor, nn

from fctl.model.geometry import apply_separable, relative
from fctl.model.lcf import (
    AdaptiveFusion,
    AverageFusion,
    ContextAttention,
    LocalityAwareContextFusion,
    Offsets,
    PositionTerm,
    WeightedFusion,
    tokens,
)

from .helpers import small_lcf

BATCH, CHANNELS = 2, 6
PATCH_GRID, CONTEXT_GRID = (3, 2), (4, 5)  # nothing square, so that no axis can be mistaken for the other


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def grid_offsets() -> Offsets:
    """From index to index, as the paper has it."""
    return between(torch.arange(PATCH_GRID[0]).float(), torch.arange(PATCH_GRID[1]).float())


def ground_offsets() -> Offsets:
    """From where the patch's cells lie in a context at half the scale."""
    return between(0.9 + torch.arange(PATCH_GRID[0]) / 2, 1.3 + torch.arange(PATCH_GRID[1]) / 2)


def moving_offsets() -> Offsets:
    """Another place for each item, and another scale for each axis, as in a global context."""
    rows = torch.stack([0.2 + torch.arange(PATCH_GRID[0]) / 3, 1.1 + torch.arange(PATCH_GRID[0]) / 3])
    columns = torch.stack([2.6 + torch.arange(PATCH_GRID[1]) / 4, -0.4 + torch.arange(PATCH_GRID[1]) / 4])
    return between(rows, columns)


def between(rows: Tensor, columns: Tensor) -> Offsets:
    return Offsets(rows=relative(rows, CONTEXT_GRID[0]), columns=relative(columns, CONTEXT_GRID[1]))


OFFSETS = {"grid": grid_offsets, "ground": ground_offsets, "moving": moving_offsets}


def features(grid: tuple[int, int]) -> Tensor:
    return torch.randn(BATCH, CHANNELS, *grid)


def random_term() -> PositionTerm:
    term = PositionTerm()
    nn.init.normal_(term.weight)
    nn.init.normal_(term.gate)
    return term


def random_attention(**changes: object) -> ContextAttention:
    layer = ContextAttention(CHANNELS, small_lcf(**changes))
    if layer.position is not None:
        layer.position = random_term()
    return layer


def item(offsets: Offsets, index: int) -> Offsets:
    """The offsets of one item of a batch."""
    if offsets.rows.dim() == 2:
        return offsets
    return Offsets(rows=offsets.rows[index], columns=offsets.columns[index])


def dense_position_map(weight: Tensor, offsets: Offsets) -> Tensor:
    """softmax(r W_r) over all pairs of cells, r = (dx, dy, dx^2 + dy^2): (h*w, H*W)."""
    (h, height), (w, width) = offsets.rows.shape, offsets.columns.shape
    logits = torch.zeros(h, w, height, width)
    for i, j, k, m in itertools.product(range(h), range(w), range(height), range(width)):
        dy, dx = offsets.rows[i, k], offsets.columns[j, m]
        logits[i, j, k, m] = weight[0] * dx + weight[1] * dy + weight[2] * (dx**2 + dy**2)
    return torch.softmax(logits.reshape(h * w, height * width), dim=-1)


def naive_attention(layer: ContextAttention, x: Tensor, u: Tensor, offsets: Offsets, scale: float) -> Tensor:
    """Eq. 1-2, one cell of the patch at a time."""
    query, key, value = layer.query(x), layer.key(u), layer.value(u)
    out = torch.zeros(BATCH, CHANNELS, *PATCH_GRID)
    cells = list(itertools.product(range(CONTEXT_GRID[0]), range(CONTEXT_GRID[1])))
    for n in range(BATCH):
        for index, (i, j) in enumerate(itertools.product(range(PATCH_GRID[0]), range(PATCH_GRID[1]))):
            logits = torch.stack([query[n, :, i, j] @ key[n, :, k, m] * scale for k, m in cells])
            weights = torch.softmax(logits, dim=0)
            if layer.position is not None:
                share = torch.sigmoid(layer.position.gate)
                near = dense_position_map(layer.position.weight, item(offsets, n))[index]
                weights = share * weights + (1 - share) * near
                weights = weights / weights.sum()  # Norm of Eq. 2
            out[n, :, i, j] = sum(w * value[n, :, k, m] for w, (k, m) in zip(weights, cells, strict=True))
    return out


def test_attention_rows_sum_to_one() -> None:
    attention = random_attention().attention(features(PATCH_GRID), features(CONTEXT_GRID))
    assert attention.shape == (BATCH, 6, 20)
    torch.testing.assert_close(attention.sum(-1), torch.ones(BATCH, 6))


@pytest.mark.parametrize("kind", OFFSETS)
def test_separable_position_term_equals_the_dense_softmax(kind: str) -> None:
    term, offsets = random_term(), OFFSETS[kind]()
    rows, columns = term.matrices(offsets)
    for index in range(BATCH):
        one = item(offsets, index)
        separable = torch.kron(*(m if m.dim() == 2 else m[index] for m in (rows, columns)))
        torch.testing.assert_close(separable, dense_position_map(term.weight, one), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", OFFSETS)
def test_separable_position_term_is_applied_as_the_dense_map(kind: str) -> None:
    term, offsets, value = random_term(), OFFSETS[kind](), features(CONTEXT_GRID)
    rows, columns = term.matrices(offsets)
    applied = apply_separable(rows, value, columns)
    for index in range(BATCH):
        dense = dense_position_map(term.weight, item(offsets, index)) @ tokens(value)[index]
        torch.testing.assert_close(applied[index].flatten(1).T, dense, rtol=1e-4, atol=1e-5)


def test_position_term_starts_around_the_cell_itself() -> None:
    term = PositionTerm()
    rows, _ = term.matrices(grid_offsets())
    assert rows.argmax(-1).tolist() == [0, 1, 2]
    assert term.share() == 0.5


@pytest.mark.parametrize("kind", OFFSETS)
def test_norm_is_the_identity(kind: str) -> None:
    layer, offsets = random_attention(), OFFSETS[kind]()
    assert layer.position is not None
    share = layer.position.share()
    attention = layer.attention(features(PATCH_GRID), features(CONTEXT_GRID))
    for index in range(BATCH):
        mixed = share * attention[index] + (1 - share) * dense_position_map(layer.position.weight, item(offsets, index))
        torch.testing.assert_close(mixed.sum(-1), torch.ones(6))


@pytest.mark.parametrize("scale_logits", [True, False])
@pytest.mark.parametrize("kind", [None, *OFFSETS])
def test_context_attention_equals_a_loop_over_cells(kind: str | None, scale_logits: bool) -> None:
    layer = random_attention(position="ground" if kind else None, scale_logits=scale_logits)
    x, u, offsets = features(PATCH_GRID), features(CONTEXT_GRID), OFFSETS[kind or "grid"]()
    expected = naive_attention(layer, x, u, offsets, 8**-0.5 if scale_logits else 1.0)
    torch.testing.assert_close(layer(x, u, offsets), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("biased", "changes"), [("key", False), ("query", True)])
def test_a_bias_of_the_key_changes_nothing(biased: str, changes: bool) -> None:
    layer = random_attention()
    x, u, offsets = features(PATCH_GRID), features(CONTEXT_GRID), ground_offsets()
    before = layer(x, u, offsets)
    conv = nn.Conv2d(CHANNELS, 8, 1)
    conv.weight = getattr(layer, biased).weight
    nn.init.normal_(conv.bias, std=3)
    setattr(layer, biased, conv)
    assert torch.allclose(layer(x, u, offsets), before, atol=1e-5) != changes


@pytest.mark.parametrize("fusion", [AdaptiveFusion(3, CHANNELS), WeightedFusion(3), AverageFusion()])
def test_fusion_weights_sum_to_one(fusion: nn.Module) -> None:
    for parameter in fusion.parameters():
        nn.init.normal_(parameter)
    same = features(PATCH_GRID)
    torch.testing.assert_close(fusion([same, same, same]), same)


def test_adaptive_fusion_equals_equations_3_and_4() -> None:
    fusion, members = AdaptiveFusion(3, CHANNELS), [features(PATCH_GRID) for _ in range(3)]
    for parameter in fusion.parameters():
        nn.init.normal_(parameter)
    expected = torch.zeros_like(members[0])
    for n, i, j in itertools.product(range(BATCH), range(PATCH_GRID[0]), range(PATCH_GRID[1])):
        stacked = torch.cat([member[n, :, i, j] for member in members])
        squeezed = torch.relu(fusion.squeeze.weight[:, :, 0, 0] @ stacked + fusion.squeeze.bias)
        logits = fusion.split.weight[:, :, 0, 0] @ squeezed + fusion.split.bias
        for c in range(CHANNELS):
            maps = torch.softmax(logits[[c, CHANNELS + c, 2 * CHANNELS + c]], dim=0)
            expected[n, c, i, j] = sum(h * member[n, c, i, j] for h, member in zip(maps, members, strict=True))
    torch.testing.assert_close(fusion(members), expected, rtol=1e-4, atol=1e-5)


def test_weighted_fusion_with_equal_logits_is_the_average() -> None:
    members = [features(PATCH_GRID) for _ in range(3)]
    weighted = WeightedFusion(3)
    nn.init.constant_(weighted.logits, 1.7)
    torch.testing.assert_close(weighted(members), AverageFusion()(members))


def test_weighted_fusion_weighs_by_the_softmax_of_its_logits() -> None:
    members = [features(PATCH_GRID) for _ in range(2)]
    weighted = WeightedFusion(2)
    weighted.logits.data = torch.tensor([0.0, 3.0]).log1p()  # shares 1/5 and 4/5
    torch.testing.assert_close(weighted(members), 0.2 * members[0] + 0.8 * members[1])


@pytest.mark.parametrize(
    ("kind", "count", "expected"),
    [
        ("adaptive", 3, AdaptiveFusion),
        ("weighted", 3, WeightedFusion),
        ("average", 3, AverageFusion),
        ("adaptive", 1, AverageFusion),
        ("weighted", 1, AverageFusion),
    ],
)
def test_one_member_needs_no_learned_weights(kind: str, count: int, expected: type[nn.Module]) -> None:
    names = ("local", "medium", "large")[:count]
    assert type(LocalityAwareContextFusion(names, CHANNELS, small_lcf(fusion=kind)).fusion) is expected


def test_lcf_fuses_every_member_with_its_own_attention() -> None:
    lcf = LocalityAwareContextFusion(("medium", "large"), CHANNELS, small_lcf(fusion="average"))
    x, contexts = features(PATCH_GRID), {name: features(CONTEXT_GRID) for name in ("medium", "large")}
    offsets = {"medium": ground_offsets(), "large": grid_offsets()}
    one, other = (lcf.attention[name](x, contexts[name], offsets[name]) for name in contexts)
    torch.testing.assert_close(lcf(x, contexts, offsets), (one + other) / 2)
