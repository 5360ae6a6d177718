"""Backbones by name: the one place to add another."""

from __future__ import annotations

from ..config import ConfigError
from .base import Backbone, Stage, scaled
from .icnet import IcNet
from .lite0 import EfficientNetLite0
from .mit import MitB0, MitB1, MitB2, MitB3, MitB4, MitB5
from .resnet50 import ResNet50, ResNet50Os8, ResNet50Os16
from .unet import UNet
from .vgg16 import Vgg16
from .vgg16_bn import Vgg16Bn

BACKBONES: dict[str, type[Backbone]] = {
    "efficientnet_lite0": EfficientNetLite0,
    "vgg16": Vgg16,
    "mit_b0": MitB0,
    "mit_b1": MitB1,
    "mit_b2": MitB2,
    "mit_b3": MitB3,
    "mit_b4": MitB4,
    "mit_b5": MitB5,
    "resnet50": ResNet50,
    "resnet50_os16": ResNet50Os16,
    "resnet50_os8": ResNet50Os8,
    "vgg16_bn": Vgg16Bn,
    "unet": UNet,
    "icnet_resnet50": IcNet,
}


def backbone_class(name: str) -> type[Backbone]:
    """Look up a backbone.

    Args:
        name: Its name in `BACKBONES`.

    Returns:
        The class.

    Raises:
        ConfigError: There is no such backbone; the error lists those that there are.
    """
    if name not in BACKBONES:
        raise ConfigError(f"unknown backbone {name!r}; known: {', '.join(BACKBONES)}")
    return BACKBONES[name]


def stage_of(name: str, stage: str) -> Stage:
    """Look up a stage of a backbone.

    Args:
        name: Name of the backbone.
        stage: Name of the stage.

    Returns:
        The stage.

    Raises:
        ConfigError: There is no such backbone or stage; the error lists those that there are.
    """
    stages = {s.name: s for s in backbone_class(name).stages}
    if stage not in stages:
        raise ConfigError(f"backbone {name!r} has no stage {stage!r}; it has {', '.join(stages)}")
    return stages[stage]


__all__ = ["BACKBONES", "Backbone", "Stage", "backbone_class", "scaled", "stage_of"]
