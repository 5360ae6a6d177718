"""VGG16 that computes only what depends on the image gives what the whole of it gives."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

import torch
from torch import nn

from fctl.export.framing import FramedVgg16, Span, framed
from fctl.export.graphs import frozen
from fctl.model.backbones.vgg16 import Vgg16
from fctl.model.presets import narrow, preset
from tests.model.helpers import inputs, lively, small_config

SIZES = [508, 254, 100, 33]


@pytest.fixture(scope="module")
def whole() -> Vgg16:
    """A narrow network of four bands, whose constant cells differ from channel to channel and towards the border."""
    torch.manual_seed(0)
    network = Vgg16(bands=4, last="pool5", width=0.125).eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            module.bias.normal_(0, 0.1)
    return network


@pytest.mark.parametrize("size", SIZES)
def test_features_are_those_of_the_whole(whole: Vgg16, size: int) -> None:
    less = FramedVgg16(whole, SIZES)
    image = torch.rand(2, 4, size, size)
    expected, found = whole(image), less(image)
    assert list(found) == list(expected)
    for name, features in expected.items():
        assert found[name].shape == features.shape
        assert (found[name] - features).abs().max() < 1e-5 * features.abs().max(), name
    assert list(less(image, "pool4")) == ["pool3", "pool4"]


def test_what_is_computed_depends_on_the_image_and_little_else(whole: Vgg16) -> None:
    """A third of the work of a patch of 508 pixels is saved: most of it in the first blocks."""
    plans = FramedVgg16(whole, [508]).plans[508]
    assert [plan.side for plan in plans] == [706, 353, 177, 89, 45]
    assert plans[0].given == Span(98, 608)
    with torch.no_grad():
        one, other = whole(torch.rand(1, 4, 508, 508)), whole(torch.rand(1, 4, 508, 508))
    for plan, name in zip(plans[2:], one, strict=True):
        differs = (one[name] != other[name]).any(dim=1)[0].any(dim=0).nonzero()
        first, last = int(differs.min()), int(differs.max())
        assert plan.made.start <= first <= plan.made.start + 1
        assert last < plan.made.stop <= last + 3
    work = [((plan.taken.stop - plan.taken.start) / plan.side) ** 2 for plan in plans]
    assert work[0] < 0.54 and work[1] < 0.57 and work[2] < 0.67


def test_only_vgg16_is_framed() -> None:
    network = frozen(lively(narrow(preset("fctl-vgg16", classes=3).network, 0.125)))
    arguments = inputs(network.config, batch=1)
    expected = network(*arguments)
    framed(network)
    assert all(isinstance(encoder.backbone, FramedVgg16) for encoder in network.encoders())
    assert (network(*arguments) - expected).abs().max() < 1e-4 * expected.abs().max()
    other = frozen(lively(small_config()))
    before = [type(encoder.backbone) for encoder in other.encoders()]
    framed(other)
    assert [type(encoder.backbone) for encoder in other.encoders()] == before
