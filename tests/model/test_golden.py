"""SegFormer against what its public implementation made of the same weights, VGG16 and FCN-8s against formulas."""

from __future__ import annotations

import copy
import logging
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

import pytest

pytest.importorskip("torch")

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fctl.model.backbones import BACKBONES, Backbone, backbone_class, stage_of
from fctl.model.backbones.vgg16 import Vgg16
from fctl.model.build import build
from fctl.model.config import ConfigError, NetworkConfig
from fctl.model.decoder import Fcn8sDecoder, SegFormerDecoder
from fctl.model.network import FCtL
from fctl.model.presets import narrow, preset
from fctl.model.weights.published import is_published_segformer, segformer_classes, segformer_weights
from fctl.runtime.errors import CheckpointError

from . import golden
from .golden import CLASSES, OBLONG, SQUARE, Array, Golden

State = dict[str, Tensor]


def assert_equal_numbers(found: Tensor, expected: Tensor | Array) -> None:
    """Equal but for the order of float32 sums."""
    reference = torch.as_tensor(expected, dtype=torch.float32)
    torch.testing.assert_close(found, reference, rtol=1e-4, atol=1e-5 * max(1.0, float(reference.abs().max())))


# --- SegFormer -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Published:
    """A golden file, the weights that were behind it, and our configuration of the same network."""

    golden: Golden
    state: State
    config: NetworkConfig

    def backbone(self, state: Mapping[str, Tensor], last: str = "s32") -> Backbone:
        """Our backbone with weights loaded as ImageNet's."""
        network = backbone_class(self.config.backbone)(bands=3, last=last, width=self.config.width)
        network.load_imagenet(state)
        return network.eval()


@cache
def published(name: str) -> Published:
    found = golden.read(name)
    return Published(
        golden=found,
        state={key: torch.from_numpy(golden.draw(key, shape)) for key, shape in found.shapes.items()},
        config=replace(narrow(preset(name, classes=CLASSES).network, golden.WIDTHS[name]), patch=SQUARE[0]),
    )


@pytest.fixture(params=golden.WIDTHS)
def segformer(request: pytest.FixtureRequest) -> Published:
    return published(request.param)


@pytest.fixture
def b0() -> Published:
    return published("segformer-b0")


def raw_pixels(size: tuple[int, int]) -> Tensor:
    return torch.from_numpy(golden.image(size).transpose(2, 0, 1))[None]


