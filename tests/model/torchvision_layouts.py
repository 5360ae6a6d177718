"""Keys and shapes of torchvision's ResNet-50 and VGG16 with batch norm, and random weights for them. Needs torch."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

State = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]

BLOCKS, PLANES = (3, 4, 6, 3), (64, 128, 256, 512)
VGG = {0: 64, 3: 64, 7: 128, 10: 128, 14: 256, 17: 256, 20: 256}
VGG |= {24: 512, 27: 512, 30: 512, 34: 512, 37: 512, 40: 512}  # convolutions of `features` and their channels


def norm_shapes(key: str, channels: int) -> Shapes:
    vectors = {f"{key}.{name}": (channels,) for name in ("weight", "bias", "running_mean", "running_var")}
    return vectors | {f"{key}.num_batches_tracked": ()}


def resnet50_shapes(width: float) -> Shapes:
    stem = int(64 * width)
    shapes: Shapes = {"conv1.weight": (stem, 3, 7, 7)} | norm_shapes("bn1", stem)
    inputs = stem
    for layer, (blocks, full) in enumerate(zip(BLOCKS, PLANES, strict=True), start=1):
        planes = int(full * width)
        for block in range(blocks):
            key = f"layer{layer}.{block}"
            shapes |= {f"{key}.conv1.weight": (planes, inputs, 1, 1)} | norm_shapes(f"{key}.bn1", planes)
            shapes |= {f"{key}.conv2.weight": (planes, planes, 3, 3)} | norm_shapes(f"{key}.bn2", planes)
            shapes |= {f"{key}.conv3.weight": (4 * planes, planes, 1, 1)} | norm_shapes(f"{key}.bn3", 4 * planes)
            if block == 0:
                shapes[f"{key}.downsample.0.weight"] = (4 * planes, inputs, 1, 1)
                shapes |= norm_shapes(f"{key}.downsample.1", 4 * planes)
            inputs = 4 * planes
    return shapes | {"fc.weight": (1000, inputs), "fc.bias": (1000,)}


def vgg16_bn_shapes(width: float) -> Shapes:
    shapes: Shapes = {}
    inputs = 3
    for index, channels in VGG.items():
        outputs = int(channels * width)
        shapes |= {f"features.{index}.weight": (outputs, inputs, 3, 3), f"features.{index}.bias": (outputs,)}
        shapes |= norm_shapes(f"features.{index + 1}", outputs)
        inputs = outputs
    hidden = int(4096 * width)
    for index, (outputs, taken) in {0: (hidden, 49 * inputs), 3: (hidden, hidden), 6: (1000, hidden)}.items():
        shapes |= {f"classifier.{index}.weight": (outputs, taken), f"classifier.{index}.bias": (outputs,)}
    return shapes


def drawn(shapes: Shapes) -> State:
    """Weights in which everything matters and signals neither fade nor explode."""
    state: State = {}
    for key, shape in shapes.items():
        random = np.random.RandomState(zlib.crc32(key.encode()))
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(7)
            continue
        numbers = random.uniform(-1, 1, shape)
        if key.endswith("running_var") or (key.endswith("weight") and len(shape) == 1):
            numbers = 1 + 0.5 * numbers
        elif len(shape) > 1:
            numbers *= (6 / np.prod(shape[1:])) ** 0.5
        state[key] = torch.from_numpy(np.asarray(numbers, np.float32))
    return state


Published = Callable[[float], Shapes]
LAYOUTS: dict[str, Published] = {
    "resnet50": resnet50_shapes,
    "resnet50_os16": resnet50_shapes,
    "resnet50_os8": resnet50_shapes,
    "icnet_resnet50": resnet50_shapes,
    "vgg16_bn": vgg16_bn_shapes,
}
