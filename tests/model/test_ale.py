from __future__ import annotations

from collections.abc import Callable

import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fctl.model.ale import (
    AlternatingLocalEnhancement,
    ConcatEnhancement,
    GroupDepthConv,
    LocalFeatureInteraction,
    enhancement,
)

from .helpers import small_ale

CHANNELS, WINDOWS = 18, (1, 3, 5, 7)  # 18 channels are divisible neither by 4 groups nor by 4 references
Block = Callable[..., Tensor]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def features() -> Tensor:
    return torch.randn(2, CHANNELS, 6, 5)


def ale(structure: str, reference: str | None = None, contexts: tuple[str, ...] = ("m", "l")) -> nn.Module:
    return enhancement(contexts, CHANNELS, small_ale(structure, reference))


def block(module: nn.Module, index: int, name: str) -> Block:
    """f of one round: block(target, *references)."""
    assert isinstance(module, AlternatingLocalEnhancement)
    layer = module.rounds[index][name]  # type: ignore[index]
    return lambda target, *references: layer(target, list(references))


def blocks_of(module: nn.Module) -> int:
    return sum(isinstance(part, LocalFeatureInteraction) for part in module.modules())


def test_group_depth_conv_equals_a_convolution_per_channel() -> None:
    layer, x = GroupDepthConv(CHANNELS, WINDOWS), features()
    sizes, sides = (5, 5, 4, 4), [1] * 5 + [3] * 5 + [5] * 4 + [7] * 4
    kernels = [kernel for conv in layer.groups for kernel in conv.weight]  # type: ignore[union-attr]
    biases = torch.cat([conv.bias for conv in layer.groups])  # type: ignore[union-attr, misc]
    expected = [
        F.conv2d(F.pad(x[:, c : c + 1], [side // 2] * 4), kernels[c][None], biases[c : c + 1])
        for c, side in enumerate(sides)
    ]
    assert tuple(layer.sizes) == sizes
    torch.testing.assert_close(layer(x), torch.cat(expected, dim=1))


@pytest.mark.parametrize(("references", "parts"), [(1, [18]), (2, [9, 9]), (3, [6, 6, 6]), (4, [5, 5, 4, 4])])
def test_references_share_the_channels_evenly(references: int, parts: list[int]) -> None:
    layer = LocalFeatureInteraction(references, CHANNELS, WINDOWS)
    tokenised = [conv(features()) for conv in layer.references]
    assert [tokens.shape[1] for tokens in tokenised] == parts
    assert layer(features(), [features()] * references).shape == (2, CHANNELS, 6, 5)


@pytest.mark.parametrize("references", [1, 2, 4])
def test_interaction_equals_equations_6_and_7(references: int) -> None:
    layer = LocalFeatureInteraction(references, CHANNELS, WINDOWS)
    target, others = features(), [features() for _ in range(references)]
    tokens = [
        torch.einsum("oc,nchw->nohw", conv.weight[:, :, 0, 0], other) + conv.bias.reshape(-1, 1, 1)
        for conv, other in zip(layer.references, others, strict=True)
    ]
    tokenised = layer.target(target)
    expected = tokenised + layer.enhance(torch.cat(tokens, dim=1)) * tokenised
    torch.testing.assert_close(layer(target, others), expected)


def test_structure_a_is_first_order_with_one_reference() -> None:
    module, i, m, l_ = ale("a", "l"), features(), features(), features()
    torch.testing.assert_close(module(i, {"m": m, "l": l_}), block(module, 0, "local")(i, l_))


def test_structure_b_is_second_order_with_one_reference() -> None:
    module, i, m, l_ = ale("b", "m"), features(), features(), features()
    i1, m1 = block(module, 0, "local")(i, m), block(module, 0, "m")(m, i)
    torch.testing.assert_close(module(i, {"m": m, "l": l_}), block(module, 1, "local")(i1, m1))


def test_structure_c_is_first_order_with_both() -> None:
    module, i, m, l_ = ale("c"), features(), features(), features()
    torch.testing.assert_close(module(i, {"m": m, "l": l_}), block(module, 0, "local")(i, m, l_))


def test_structure_d_is_second_order_with_both() -> None:
    module, i, m, l_ = ale("d"), features(), features(), features()
    i1 = block(module, 0, "local")(i, m, l_)
    m1 = block(module, 0, "m")(m, i, l_)
    l1 = block(module, 0, "l")(l_, i, m)
    torch.testing.assert_close(module(i, {"m": m, "l": l_}), block(module, 1, "local")(i1, m1, l1))


def test_structure_e_is_third_order_with_both() -> None:
    module, i, m, l_ = ale("e"), features(), features(), features()
    found = module(i, {"m": m, "l": l_})
    for index in range(2):
        i, m, l_ = (
            block(module, index, "local")(i, m, l_),
            block(module, index, "m")(m, i, l_),
            block(module, index, "l")(l_, i, m),
        )
    torch.testing.assert_close(found, block(module, 2, "local")(i, m, l_))


def test_one_context_is_the_only_reference_of_structure_d() -> None:
    module, i, m = ale("d", contexts=("m",)), features(), features()
    i1, m1 = block(module, 0, "local")(i, m), block(module, 0, "m")(m, i)
    torch.testing.assert_close(module(i, {"m": m}), block(module, 1, "local")(i1, m1))


def test_concat_mixes_the_patch_and_every_context() -> None:
    module, i, m, l_ = ale("concat"), features(), features(), features()
    assert isinstance(module, ConcatEnhancement)
    weight = module.mix.weight[:, :, 0, 0]
    stacked = torch.cat([i, m, l_], dim=1)
    expected = torch.einsum("oc,nchw->nohw", weight, stacked) + module.mix.bias.reshape(-1, 1, 1)
    torch.testing.assert_close(module(i, {"l": l_, "m": m}), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("structure", "reference", "count"),
    [("a", "m", 1), ("b", "m", 3), ("c", None, 1), ("d", None, 4), ("e", None, 7), ("concat", None, 0)],
)
def test_blocks_of_each_structure(structure: str, reference: str | None, count: int) -> None:
    assert blocks_of(ale(structure, reference)) == count


@pytest.mark.parametrize("structure", ["a", "b", "c", "d", "e"])
def test_enhancement_starts_no_larger_than_what_it_is_added_to(structure: str) -> None:
    module = ale(structure, "m" if structure in "ab" else None)
    x, cropped = 5 * features(), {name: 5 * features() for name in ("m", "l")}
    assert module(x, cropped).norm() < x.norm()


def test_every_block_has_weights_of_its_own() -> None:
    module, one = ale("e"), LocalFeatureInteraction(2, CHANNELS, WINDOWS)
    assert _parameters(module) == 7 * _parameters(one)


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