def scaled_pixels(size: tuple[int, int]) -> Tensor:
    """Pixels as SegFormer's public processor scales them."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (raw_pixels(size) / 255 - mean.reshape(3, 1, 1)) / std.reshape(3, 1, 1)


def with_published_weights(case: Published) -> FCtL:
    network = FCtL(case.config)
    network.load_state_dict(segformer_weights(network, case.state, "file.bin"))
    return network.eval()


def assert_golden_features(features: Mapping[str, Tensor], expected: Mapping[str, Array]) -> None:
    for name, stage in features.items():
        assert_equal_numbers(golden.kept(stage), expected[name])  # type: ignore[arg-type]


def test_segformers_features_equal_the_public_implementation(segformer: Published) -> None:
    with torch.inference_mode():
        features = with_published_weights(segformer).encoder.backbone(scaled_pixels(OBLONG))
    assert list(features) == list(segformer.golden.features) == ["s4", "s8", "s16", "s32"]
    assert_golden_features(features, segformer.golden.features)


def test_segformers_logits_from_raw_pixels_equal_the_public_implementation(segformer: Published) -> None:
    with torch.inference_mode():
        logits = with_published_weights(segformer)(raw_pixels(SQUARE), {})
    quarter = torch.from_numpy(segformer.golden.logits)[None]
    assert_equal_numbers(logits, F.interpolate(quarter, size=SQUARE, mode="bilinear", align_corners=False))


def test_every_published_tensor_is_loaded_once(segformer: Published) -> None:
    loaded = segformer_weights(FCtL(segformer.config), segformer.state, "file.bin")
    assert contents(loaded) == contents(segformer.state)
    assert max(contents(loaded).values()) == 1


def test_a_network_that_is_shown_the_whole_image_reads_the_same_file(b0: Published) -> None:
    whole = preset("segformer-b0-whole", classes=CLASSES).network
    with torch.device("meta"):
        network = build(whole)
    loaded, expected = (segformer_weights(one, b0.state, "file.bin") for one in (network, FCtL(b0.config)))
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in loaded.items())


def test_biases_of_keys_find_their_place(segformer: Published) -> None:
    # No output shows them: a number added to all scores alike does not change a softmax.
    network = with_published_weights(segformer).encoder.backbone.state_dict()
    backbone = segformer.backbone(segformer.state).state_dict()
    biases = {key: tensor for key, tensor in segformer.state.items() if key.endswith("key.bias")}
    assert biases
    for key, bias in biases.items():
        level, block = re.findall(r"\d+", key)
        ours = f"levels.s{4 << int(level)}.blocks.{block}.attention.key.bias"
        assert torch.equal(network[ours], bias) and torch.equal(backbone[ours], bias)


def contents(state: Mapping[str, Tensor]) -> Counter[bytes]:
    return Counter(tensor.numpy().tobytes() for tensor in state.values())


def encoder_alone(state: State) -> State:
    """As transformers saves an encoder that was trained on ImageNet."""
    encoder = {key: tensor for key, tensor in state.items() if key.startswith("segformer.encoder.")}
    return encoder | {"classifier.weight": torch.zeros(1000, 256), "classifier.bias": torch.zeros(1000)}


def bare_encoder(state: State) -> State:
    return {key.removeprefix("segformer.encoder."): tensor for key, tensor in encoder_alone(state).items()}


@pytest.mark.parametrize("layout", [dict, encoder_alone, bare_encoder])
def test_imagenets_segformer_equals_the_public_implementation(segformer: Published, layout: type[State]) -> None:
    with torch.inference_mode():
        features = segformer.backbone(layout(segformer.state))(scaled_pixels(OBLONG))
    assert list(features) == ["s4", "s8", "s16", "s32"]
    assert_golden_features(features, segformer.golden.features)


@pytest.mark.parametrize("last", ["s4", "s8", "s16"])
def test_imagenets_segformer_loads_into_truncated_encoders(b0: Published, last: str) -> None:
    with torch.inference_mode():
        features = b0.backbone(encoder_alone(b0.state), last)(scaled_pixels(OBLONG))
    assert list(features)[-1] == last
    assert_golden_features(features, b0.golden.features)


def test_imagenets_segformer_is_loaded_strictly(b0: Published) -> None:
    encoder, key = encoder_alone(b0.state), "segformer.encoder.block.2.1.mlp.dwconv.dwconv.weight"
    with pytest.raises(RuntimeError, match=r"Missing key.*levels\.s16\.blocks\.1\.mlp\.depthwise\.weight"):
        b0.backbone({name: tensor for name, tensor in encoder.items() if name != key})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*block\.2\.2\.mlp\.dense1\.bias"):
        b0.backbone({**encoder, "segformer.encoder.block.2.2.mlp.dense1.bias": torch.zeros(640)})
    with pytest.raises(RuntimeError, match=r"size mismatch for levels\.s16\.blocks\.1\.mlp\.depthwise\.weight"):
        b0.backbone({**encoder, key: torch.zeros(640, 1, 5, 5)})
    with pytest.raises(ConfigError, match="have 3 bands"):
        backbone_class("mit_b0")(bands=4, last="s4").load_imagenet(encoder)


def test_a_published_segformer_is_known_by_its_keys(b0: Published) -> None:
    assert is_published_segformer(b0.state)
    assert segformer_classes(b0.state) == CLASSES
    assert is_published_segformer(encoder_alone(b0.state))
    assert segformer_classes(encoder_alone(b0.state)) is None
    assert not is_published_segformer(FCtL(b0.config).state_dict())


def complaint_about(case: Published, state: Mapping[str, Tensor]) -> str:
    with pytest.raises(CheckpointError) as caught:
        segformer_weights(FCtL(case.config), state, "file.bin")
    message = str(caught.value)
    assert message.startswith("file.bin: not a SegFormer like mit_b0: ")
    assert "\n" not in message
    return message


def test_a_missing_an_unknown_and_a_misshapen_key_are_named(b0: Published) -> None:
    missing, misshapen = "segformer.encoder.layer_norm.3.bias", "decode_head.linear_c.1.proj.weight"
    state = {key: tensor for key, tensor in b0.state.items() if key != missing}
    state |= {"decode_head.linear_c.4.proj.bias": torch.zeros(256), misshapen: torch.zeros(256, 64, 1, 1)}
    problems = complaint_about(b0, state).removeprefix("file.bin: not a SegFormer like mit_b0: ")
    assert problems.split("; ")[:3] == [
        "segformer.encoder.layer_norm.3.bias (missing)",
        "decode_head.linear_c.1.proj.weight (256, 64, 1, 1), expected (256, 64)",
        "decode_head.linear_c.4.proj.bias (unknown)",
    ]
    assert problems.count("decode_head") + problems.count("segformer.") == 3


@pytest.mark.parametrize("name", ["segformer-b1", "segformer-b2"])
def test_weights_of_another_size_are_refused(b0: Published, name: str) -> None:
    network = FCtL(narrow(preset(name, classes=CLASSES).network, 0.125))
    with pytest.raises(CheckpointError, match=r"not a SegFormer like mit_b[12]: .* and \d+ more"):
        segformer_weights(network, b0.state, "file.bin")


@pytest.mark.parametrize(("dropped", "more"), [(10, None), (11, 1), (13, 3)])
def test_ten_problems_are_named_and_the_rest_counted(b0: Published, dropped: int, more: int | None) -> None:
    message = complaint_about(b0, dict(list(b0.state.items())[dropped:]))
    assert message.count("(missing)") == 10
    assert re.findall(r" and (\d+) more", message) == ([] if more is None else [str(more)])


@pytest.mark.parametrize("way", ["whole", "encoder"])
def test_a_licence_for_other_than_commercial_use_is_pointed_at(
    b0: Published, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    with caplog.at_level(logging.WARNING):
        if way == "whole":
            segformer_weights(FCtL(b0.config), b0.state, "file.bin")
        else:
            b0.backbone(b0.state)
    (warning,) = caplog.records
    assert warning.levelno == logging.WARNING
    assert "non-commercial use only" in warning.getMessage()


def lively_segformer_decoder() -> tuple[SegFormerDecoder, dict[str, Tensor]]:
    """A decoder in which everything matters, and features for it."""
    torch.manual_seed(0)
    channels = {"s4": 8, "s8": 16, "s16": 24, "s32": 32}
    decoder = SegFormerDecoder(channels, 12, CLASSES)
    for tensor in (*decoder.parameters(), decoder.fuse.bn.running_mean):
        nn.init.normal_(tensor, std=0.5)  # type: ignore[arg-type]
    nn.init.uniform_(decoder.fuse.bn.running_var, 0.3, 3)  # type: ignore[arg-type]
    sides = {"s4": 16, "s8": 8, "s16": 4, "s32": 2}
    features = {name: torch.randn(2, count, sides[name], sides[name]) for name, count in channels.items()}
    return decoder, {name: x.requires_grad_() for name, x in features.items()}


def naive_segformer_decoder(decoder: SegFormerDecoder, features: Mapping[str, Tensor], size: int) -> Tensor:
    """SegFormer's head as it is described: project, upsample, concatenate, fuse."""
    x = torch.cat(
        [enlarged(decoder.project[name](features[name]), 16) for name in ("s32", "s16", "s8", "s4")],
        dim=1,
    )
    return enlarged(decoder.score(F.relu(decoder.fuse.bn(decoder.fuse.conv(x)))), size)


