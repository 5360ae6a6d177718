"""The weights of the shipped bundle as a checkpoint to train on: python -m experiments.restored DUBAI default.pt.

An export folds batch norms into convolutions and makes constants of position terms. Here that is undone: norms change
nothing, but those of the decoder, which are trained with statistics of batches, get the statistics of some patches. The
checkpoint is compared with the bundle before it is written.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from fctl.model.build import build
from fctl.model.layers import ConvBn
from fctl.model.network import FCtL
from fctl.model.presets import PRESETS
from fctl.model.serving.manifest import draft_manifest
from fctl.model.serving.module_network import ModuleNetwork
from fctl.model.weights.checkpoints import Card, ClassLabel, save_checkpoint
from fctl.runtime.bundle.store import Bundle, read_bundle
from fctl.runtime.engines.choose import choose_engine
from fctl.runtime.segment.batches import PatchBatch, cut_batch
from fctl.runtime.segment.opening import load_network
from fctl.runtime.tiling.sources import ArraySource
from fctl.runtime.tiling.windows import Window

from .scenes import SCENES, read_scene

_PATCHES = 6  # of each scene, whose statistics the decoder gets
_ERROR = 1e-3  # of logits, between the bundle and the checkpoint


def main() -> None:
    """Write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    bundle, preset = read_bundle("default"), PRESETS["fctl-lite0"]
    network = build(replace(preset.network, classes=len(bundle.manifest.classes))).eval()
    assert isinstance(network, FCtL)
    labels = tuple(ClassLabel(name=one.name, colour=one.colour) for one in bundle.manifest.classes)
    card = Card(
        network=network.config, serving=preset.serving, classes=labels, ground_sample_distance=None,
        licence="Apache-2.0; trained on CC0 imagery, from ImageNet weights under Apache-2.0",
        training={"restored from": "the bundle that comes with fctl"},
    )  # fmt: skip
    with torch.no_grad():
        _fill(network, _constants(bundle))
        batches = _drawn(bundle, arguments.data)
        module = ModuleNetwork(draft_manifest("restored", card, dict.fromkeys(network.config.context_names)), network)
        _measure(network, module, batches)
        print(f"largest difference of logits: {_difference(bundle, module, batches):.1e}")
    save_checkpoint(arguments.out, card, network.state_dict())


def _constants(bundle: Bundle) -> dict[str, Tensor]:
    """All constants of the bundle's graphs, by the names that the network gives them."""
    found = dict[str, Tensor]()
    for role in ("encoder_medium", "encoder_large", "segmenter"):
        for constant in onnx.load(bundle.folder / f"{role}.onnx").graph.initializer:
            value = torch.from_numpy(numpy_helper.to_array(constant).astype(np.float32).copy())
            found[constant.name.removesuffix("_fp16").removeprefix("network.")] = value
    return found


def _fill(network: FCtL, found: Mapping[str, Tensor]) -> None:
    """Give the network the bundle's weights."""
    state = network.state_dict()
    state |= {name: found[name] for name, value in state.items() if name in found and found[name].shape == value.shape}
    for name, layer in network.named_modules():
        if isinstance(layer, ConvBn):
            count = len(found[f"{name}.bias"])
            state |= {
                f"{name}.conv.weight": found[f"{name}.weight"],
                f"{name}.bn.bias": found[f"{name}.bias"],
                f"{name}.bn.weight": torch.ones(count),
                f"{name}.bn.running_mean": torch.zeros(count),
                f"{name}.bn.running_var": torch.full((count,), 1 - layer.bn.eps),
            }
    assert network.lcf is not None
    for name in network.lcf.attention:
        term = f"lcf.attention.{name}.position"
        state[f"{term}.gate"] = torch.logit(found[f"{term}.gate"])
        state[f"{term}.weight"] = _position(found[f"{term}.rows"], network.placement(name).offsets(None).rows)
    network.load_state_dict(state)


def _position(rows: Tensor, offsets: Tensor) -> Tensor:
    """W_r of the softmax (h, h) along rows, alike for columns; offsets (h, h)."""
    rows, offsets = rows.double(), offsets.double().reshape(rows.shape)
    first = rows.argmax(dim=1, keepdim=True)
    near, top = offsets.gather(1, first), rows.gather(1, first).log()
    known = rows > 1e-30  # what is smaller has lost its digits
    terms = torch.stack([(offsets - near)[known], (offsets.square() - near.square())[known]], dim=1)
    line, square = torch.linalg.lstsq(terms, (rows.log() - top)[known][:, None]).solution.flatten().tolist()
    return torch.tensor([line, line, square], dtype=torch.float32)


def _drawn(bundle: Bundle, data: Path) -> list[PatchBatch]:
    """Batches of one patch from above part 7 of all scenes."""
    found, side = list[PatchBatch](), bundle.manifest.tile
    for number in SCENES:
        scene, random = read_scene(data, number), np.random.default_rng(number)
        source = ArraySource(scene.pixels)
        for _ in range(_PATCHES):
            y, x = (int(random.integers(end - side)) for end in (scene.held.y, scene.pixels.shape[1]))
            found.append(cut_batch(bundle.manifest, source, (Window(y, x, side, side),), 1))
    return found


def _measure(network: FCtL, module: ModuleNetwork, batches: Sequence[PatchBatch]) -> None:
    """Give the decoder's norms the statistics of some patches, without a change of what they compute."""
    sums = dict[ConvBn, list[Tensor]]()

    def watch(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, ConvBn)
        y = layer.convolve(inputs[0], layer.conv.weight, None).double()
        sums.setdefault(layer, []).append(torch.stack([y.mean((0, 2, 3)), y.square().mean((0, 2, 3))]))

    layers = [layer for layer in network.decoder.modules() if isinstance(layer, ConvBn)]
    hooks = [layer.register_forward_pre_hook(watch) for layer in layers]
    for batch in batches:
        module.run(batch)
    for hook in hooks:
        hook.remove()
    for layer, found in sums.items():
        mean, square = torch.stack(found).mean(dim=0).float()
        norm = layer.bn
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(square - mean.square())
        norm.weight.copy_((norm.running_var + norm.eps).sqrt())
        norm.bias.add_(mean)


def _difference(bundle: Bundle, module: ModuleNetwork, batches: Sequence[PatchBatch]) -> float:
    """The largest difference of logits between the bundle and the checkpoint, which must be small."""
    with closing(load_network(bundle, choose_engine("onnxruntime", "fp32", bundle, batch=1), 1)) as engine:
        found = [
            float(np.abs(module.on_host(module.run(batch)) - engine.on_host(engine.run(batch))).max())
            for batch in batches[::_PATCHES]
        ]
    if max(found) > _ERROR:
        raise SystemExit(f"expected the logits of the bundle within {_ERROR}, found a difference of {max(found):.1e}")
    return max(found)


if __name__ == "__main__":
    main()
