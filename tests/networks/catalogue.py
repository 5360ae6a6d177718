"""The networks that are tried. Nothing is imported here but the standard library: every environment reads it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Smp:
    """A network of segmentation_models.pytorch, with random weights.

    Attributes:
        architecture: Its class.
        encoder: The name of its encoder.
        tile: Side of its image, in pixels.
        bands: Bands of its image.
        dtype: Dtype of the raster that it is shown.
        channels: Channels of its scores; 1 is a binary network.
        activation: What is done to its logits inside of the network.
        open_sides: Whether the script exporter can leave the image's sides open. Where pooling adapts to them it
            cannot, and `tile` must be a multiple of what is pooled.
    """

    architecture: str
    encoder: str
    tile: int = 256
    bands: int = 3
    dtype: str = "uint8"
    channels: int = 4
    activation: str | None = None
    open_sides: bool = True


SMP = {
    "unet": Smp("Unet", "resnet18"),
    "unet-binary": Smp("Unet", "tu-mobilenetv3_small_100", channels=1),
    "unetplusplus": Smp("UnetPlusPlus", "mobilenet_v2", bands=4, dtype="uint16", channels=5),
    "manet": Smp("MAnet", "efficientnet-b0"),
    "linknet": Smp("Linknet", "timm-mobilenetv3_small_100", channels=1, activation="sigmoid"),
    "fpn": Smp("FPN", "mobilenet_v2", channels=6, activation="softmax2d"),
    "pspnet": Smp("PSPNet", "resnet18", tile=192, open_sides=False),
    "pan": Smp("PAN", "resnet18", channels=3),
    "deeplabv3": Smp("DeepLabV3", "mobilenet_v2", tile=192),
    "deeplabv3plus": Smp("DeepLabV3Plus", "efficientnet-b0", bands=4),
    "upernet": Smp("UPerNet", "resnet18", tile=192, bands=6, dtype="float32", open_sides=False),
    "segformer": Smp("Segformer", "mit_b0", dtype="uint16"),
    "dpt": Smp("DPT", "tu-vit_tiny_patch16_224", tile=224),
}
"""By name; between them every architecture of the package, several kinds of encoders, bands, dtypes and scores."""

EXPORTERS = ("script", "dynamo")
"""PyTorch's exporters, the former and the present one; each takes every network above."""

CSMASK = ("4b_l1c", "4b_l2a", "6b_l1c", "6b_l2a")
"""The models of ukis-csmask: bands, and the level of the product."""

KELP = ("kelp-rgb", "species-rgb", "mussels-rgb", "kelp-rgbi")
"""The models of Kelp-O-Matic."""


@dataclass(frozen=True)
class Source:
    """Where a network comes from.

    Attributes:
        environment: The environment of its package.
        script: The module, beside this one, that writes its cases.
        network: Its name there.
        case: The folder of the case that is meant, of those that the script writes.
    """

    environment: str
    script: str
    network: str
    case: str


SOURCES = [
    *(Source("torch", "export_smp", name, exporter) for name in SMP for exporter in EXPORTERS),
    *(Source("csmask", "export_csmask", name, "shipped") for name in CSMASK),
    *(Source("torch", "export_kelp", name, "shipped") for name in KELP),
]