def enlarged(x: Tensor, size: int) -> Tensor:
    return F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)


@pytest.mark.parametrize("training", [True, False])
def test_the_merged_segformer_decoder_equals_the_naive_one(training: bool) -> None:
    decoder, features = lively_segformer_decoder()
    decoder.train(training)
    twin, twins_features = copy.deepcopy(decoder), {name: x.detach().clone() for name, x in features.items()}
    twins_features = {name: x.requires_grad_() for name, x in twins_features.items()}
    logits, expected = decoder(features, 64), naive_segformer_decoder(twin, twins_features, 64)
    assert_equal_numbers(logits, expected.detach())
    weights = torch.randn_like(logits)
    for result in (logits, expected):
        (result * weights).sum().backward()
    for (name, ours), theirs in zip(decoder.named_parameters(), twin.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None, name
        assert_equal_gradients(ours.grad, theirs.grad, floor=100 if is_drowned(name, training) else 0)
    for name, x in features.items():
        assert_equal_gradients(x.grad, twins_features[name].grad)
    for (name, ours), theirs in zip(decoder.named_buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=name)  # running statistics


def is_drowned(name: str, training: bool) -> bool:
    """Biases before a norm with the batch's statistics: the norm takes them out, their gradient is noise about 0."""
    return training and name.startswith("project.") and name.endswith(".bias")


def assert_equal_gradients(found: Tensor | None, expected: Tensor | None, floor: float = 0) -> None:
    assert found is not None and expected is not None
    scale = max(float(expected.abs().max()), floor)
    assert scale > 0
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * scale)


