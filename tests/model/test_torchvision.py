"""ResNet-50 and VGG16 with batch norm: torchvision's weights, loaded strictly, and its formulas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fctl.model.backbones import Backbone, backbone_class
from fctl.model.config import ConfigError, NetworkConfig
from fctl.model.train.start import start_network
from fctl.runtime.errors import CheckpointError, InputError

from .helpers import images, small_preset
from .torchvision_layouts import BLOCKS, LAYOUTS, VGG, Published, State, drawn, resnet50_shapes, vgg16_bn_shapes

Array = NDArray[np.float64]
WIDTH = 1 / 8


def small(name: str) -> NetworkConfig:
    return replace(small_preset(name), patch=96)


def loaded(name: str, state: Mapping[str, Tensor], last: str | None = None) -> Backbone:
    kind = backbone_class(name)
    network = kind(bands=3, last=last or kind.stages[-1].name, width=WIDTH)
    network.load_imagenet(state)
    return network.eval()


@pytest.mark.parametrize(("shapes", "count"), [(resnet50_shapes, 25_557_032), (vgg16_bn_shapes, 138_365_992)])
def test_the_layouts_here_are_as_large_as_torchvision_says(shapes: Published, count: int) -> None:
    trained = (shape for key, shape in shapes(1).items() if "running" not in key and "tracked" not in key)
    assert sum(int(np.prod(shape)) for shape in trained) == count


BIASES = 4224  # of VGG16's convolutions, which batch norm takes away again
SIZES = {"resnet50": 23_508_032, "resnet50_os16": 23_508_032, "resnet50_os8": 23_508_032}
SIZES |= {"vgg16_bn": 14_723_136 - BIASES}


@pytest.mark.parametrize("name", SIZES)
def test_published_weights_fit_the_network_at_full_width(name: str) -> None:
    kind = backbone_class(name)
    with torch.device("meta"):
        network = kind(bands=3, last=kind.stages[-1].name)
        state = {key: torch.zeros(shape) for key, shape in LAYOUTS[name](1).items()}
        network.load_imagenet(state)
    assert sum(parameter.numel() for parameter in network.parameters()) == SIZES[name]


FAULTS = {  # a key, and how an error names it
    "resnet50_os8": ("layer3.4.bn2.running_var", "levels.layer3.4.spatial.bn.running_var"),
    "icnet_resnet50": ("layer1.0.downsample.0.weight", "levels.layer1.2.shortcut.conv.weight"),
    "vgg16_bn": ("features.15.running_mean", "levels.conv3.1.bn.running_mean"),
}
STRANGERS = {
    "resnet50_os8": ("layer3.6.conv1.weight", "levels.layer3.6.reduce.conv.weight"),  # ResNet-101 has one
    "icnet_resnet50": ("layer1.0.se.weight", "layer1.0.se.weight"),
    "vgg16_bn": ("features.44.weight", "features.44.weight"),  # VGG19 has more
}


def small_preset_of(backbone: str) -> NetworkConfig:
    return small({"resnet50_os8": "pspnet-r50", "icnet_resnet50": "icnet-r50", "vgg16_bn": "segnet-vgg16"}[backbone])


def complaint(backbone: str, state: State, folder: Path) -> str:
    torch.save(state, folder / "published.pth")
    with pytest.raises(CheckpointError) as caught:
        start_network(small_preset_of(backbone), "published.pth", folder, seed=0)
    message = str(caught.value)
    assert message.startswith("network.weights: ")
    assert f"weights of {backbone}" in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("backbone", FAULTS)
def test_a_missing_key_is_named(backbone: str, tmp_path: Path) -> None:
    theirs, ours = FAULTS[backbone]
    state = drawn(LAYOUTS[backbone](WIDTH))
    del state[theirs]
    message = complaint(backbone, state, tmp_path)
    assert "Missing key" in message and ours in message


def test_a_missing_bias_of_vgg16_is_named(tmp_path: Path) -> None:
    state = drawn(vgg16_bn_shapes(WIDTH))
    del state["features.7.bias"]
    assert "Missing key features.7.bias" in complaint("vgg16_bn", state, tmp_path)


def test_a_misshapen_bias_of_vgg16_is_named(tmp_path: Path) -> None:
    state = drawn(vgg16_bn_shapes(WIDTH)) | {"features.7.bias": torch.zeros(1)}
    assert "size mismatch for features.7.bias: (1,), not (16,)" in complaint("vgg16_bn", state, tmp_path)


@pytest.mark.parametrize("backbone", STRANGERS)
def test_an_unknown_key_is_named(backbone: str, tmp_path: Path) -> None:
    theirs, ours = STRANGERS[backbone]
    message = complaint(backbone, drawn(LAYOUTS[backbone](WIDTH)) | {theirs: torch.zeros(8)}, tmp_path)
    assert "Unexpected key" in message and ours in message


@pytest.mark.parametrize("backbone", FAULTS)
def test_a_misshapen_key_is_named(backbone: str, tmp_path: Path) -> None:
    key = "features.0.weight" if backbone == "vgg16_bn" else "conv1.weight"
    state = drawn(LAYOUTS[backbone](WIDTH))
    state[key] = torch.zeros(8, 3, 5, 5)
    assert "size mismatch for levels." in complaint(backbone, state, tmp_path)


@pytest.mark.parametrize("backbone", FAULTS)
def test_a_file_of_published_weights_starts_a_training(backbone: str, tmp_path: Path) -> None:
    state = drawn(LAYOUTS[backbone](WIDTH))
    torch.save(state, tmp_path / "published.pth")
    network = start_network(small_preset_of(backbone), "published.pth", tmp_path, seed=0).eval()
    x = (images(1, 3, 96).float() - network.encoder.mean) / network.encoder.std
    with torch.inference_mode():
        found, expected = network.encoder.backbone(x), loaded(backbone, state)(x)
    deepest = list(expected)[-1]
    torch.testing.assert_close(found[deepest], expected[deepest])


def test_imagenets_weights_have_three_bands() -> None:
    for name in ("resnet50", "vgg16_bn", "icnet_resnet50"):
        kind = backbone_class(name)
        with pytest.raises(ConfigError, match="have 3 bands, this network 4"):
            kind(bands=4, last=kind.stages[0].name, width=WIDTH).load_imagenet({})


def test_unet_has_no_published_weights(tmp_path: Path) -> None:
    torch.save(drawn(vgg16_bn_shapes(WIDTH)), tmp_path / "published.pth")
    with pytest.raises(InputError, match="no published ImageNet weights of unet"):
        start_network(small("unet"), "published.pth", tmp_path, seed=0)


@pytest.mark.parametrize(("name", "last"), [("resnet50", "layer2"), ("vgg16_bn", "conv3"), ("icnet_resnet50", "half")])
def test_published_weights_load_into_truncated_encoders(name: str, last: str) -> None:
    state, x = drawn(LAYOUTS[name](WIDTH)), torch.randn(1, 3, 64, 64)
    torch.manual_seed(0)
    short = loaded(name, state, last)
    torch.manual_seed(0)
    whole = loaded(name, state)
    with torch.inference_mode():
        features, expected = short(x), whole(x)
    assert list(features)[-1] == last
    assert torch.equal(features[last], expected[last])


def naive_conv(x: Array, weight: Array, *, stride: int = 1, dilation: int = 1) -> Array:
    """(C, H, W) -> (C', h, w), one position of the kernel after another; padded by half of what it spans."""
    kernel = weight.shape[-1]
    margin = dilation * (kernel // 2)
    x = np.pad(x, ((0, 0), (margin, margin), (margin, margin)))
    span = dilation * (kernel - 1)
    height, width = ((side - span - 1) // stride + 1 for side in x.shape[1:])
    y = np.zeros((len(weight), height, width))
    for row in range(kernel):
        for column in range(kernel):
            top, left = dilation * row, dilation * column
            seen = x[:, top : top + stride * height : stride, left : left + stride * width : stride]
            y += np.tensordot(weight[:, :, row, column], seen, axes=1)
    return y


def naive_norm(x: Array, state: Mapping[str, Array], key: str) -> Array:
    mean, var, weight, bias = (
        state[f"{key}.{name}"][:, None, None] for name in ("running_mean", "running_var", "weight", "bias")
    )
    y: Array = (x - mean) / np.sqrt(var + 1e-5) * weight + bias
    return y


def naive_resnet50(x: Array, state: Mapping[str, Array], dilated: tuple[bool, bool]) -> dict[str, Array]:
    """(3, H, W) -> features by stage. dilated: Whether the third and the fourth stage keep the grid before them."""
    x = np.maximum(naive_norm(naive_conv(x, state["conv1.weight"], stride=2), state, "bn1"), 0)
    x = np.pad(x, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    height, width = (x.shape[1] - 1) // 2, (x.shape[2] - 1) // 2
    x = np.max(
        [x[:, r : r + 2 * height : 2, c : c + 2 * width : 2] for r in range(3) for c in range(3)],
        axis=0,
    )
    features, dilation = {}, 1
    for layer, blocks in enumerate(BLOCKS, start=1):
        wide = layer > 2 and dilated[layer - 3]
        for block in range(blocks):
            stride = 2 if block == 0 and layer > 1 and not wide else 1
            x = naive_bottleneck(x, state, f"layer{layer}.{block}", stride, dilation)
            if block == 0 and wide:
                dilation *= 2
        features[f"layer{layer}"] = x
    return features


def naive_bottleneck(x: Array, state: Mapping[str, Array], key: str, stride: int, dilation: int) -> Array:
    y = np.maximum(naive_norm(naive_conv(x, state[f"{key}.conv1.weight"]), state, f"{key}.bn1"), 0)
    y = naive_conv(y, state[f"{key}.conv2.weight"], stride=stride, dilation=dilation)
    y = np.maximum(naive_norm(y, state, f"{key}.bn2"), 0)
    y = naive_norm(naive_conv(y, state[f"{key}.conv3.weight"]), state, f"{key}.bn3")
    if f"{key}.downsample.0.weight" in state:
        shortcut = naive_conv(x, state[f"{key}.downsample.0.weight"], stride=stride)
        x = naive_norm(shortcut, state, f"{key}.downsample.1")
    return np.maximum(x + y, 0)


def as_arrays(state: State) -> dict[str, Array]:
    return {key: tensor.double().numpy() for key, tensor in state.items()}


DILATED = {"resnet50": (False, False), "resnet50_os16": (False, True), "resnet50_os8": (True, True)}


@pytest.mark.parametrize("name", DILATED)
def test_resnet50_equals_its_formulas(name: str) -> None:
    state = drawn(resnet50_shapes(WIDTH))
    x = torch.randn(1, 3, 64, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features = loaded(name, state).double()(x)
    expected = naive_resnet50(x[0].numpy(), as_arrays(state), DILATED[name])
    assert list(features) == list(expected)
    for stage, found in features.items():
        np.testing.assert_allclose(found[0].numpy(), expected[stage], rtol=1e-9, atol=1e-9 * expected[stage].max())


def test_vgg16_with_batch_norm_equals_its_formulas() -> None:
    state = drawn(vgg16_bn_shapes(WIDTH))
    image = torch.randn(1, 3, 64, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features = loaded("vgg16_bn", state).double()(image)
    arrays, x, found = as_arrays(state), image[0].numpy(), []
    for index in VGG:
        if index in (7, 14, 24, 34):  # a pool comes before these
            found.append(x)
            x = np.max([x[:, row::2, column::2] for row in range(2) for column in range(2)], axis=0)
        bias = arrays[f"features.{index}.bias"][:, None, None]
        x = naive_conv(x, arrays[f"features.{index}.weight"]) + bias
        x = np.maximum(naive_norm(x, arrays, f"features.{index + 1}"), 0)
    for stage, expected in zip(features.values(), [*found, x], strict=True):
        np.testing.assert_allclose(stage[0].numpy(), expected, rtol=1e-6, atol=1e-6 * expected.max())


def test_a_refiner_takes_published_weights_for_the_bands_of_its_image(tmp_path: Path) -> None:
    state = drawn(resnet50_shapes(WIDTH))
    torch.save(state, tmp_path / "published.pth")
    config = small("cascadepsp-r50")
    backbone = start_network(config, "published.pth", tmp_path, seed=0).eval().encoder.backbone  # type: ignore[union-attr]
    random = start_network(config, None, tmp_path, seed=0).encoder.backbone  # type: ignore[union-attr]
    first = "levels.layer1.0.0.conv.weight"
    weights = backbone.state_dict()[first]
    torch.testing.assert_close(weights[:, :3], state["conv1.weight"])
    torch.testing.assert_close(weights[:, 3:], random.state_dict()[first][:, 3:])
    image = images(1, 3, 96).float() / 100
    with torch.inference_mode():
        found = backbone(torch.cat([image, torch.zeros(1, 3, 96, 96)], dim=1))["layer4"]
        torch.testing.assert_close(found, loaded("resnet50_os8", state)(image)["layer4"])
