"""VGG16 with batch norm, the encoder of SegNet: its stages are what each of the five pools takes.

A pool's maxima lie where the features before it are largest. So whoever has a stage knows both the pooled features and
the places that SegNet's decoder needs.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from ..layers import ConvBn
from .base import Stage, scaled
from .chain import PublishedChain, check_divisible

_CONVOLUTIONS = (2, 2, 3, 3, 3)
_CHANNELS = (64, 128, 256, 512, 512)


class Vgg16Bn(PublishedChain):
    """VGG16 with batch norm and the stages conv1 (64 channels), conv2 (128), conv3 (256), conv4 (512), conv5 (512)."""

    stages = tuple(
        Stage(name=f"conv{index + 1}", channels=channels, stride=1 << index, offset=((1 << index) - 1) / 2)
        for index, channels in enumerate(_CHANNELS)
    )

    @classmethod
    def level(cls, index: int, inputs: int, width: float) -> tuple[nn.Module, int]:
        """A maximum of 2x2 pixels, except at the finest scale, and convolutions, see `Chain`."""
        outputs = scaled(_CHANNELS[index], width)
        layers: list[nn.Module] = [nn.MaxPool2d(2)] if index else []
        for _ in range(_CONVOLUTIONS[index]):
            layers += [ConvBn(inputs, outputs, 3), nn.ReLU()]
            inputs = outputs
        return nn.Sequential(*layers), outputs

    @classmethod
    def check_size(cls, size: int) -> None:
        """SegNet pools the last stage once more: a pool takes even sides."""
        check_divisible(cls, size, 2 * cls.stages[-1].stride)

    def renamed(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename torchvision's ``vgg16_bn``, see `PublishedChain`.

        Its convolutions have biases, which batch norm takes away again: here the running mean is less by as much.
        """
        found = {_rename(key): value for key, value in state.items() if not key.startswith("classifier.")}
        for theirs, layer in _LAYERS.items():
            bias, mean = found.pop(f"{layer}.conv.bias", None), found.get(f"{layer}.bn.running_mean")
            if bias is None:
                raise RuntimeError(f"Missing key {theirs}.bias")
            if mean is not None and bias.shape != mean.shape:
                raise RuntimeError(f"size mismatch for {theirs}.bias: {tuple(bias.shape)}, not {tuple(mean.shape)}")
            if mean is not None:
                found[f"{layer}.bn.running_mean"] = mean - bias
        return found


def _layers() -> dict[str, str]:
    """The names here of torchvision's convolutions; each is followed by its batch norm and a ReLU."""
    names, theirs = {}, 0
    for index, convolutions in enumerate(_CONVOLUTIONS):
        for place in range(convolutions):
            names[f"features.{theirs}"] = f"levels.conv{index + 1}.{2 * place + (index > 0)}"
            theirs += 3
        theirs += 1  # the pool
    return names


_LAYERS = _layers()


def _rename(key: str) -> str:
    """The name here of a parameter in torchvision's weights."""
    layer, _, parameter = key.rpartition(".")
    head, _, index = layer.rpartition(".")
    if layer in _LAYERS:
        return f"{_LAYERS[layer]}.conv.{parameter}"
    if index.isdigit() and (before := f"{head}.{int(index) - 1}") in _LAYERS:
        return f"{_LAYERS[before]}.bn.{parameter}"
    return key