# --- VGG16 and FCN-8s ------------------------------------------------------------------------------------------------

WIDTH = 1 / 16
STAGE_AFTER = {16: "pool3", 23: "pool4", 30: "pool5"}  # layers of torchvision's `features`
POOLS = (4, 9, *STAGE_AFTER)
INPUTS = {0: 3, 2: 8, 5: 8, 7: 8, 10: 8, 12: 16, 14: 16, 17: 16, 19: 32, 21: 32, 24: 32, 26: 32, 28: 32}
OUTPUTS = {0: 8, 2: 8, 5: 8, 7: 8, 10: 16, 12: 16, 14: 16, 17: 32, 19: 32, 21: 32, 24: 32, 26: 32, 28: 32}


@cache
def torchvision_vgg16() -> State:
    """A sixteenth of torchvision's VGG16, whose features do not fade on their way."""
    shapes: dict[str, tuple[int, ...]] = {}
    for index, outputs in OUTPUTS.items():
        shapes |= {f"features.{index}.weight": (outputs, INPUTS[index], 3, 3), f"features.{index}.bias": (outputs,)}
    for index, (outputs, inputs) in {0: (6, 9), 3: (6, 6), 6: (4, 6)}.items():
        shapes |= {f"classifier.{index}.weight": (outputs, inputs), f"classifier.{index}.bias": (outputs,)}
    gains = {4: 2**0.5, 2: 1, 1: 1}  # half of what a ReLU sees is lost
    return {key: gains[len(shape)] * torch.from_numpy(golden.draw(key, shape)) for key, shape in shapes.items()}


def vgg16(state: Mapping[str, Tensor], last: str = "pool5") -> Vgg16:
    network = Vgg16(bands=3, last=last, width=WIDTH)
    network.load_imagenet(state)
    return network.eval()


def naive_vgg16(x: Array) -> dict[str, Array]:
    """(3, H, W) -> {stage: (C, h, w)}: torchvision's layers, the first with 100 pixels of padding."""
    state, features = {key: tensor.double().numpy() for key, tensor in torchvision_vgg16().items()}, {}
    for index in range(31):
        if index in POOLS:
            x = naive_pool(x)
        elif index in OUTPUTS:
            x = naive_conv(x, state, f"features.{index}", padding=1 if index else 100)
        else:
            x = np.maximum(x, 0)
        if index in STAGE_AFTER:
            features[STAGE_AFTER[index]] = x
    return features


def naive_conv(x: Array, state: Mapping[str, Array], name: str, padding: int = 0) -> Array:
    """(C, H, W) -> (C', h, w), one position of the kernel after another."""
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    kernel = weight.shape[-1]
    height, width = x.shape[1] - kernel + 1, x.shape[2] - kernel + 1
    y = np.zeros((len(weight), height, width)) + bias[:, None, None]
    for row in range(kernel):
        for column in range(kernel):
            y += np.tensordot(weight[:, :, row, column], x[:, row : row + height, column : column + width], axes=1)
    return y


def naive_pool(x: Array) -> Array:
    """The greatest of two by two, fewer at the end of an odd side."""
    x = np.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2)), constant_values=-np.inf)
    quarters = [x[:, row::2, column::2] for row in range(2) for column in range(2)]
    greatest: Array = np.max(quarters, axis=0)
    return greatest


def naive_deconvolution(x: Array, weight: Array, stride: int) -> Array:
    """Every cell strews the kernel, its own number of times: (C, h, w) and (C, C', k, k) -> (C', H, W)."""
    _, height, width = x.shape
    kernel = weight.shape[-1]
    y = np.zeros((weight.shape[1], stride * (height - 1) + kernel, stride * (width - 1) + kernel))
    for row in range(height):
        for column in range(width):
            top, left = stride * row, stride * column
            y[:, top : top + kernel, left : left + kernel] += np.tensordot(x[:, row, column], weight, axes=1)
    return y


