"""Exports one network of segmentation_models.pytorch: python -m tests.networks.export_smp NAME IMAGERY OUT.

Weights are random but seeded, for nothing trained can be downloaded everywhere. So that the network tells classes
apart, its batch norms have the statistics of aerial images, and its head is scaled so that each class scores the same
on average.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import segmentation_models_pytorch as smp
import torch
from numpy.typing import NDArray
from segmentation_models_pytorch.base.modules import Activation
from torch import Tensor, nn

from .case import Card, Case, Pixels, listed, middle, with_bands
from .catalogue import EXPORTERS, SMP, Smp

MEAN, STD = (0.485, 0.456, 0.406, 0.45, 0.3, 0.3), (0.229, 0.224, 0.225, 0.22, 0.15, 0.2)
SCALES = {"uint8": 1 / 255, "uint16": 1 / 10200, "float32": 1.0}
SCRIPT_OPSET = 17
PLACE = (300, 500)  # of the tile
OTHERS = ((1000, 200), (200, 1200), (1200, 1500), (700, 900))  # what the statistics are of


def main(name: str, imagery: str, out: str) -> None:
    """Write one case for each exporter."""
    spec, image = SMP[name], np.load(imagery)
    raster = with_bands(image, spec.bands, spec.dtype)
    tile = cut(raster, PLACE, spec.tile)
    others = torch.cat([scaled(cut(raster, place, spec.tile), spec) for place in OTHERS])
    taken = scaled(tile, spec)
    model = made(spec, others, taken)
    with torch.inference_mode():
        scores = model(taken)[0].numpy()
    scores = two_classes(scores, spec)
    for exporter in EXPORTERS:
        folder = Path(out) / exporter
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "model.onnx"
        remark = export(model, taken, file, exporter, open_sides=spec.open_sides)
        card = Card(
            network=f"{spec.architecture}, {spec.encoder}",
            package=f"segmentation_models.pytorch {smp.__version__}",
            exporter=f"PyTorch {torch.__version__.partition('+')[0]}, {exporter}",
            file=str(file),
            options=options(spec, len(scores)),
            remark=f"{spec.activation or ('one logit' if spec.channels == 1 else 'logits')}; {remark}",
        )
        case = Case(card=card, tile=tile, patches=middle(raster), scores=scores, mask=scores.argmax(0).astype(np.uint8))
        case.write(folder)


def cut(image: Pixels, place: tuple[int, int], side: int) -> Pixels:
    """A tile of an image."""
    top, left = place
    return np.ascontiguousarray(image[top : top + side, left : left + side])


def scaled(tile: Pixels, spec: Smp) -> Tensor:
    """A tile (tile, tile, bands) as users of the package scale it: (1, bands, tile, tile) float32."""
    values = (tile * np.float64(SCALES[spec.dtype]) - MEAN[: spec.bands]) / STD[: spec.bands]
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)[None].astype(np.float32)))


def made(spec: Smp, others: Tensor, tile: Tensor) -> nn.Module:
    """The network in evaluation mode."""
    torch.manual_seed(0)
    model: nn.Module = getattr(smp, spec.architecture)(
        encoder_name=spec.encoder, encoder_weights=None, in_channels=spec.bands, classes=spec.channels
    )
    for norm in (part for part in model.modules() if isinstance(part, nn.BatchNorm2d)):
        norm.momentum = None  # the mean over all batches
        nn.init.uniform_(norm.weight, 0.7, 1.3)
        nn.init.normal_(norm.bias, std=0.2)
    model.train()
    with torch.no_grad():
        model(others)
        model(others.flip(3))
        model.eval()
        head = model.segmentation_head
        logits = model(tile)
        mean, std = logits.mean((0, 2, 3)), logits.std((0, 2, 3))
        conv = next(part for part in reversed(list(head.modules())) if isinstance(part, nn.Conv2d))
        conv.weight *= (3 / std).reshape(-1, 1, 1, 1)
        conv.bias.copy_((conv.bias - mean) * 3 / std)
    if spec.activation:
        head[-1] = Activation(spec.activation)
    return model


def two_classes(scores: NDArray[np.float32], spec: Smp) -> NDArray[np.float32]:
    """Scores with a class for background, where the network has a single channel: its own threshold is 0, or 0.5."""
    if spec.channels > 1:
        return scores
    background = 1 - scores if spec.activation else np.zeros_like(scores)
    return np.concatenate([background, scores])


def export(model: nn.Module, image: Tensor, file: Path, exporter: str, *, open_sides: bool) -> str:
    """Write a network as ONNX, as the exporters' documentation does.

    Returns:
        What the file leaves open.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "dynamo":  # as it comes by default: newest opset, nothing open
            torch.onnx.export(model, (image,), file, dynamo=True, external_data=False, verbose=False)
            return "batch 1"
        axes = {0: "batch", 2: "height", 3: "width"} if open_sides else {0: "batch"}
        torch.onnx.export(
            model, (image,), file, dynamo=False, opset_version=SCRIPT_OPSET, input_names=["image"],
            output_names=["mask"], dynamic_axes={"image": axes, "mask": axes},
        )  # fmt: skip
        return "open batch and sides" if open_sides else "open batch"


def options(spec: Smp, classes: int) -> list[str]:
    """What `fctl-export` is told."""
    return [
        "--classes", ",".join(f"class{index}" for index in range(classes)), "--tile", str(spec.tile),
        "--band-count", str(spec.bands), "--dtype", spec.dtype, "--scale", repr(SCALES[spec.dtype]),
        "--mean", listed(MEAN[: spec.bands]), "--std", listed(STD[: spec.bands]),
    ]  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
