"""U-Net, SegNet, PSPNet, DeepLab v3+ and ICNet against their descriptions and PyTorch's layers."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("torch")

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fctl.model.backbones import backbone_class
from fctl.model.config import ConfigError, NetworkConfig
from fctl.model.decoder import decoder
from fctl.model.layers import ConvBn
from fctl.model.mirrored import SegNetDecoder, UNetDecoder, unpool
from fctl.model.network import FCtL
from fctl.model.pooled import DeepLabDecoder, IcNetDecoder, PspDecoder, enlarged, pooled
from fctl.model.presets import preset
from fctl.model.train.losses import focal_loss
from fctl.runtime.evaluate.metrics import IGNORE

from .helpers import build, images, inputs, lively, small_config, small_preset

SYSTEMS = ("unet", "segnet-vgg16", "pspnet-r50", "deeplabv3plus-r50", "icnet-r50")
WIDTH = 1 / 8


def small(name: str) -> NetworkConfig:
    """A system an eighth as wide on patches of 96 pixels, so that no grid of pooled features is too small to tell."""
    return replace(small_preset(name), patch=96)


@pytest.mark.parametrize(("name", "count"), [("unet", 31_037_698), ("pspnet-r50", 46_582_850), ("segnet-vgg16", None)])
def test_systems_are_as_large_as_described(name: str, count: int | None) -> None:
    """U-Net as usual with batch norm; PSPNet by its layers; SegNet "about 29.5 million" as its paper says."""
    with torch.device("meta"):
        network = FCtL(preset(name, classes=2).network)
    found = sum(parameter.numel() for parameter in network.parameters())
    if count is None:
        assert found / 1e6 == pytest.approx(29.45, abs=0.05)
    else:
        assert found == count


# --- layers of decoders ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [2, 3, 1000], ids=lambda levels: f"{levels} levels")  # few levels: many ties
def test_unpooling_equals_pytorchs(levels: int) -> None:
    torch.manual_seed(0)
    fine = torch.randint(0, levels, (2, 3, 12, 16)).float()
    values, indices = F.max_pool2d(fine, 2, return_indices=True)
    other = torch.randn_like(values)
    for pooled_values in (values, other):
        assert torch.equal(unpool(pooled_values, fine), F.max_unpool2d(pooled_values, indices, 2))


def test_gradients_go_through_unpooling_as_through_pytorchs() -> None:
    torch.manual_seed(0)
    fine, weight = torch.randint(0, 3, (1, 2, 8, 8)).float(), torch.randn(1, 2, 8, 8)
    _, indices = F.max_pool2d(fine, 2, return_indices=True)
    ours, theirs = (torch.ones(1, 2, 4, 4, requires_grad=True) for _ in range(2))
    (unpool(ours, fine) * weight).sum().backward()
    (F.max_unpool2d(theirs, indices, 2) * weight).sum().backward()
    assert ours.grad is not None and theirs.grad is not None
    assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize("bins", [1, 2, 3, 6])
@pytest.mark.parametrize("size", [2, 7, 12, 16, 60, 64])
def test_pooling_to_bins_equals_pytorchs(size: int, bins: int) -> None:
    x = torch.randn(2, 3, size, size, dtype=torch.float64)
    torch.testing.assert_close(pooled(x, bins), nn.AdaptiveAvgPool2d(bins)(x))


@pytest.mark.parametrize("bins", [1, 2, 3, 6])
@pytest.mark.parametrize("size", [7, 12, 64])
def test_enlarging_bins_equals_pytorchs(size: int, bins: int) -> None:
    x = torch.randn(2, 3, bins, bins, dtype=torch.float64)
    torch.testing.assert_close(enlarged(x, size), bilinear(x, size))


def bilinear(x: Tensor, size: int) -> Tensor:
    return F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)


@pytest.mark.parametrize(("training", "padding"), [(True, (6, 6)), (False, (6, 6)), (True, (1, 3)), (False, (1, 3))])
def test_a_dilated_conv_bn_equals_convolution_then_norm(training: bool, padding: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = ConvBn(4, 8, 3, dilation=6, padding=None if padding == (6, 6) else padding)
    nn.init.uniform_(layer.bn.running_var, 0.3, 3)  # type: ignore[arg-type]
    layer.train(training)
    x = torch.randn(2, 4, 20, 21)
    before, after = padding
    convolved = F.conv2d(F.pad(x, (before, after, before, after)), layer.conv.weight, dilation=6)
    expected = nn.functional.batch_norm(
        convolved,
        layer.bn.running_mean.clone(),  # type: ignore[union-attr]
        layer.bn.running_var.clone(),  # type: ignore[union-attr]
        training=training,
    )
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_a_single_value_is_normalised_by_the_running_statistics() -> None:
    layer = ConvBn(4, 8, 1)
    nn.init.uniform_(layer.bn.running_mean, -1, 1)  # type: ignore[arg-type]
    x = torch.randn(1, 4, 1, 1)
    assert torch.equal(layer.train()(x), layer.eval()(x))
    layer.train()(torch.randn(2, 4, 1, 1))
    assert layer.bn.num_batches_tracked == 1


# --- whole networks --------------------------------------------------------------------------------------------------


def features_and_logits(name: str) -> tuple[FCtL, Tensor, dict[str, Tensor], Tensor]:
    """A lively network, scaled pixels, and what its encoder and its decoder make of them."""
    network = lively(small(name)).double()
    raw = images(1, 3, 96)
    scaled = (raw.double() - network.encoder.mean) / network.encoder.std
    with torch.inference_mode():
        return network, scaled, network.encoder(raw), network(raw, {})


def assert_equal(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))


def test_segnet_unpools_to_where_its_maxima_were() -> None:
    network, x, _, logits = features_and_logits("segnet-vgg16")
    assert isinstance(network.decoder, SegNetDecoder)
    places = []
    with torch.inference_mode():
        for level in network.encoder.backbone.levels.values():  # type: ignore[union-attr,operator]
            x = level(x) if not places else nn.Sequential(*list(level)[1:])(x)  # without its own pool
            x, indices = F.max_pool2d(x, 2, return_indices=True)
            places.append(indices)
        for level, indices in zip(network.decoder.levels.values(), reversed(places), strict=True):
            x = level(F.max_unpool2d(x, indices, 2))
        assert_equal(logits, network.decoder.score(x))
    assert [len(list(level.children())) for level in network.decoder.levels.values()] == [3, 3, 3, 2, 1]


def test_unet_appends_the_encoders_features_scale_by_scale() -> None:
    network, x, _, logits = features_and_logits("unet")
    part = network.decoder
    assert isinstance(part, UNetDecoder)
    skips = []
    with torch.inference_mode():
        for level in network.encoder.backbone.levels.values():  # type: ignore[union-attr,operator]
            x = level(x)
            skips.append(x)
        for name, skip in zip(("s8", "s4", "s2", "s1"), reversed(skips[:-1]), strict=True):
            up = part.up[name]
            x = torch.cat([skip, F.conv_transpose2d(x, up.weight, up.bias, stride=2)], dim=1)  # type: ignore[arg-type]
            x = part.join[name](x)
        assert_equal(logits, part.score(x))


def test_pspnet_concatenates_grids_of_1_2_3_and_6_bins() -> None:
    network, _, features, logits = features_and_logits("pspnet-r50")
    part, x = network.decoder, features["layer4"]
    assert isinstance(part, PspDecoder)
    assert x.shape[-1] == 96 // 8
    with torch.inference_mode():
        grids = [
            bilinear(part.grids[index].project(nn.AdaptiveAvgPool2d(bins)(x)), 12)  # type: ignore[union-attr,operator]
            for index, bins in enumerate((1, 2, 3, 6))
        ]
        assert_equal(logits, bilinear(part.score(part.fuse(torch.cat([x, *grids], dim=1))), 96))


def test_deeplab_joins_dilated_convolutions_and_the_mean_with_fine_features() -> None:
    network, _, features, logits = features_and_logits("deeplabv3plus-r50")
    part, x, fine = network.decoder, features["layer4"], features["layer1"]
    assert isinstance(part, DeepLabDecoder)
    assert (x.shape[-1], fine.shape[-1]) == (96 // 16, 96 // 4)
    one, *dilated, mean = part.branches
    with torch.inference_mode():
        seen = [one(x)]
        for branch, rate in zip(dilated, (6, 12, 18), strict=True):
            layer: ConvBn = branch[0]  # type: ignore[index,assignment]
            seen.append(F.relu(layer.bn(F.conv2d(x, layer.conv.weight, padding=rate, dilation=rate))))
        seen.append(mean.project(x.mean((2, 3), keepdim=True)).expand(-1, -1, 6, 6))  # type: ignore[union-attr,operator]
        y = torch.cat([bilinear(part.project(torch.cat(seen, dim=1)), 24), part.fine(fine)], dim=1)
        assert_equal(logits, bilinear(part.score(part.join(y)), 96))


def test_icnet_fuses_a_quarter_a_half_and_the_full_size() -> None:
    network, image, _, logits = features_and_logits("icnet-r50")
    part, resnet = network.decoder, network.encoder.backbone.resnet
    assert isinstance(part, IcNetDecoder)
    first, second, third, fourth = (list(level) for level in resnet.levels.values())  # type: ignore[union-attr,operator]
    with torch.inference_mode():
        half = nn.Sequential(*first, second[0])(bilinear(image, 48))
        x = nn.Sequential(*second[1:], *third, *fourth)(bilinear(half, 3))
        x = x + sum(bilinear(nn.AdaptiveAvgPool2d(bins)(x), 3) for bins in (1, 2, 3, 6))
        x = part.coarse(x)
        for fusion, branch in ((part.fuse_half, half), (part.fuse_full, network.encoder.backbone.full(image))):  # type: ignore[operator]
            x = F.relu(fusion.coarse(bilinear(x, branch.shape[-1])) + fusion.fine(branch))
        assert_equal(logits, bilinear(part.score(bilinear(x, 24)), 96))


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_stage_that_a_decoder_takes_is_felt(name: str) -> None:
    network, _, features, logits = features_and_logits(name)
    used = {"pspnet-r50": ["layer4"], "deeplabv3plus-r50": ["layer1", "layer4"]}.get(name, list(features))
    with torch.inference_mode():
        for stage in used:
            changed = network.decoder(features | {stage: features[stage].flip(-1)}, 96)
            assert (changed - logits).abs().max() > 1e-2 * logits.abs().max(), stage


# --- settings and training -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "needed"),
    [
        ("unet", "s1, s2, s4, s8, s16"),
        ("segnet", "conv1, conv2, conv3, conv4, conv5"),
        ("icnet", "full, half, quarter"),
    ],
)
def test_a_decoder_names_the_stages_that_it_needs(kind: str, needed: str) -> None:
    with pytest.raises(ConfigError, match=f"decoder '{kind}' needs stages {needed}, found s4, s8"):
        decoder(kind, {"s4": 8, "s8": 8}, 8, 2)


def test_icnet_cannot_resume() -> None:
    config = small("icnet-r50")
    with pytest.raises(ConfigError, match="'icnet_resnet50' computes no stage from another; set resume to false"):
        FCtL(replace(config, stage="half", channels=64, resume=True))
    backbone = build(config).encoder.backbone
    with pytest.raises(ConfigError, match="cannot be resumed"):
        backbone.resume(torch.zeros(1, 8, 8, 8), "full")


@pytest.mark.parametrize(
    ("name", "size", "nearest"),
    [("unet", 40, 48), ("vgg16_bn", 48, 64), ("resnet50_os8", 30, 32), ("icnet_resnet50", 0, 32)],
)
def test_a_size_that_a_stride_does_not_divide_is_refused(name: str, size: int, nearest: int) -> None:
    kind = backbone_class(name)
    with pytest.raises(ConfigError, match=f"found {size}; use {nearest}"):
        kind.check_size(size)
    kind.check_size(nearest)


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("batch", [1, 3])
def test_every_parameter_is_trained(name: str, batch: int) -> None:
    network = build(small(name)).train()
    logits = network(*inputs(network.config, batch=batch))
    (logits * torch.randn_like(logits)).sum().backward()
    unreached = [key for key, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert unreached == []


@pytest.mark.parametrize("name", SYSTEMS)
def test_two_steps_lower_the_loss(name: str) -> None:
    network = build(small(name)).train()
    patch, _, _ = inputs(network.config, batch=3)
    labels = (patch.float().mean(1) // 86).long()  # dark, middling or bright
    optimiser = torch.optim.Adam(network.parameters(), lr=5e-4)
    losses = []
    for _ in range(3):
        loss = focal_loss(network(patch, {}), labels, gamma=2.0, ignore=IGNORE)
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.98 * losses[0]


def test_a_residual_network_takes_contexts_too() -> None:
    config = small_config(backbone="resnet50", stage="layer3", width=WIDTH)
    network, (patch, contexts, _) = lively(config), inputs(config)
    with torch.inference_mode():
        logits = network(patch, contexts)
        for name, window in contexts.items():
            changed = network(patch, contexts | {name: window.flip(0)})
            assert (changed - logits).abs().max() > 1e-2 * logits.abs().max()