def naive_fcn8s(features: Mapping[str, Array], state: Mapping[str, Array], size: int) -> Array:
    """FCN-8s as released, from features (C, h, w) to logits (classes, size, size)."""
    x = np.maximum(naive_conv(features["pool5"], state, "conv6"), 0)
    x = np.maximum(naive_conv(x, state, "conv7"), 0)
    x = naive_deconvolution(naive_conv(x, state, "score"), state["up_score.weight"], 2)
    x = x + naive_crop(naive_conv(0.01 * features["pool4"], state, "score_pool4"), 5, x.shape[1])
    x = naive_deconvolution(x, state["up_pool4.weight"], 2)
    x = x + naive_crop(naive_conv(0.0001 * features["pool3"], state, "score_pool3"), 9, x.shape[1])
    return naive_crop(naive_deconvolution(x, state["up_final.weight"], 8), 31, size)


def naive_crop(x: Array, start: int, count: int) -> Array:
    cropped = x[:, start : start + count, start : start + count]
    assert cropped.shape[1:] == (count, count)
    return cropped


@pytest.mark.parametrize("size", [(64, 83), (75, 64)])
def test_vgg16_equals_its_formulas(size: tuple[int, int]) -> None:
    x = golden.image(size).transpose(2, 0, 1) / 255
    with torch.inference_mode():
        features = vgg16(torchvision_vgg16())(torch.from_numpy(x)[None].float())
    expected = naive_vgg16(x)
    assert list(features) == list(expected) == ["pool3", "pool4", "pool5"]
    for name, stage in features.items():
        assert_equal_numbers(stage[0], expected[name])


@pytest.mark.parametrize("last", ["pool3", "pool4"])
def test_imagenets_vgg16_loads_into_truncated_encoders(last: str) -> None:
    x = torch.from_numpy(golden.image((64, 64)).transpose(2, 0, 1))[None] / 255
    with torch.inference_mode():
        features, whole = vgg16(torchvision_vgg16(), last)(x), vgg16(torchvision_vgg16())(x)
    assert list(features)[-1] == last
    assert all(torch.equal(stage, whole[name]) for name, stage in features.items())


def test_imagenets_vgg16_is_loaded_strictly() -> None:
    state = torchvision_vgg16()
    with pytest.raises(RuntimeError, match=r"Missing key.*blocks\.pool4\.2\.bias"):
        vgg16({key: tensor for key, tensor in state.items() if key != "features.19.bias"})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*blocks\.pool5\.6\.weight"):
        vgg16({**state, "features.30.weight": torch.zeros(1)})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*head\.weight"):
        vgg16({**state, "head.weight": torch.zeros(1)})
    with pytest.raises(RuntimeError, match=r"size mismatch for blocks\.pool3\.0\.weight"):
        vgg16({**state, "features.0.weight": torch.zeros(8, 3, 5, 5)})
    with pytest.raises(ConfigError, match="have 3 bands, this network 4"):
        Vgg16(bands=4, last="pool3", width=WIDTH).load_imagenet(state)


def test_vgg16s_cells_at_the_papers_size() -> None:
    with torch.device("meta"):  # shapes without the arithmetic
        features = Vgg16(bands=3, last="pool5", width=WIDTH)(torch.zeros(1, 3, 508, 508))
    assert {name: tuple(x.shape[2:]) for name, x in features.items()} == {
        "pool3": (89, 89),
        "pool4": (45, 45),
        "pool5": (23, 23),
    }
    assert [Vgg16.grid(508, stage_of("vgg16", name)) for name in features] == [89, 45, 23]


@pytest.mark.parametrize("last", ["pool3", "pool4", "pool5"])
def test_vgg16s_cells_at_sizes_that_round_differently(last: str) -> None:
    with torch.device("meta"):
        network = Vgg16(bands=3, last=last, width=WIDTH)
        sides = {size: network(torch.zeros(1, 3, size, size))[last].shape[-1] for size in range(64, 96)}
    assert sides == {size: Vgg16.grid(size, stage_of("vgg16", last)) for size in sides}


# Against the factors 0.01 and 0.0001 of the skips, the ReLUs, and the few cells under a kernel of a deconvolution.
FCN8S_GAINS = {
    "conv6.weight": 4.0,
    "conv7.weight": 2.0,
    "score_pool4.weight": 200.0,
    "score_pool3.weight": 20_000.0,
    "up_score.weight": 2.0,
    "up_pool4.weight": 2.0,
    "up_final.weight": 8.0,
}


