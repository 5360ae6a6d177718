"""Networks by name."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .config import AleConfig, ConfigError, ContextConfig, LcfConfig, NetworkConfig, ServingConfig


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A network and how it is run. The number of classes is set by `preset`."""

    network: NetworkConfig
    serving: ServingConfig


_LITE0 = NetworkConfig(
    backbone="efficientnet_lite0",
    bands=3,
    mean=(127.0, 127.0, 127.0),
    std=(128.0, 128.0, 128.0),
    classes=2,
    patch=256,
    contexts=(
        ContextConfig(name="medium", factor=2.0, size=256),
        ContextConfig(name="large", factor=4.0, size=256),
    ),
    encoders="separate",
    stage="s16",
    channels=128,
    lcf=LcfConfig(key_channels=64, scale_logits=True, position="ground", self_attention=True, fusion="adaptive"),
    ale=AleConfig(structure="d", reference=None, windows=(1, 3, 5, 7)),
    decoder="pyramid",
    decoder_channels=96,
)

PRESETS: dict[str, Preset] = {
    "fctl-lite0": Preset(
        network=_LITE0, serving=ServingConfig(plan="stride", overlap=64, resampling="box", merge="cosine")
    ),
}


def preset(name: str, *, classes: int) -> Preset:
    """The preset of that name for `classes` classes; ConfigError lists the known ones."""
    if name not in PRESETS:
        raise ConfigError(f"unknown architecture {name!r}; known: {', '.join(PRESETS)}")
    found = PRESETS[name]
    return replace(found, network=replace(found.network, classes=classes))
