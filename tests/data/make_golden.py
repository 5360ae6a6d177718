"""Writes the golden files beside this file; they are committed. Needs torch and transformers 4.57.

python -m tests.data.make_golden

4.57 names SegFormer's parameters as the published files do
(``segformer.encoder.block.0.0.attention.self.query.weight``), which later series need not. Weights are drawn from keys
and shapes (`tests.model.golden`), so the files hold none. Pixels are scaled by the public processor.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import (
    SegformerConfig,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
)

from tests.model import golden

_STAGES = ("s4", "s8", "s16", "s32")


@dataclass(frozen=True, kw_only=True)
class _Layout:
    depths: tuple[int, int, int, int]
    channels: tuple[int, int, int, int]
    decoder_channels: int


_LAYOUTS = {
    "segformer-b0": _Layout(depths=(2, 2, 2, 2), channels=(32, 64, 160, 256), decoder_channels=256),
    "segformer-b2": _Layout(depths=(3, 4, 6, 3), channels=(16, 32, 80, 128), decoder_channels=192),  # a quarter
}


def main() -> None:
    for name, layout in _LAYOUTS.items():
        golden.save(name, _golden(layout))


def _golden(layout: _Layout) -> golden.Golden:
    config = SegformerConfig(
        depths=list(layout.depths),
        hidden_sizes=list(layout.channels),
        decoder_hidden_size=layout.decoder_channels,
        num_labels=golden.CLASSES,
    )
    network = SegformerForSemanticSegmentation(config).eval()
    shapes = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    _check_pretrained_layout(config, shapes)
    network.load_state_dict({key: torch.from_numpy(golden.draw(key, shape)) for key, shape in shapes.items()})
    with torch.inference_mode():
        features = network.segformer(_pixels(golden.OBLONG), output_hidden_states=True).hidden_states
        logits = network(_pixels(golden.SQUARE)).logits
    return golden.Golden(
        shapes=shapes,
        features={name: golden.kept(stage.numpy()) for name, stage in zip(_STAGES, features, strict=True)},
        logits=logits[0].numpy(),
    )


def _pixels(size: tuple[int, int]) -> Tensor:
    processor = SegformerImageProcessor(do_resize=False)
    pixels: Tensor = processor(golden.image(size), return_tensors="pt").pixel_values
    return pixels


def _check_pretrained_layout(config: SegformerConfig, shapes: dict[str, tuple[int, ...]]) -> None:
    """The tests take an encoder with a classifier for what ImageNet's file holds."""
    pretrained: nn.Module = SegformerForImageClassification(config)
    encoder = {key for key in shapes if key.startswith("segformer.encoder.")}
    assert set(pretrained.state_dict()) == encoder | {"classifier.weight", "classifier.bias"}


if __name__ == "__main__":
    main()