@cache
def fcn8s(size: int) -> FCtL:
    """FCN-8s for patches of that size, in which no part of the decoder drowns in another."""
    config = replace(narrow(preset("fcn8s-vgg16", classes=3).network, WIDTH), patch=size, decoder_channels=16)
    network = FCtL(config).eval()
    network.encoder.backbone.load_imagenet(torchvision_vgg16())
    with torch.no_grad():
        for key, parameter in network.decoder.named_parameters():
            drawn = golden.draw(f"decoder.{key}", tuple(parameter.shape))
            parameter.copy_(FCN8S_GAINS.get(key, 1.0) * torch.from_numpy(drawn))
    return network


@pytest.mark.parametrize("size", [64, 75, 98])  # pools round up in different places
def test_fcn8s_equals_its_formulas_from_raw_pixels(size: int) -> None:
    network, raw = fcn8s(size), golden.image((size, size)).transpose(2, 0, 1)
    state = {key: tensor.double().numpy() for key, tensor in network.decoder.state_dict().items()}
    with torch.inference_mode():
        logits = network(torch.from_numpy(raw)[None], {})[0]
    assert_equal_numbers(logits, naive_fcn8s(naive_vgg16(raw / 255), state, size))


@pytest.mark.parametrize("skip", ["pool3", "pool4", "pool5"])
def test_every_skip_of_fcn8s_is_felt(skip: str) -> None:
    # Else the comparison with the formulas would show no mistake in it.
    network = fcn8s(64)
    with torch.inference_mode():
        features = network.encoder(torch.from_numpy(golden.image((64, 64)).transpose(2, 0, 1))[None])
        logits = network.decoder(features, 64)
        without = network.decoder(features | {skip: torch.zeros_like(features[skip])}, 64)
    assert (logits - without).std() > 0.1 * logits.std()


@pytest.mark.parametrize(("layer", "kernel", "stride"), [("up_score", 4, 2), ("up_pool4", 4, 2), ("up_final", 16, 8)])
def test_fcn8s_starts_with_bilinear_deconvolutions(layer: str, kernel: int, stride: int) -> None:
    decoder = Fcn8sDecoder({"pool3": 8, "pool4": 8, "pool5": 8}, 8, 2)
    found = decoder.get_parameter(f"{layer}.weight")
    factor = (kernel + 1) // 2
    centre = factor - 1 if kernel % 2 else factor - 0.5
    expected = torch.zeros(2, 2, kernel, kernel)
    for row in range(kernel):
        for column in range(kernel):
            weight = (1 - abs(row - centre) / factor) * (1 - abs(column - centre) / factor)
            expected[0, 0, row, column] = expected[1, 1, row, column] = weight
    assert torch.equal(found, expected)
    assert not found.requires_grad
    assert decoder.get_submodule(layer).stride == (stride, stride)


def test_fcn8s_is_for_vgg16() -> None:
    with pytest.raises(ConfigError, match="needs stages pool3, pool4 and pool5, found s4, s8"):
        Fcn8sDecoder({"s4": 8, "s8": 8}, 8, 2)


# --- every backbone --------------------------------------------------------------------------------------------------

# Millions of parameters up to the classifier, as published. The depths of most MiT show nowhere else.
PARAMETERS = {"mit_b0": 3.3, "mit_b1": 13.2, "mit_b2": 24.2, "mit_b3": 44.1, "mit_b4": 60.8, "mit_b5": 81.4}
PARAMETERS |= {"vgg16": 14.7}


@pytest.mark.parametrize("name", PARAMETERS)
def test_backbones_are_as_large_as_published(name: str) -> None:
    with torch.device("meta"):
        network = backbone_class(name)(bands=3, last=backbone_class(name).stages[-1].name)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count / 1e6 == pytest.approx(PARAMETERS[name], abs=0.05)


@pytest.mark.parametrize("name", [name for name, kind in BACKBONES.items() if kind.resumes])
def test_resuming_at_a_stage_equals_going_through(name: str) -> None:
    kind = backbone_class(name)
    names = [stage.name for stage in kind.stages]
    torch.manual_seed(0)
    network = kind(bands=3, last=names[-1], width=1 / 8).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        features = network(x)
        assert list(features) == names
        for index, stage in enumerate(names):
            assert list(network(x, stage)) == names[: index + 1]
            resumed = network.resume(features[stage], stage)
            assert list(resumed) == names[index + 1 :]
            assert all(torch.equal(found, features[deeper]) for deeper, found in resumed.items())
            changed = network.resume(features[stage].flip(-1), stage)
            assert not any(torch.equal(found, features[deeper]) for deeper, found in changed.items())
