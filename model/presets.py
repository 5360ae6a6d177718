"""Presets: networks of the paper, of its public release and of others, by name."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .config import GLOBAL, AleConfig, ConfigError, ContextConfig, LcfConfig, NetworkConfig, ServingConfig


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A network and how it is run.

    Attributes:
        network: The network; in `PRESETS` its number of classes is a placeholder, which `preset` sets.
        serving: How it is run over a raster.
    """

    network: NetworkConfig
    serving: ServingConfig


# The paper's LCF and ALE (§3.3, §3.4), and its predecessor LCC as in the public release.
_LCF = LcfConfig(
    key_channels=256, scale_logits=False, position="grid", self_attention=True, fusion="adaptive",
    centre_query=False, gamma=False,
)  # fmt: skip
_LCC = replace(_LCF, key_channels=512, position=None, fusion="lcc", gamma=True)
_ALE = AleConfig(structure="d", reference=None, windows=(1, 3, 5, 7))


def _contexts(size: int, medium: float, large: float) -> tuple[ContextConfig, ...]:
    """Two contexts by their factors, resampled to `size` pixels."""
    return (
        ContextConfig(name="medium", factor=medium, size=size),
        ContextConfig(name="large", factor=large, size=size),
    )


_LITE0 = NetworkConfig(
    backbone="efficientnet_lite0",
    width=1.0,
    bands=3,
    mean=(127.0, 127.0, 127.0),
    std=(128.0, 128.0, 128.0),
    classes=2,
    patch=256,
    contexts=_contexts(256, 2.0, 4.0),
    encoders="separate",
    stage="s16",
    resume=False,
    channels=128,
    lcf=replace(_LCF, key_channels=64, scale_logits=True, position="ground"),
    ale=_ALE,
    decoder="pyramid",
    decoder_channels=96,
)

_VGG16 = replace(
    _LITE0,
    backbone="vgg16",
    mean=(0.0, 0.0, 0.0),
    std=(255.0, 255.0, 255.0),
    patch=508,
    contexts=_contexts(508, 2.0, 3.0),
    stage="pool5",
    channels=512,
    lcf=_LCF,
    decoder="fcn8s",
    decoder_channels=4096,
)


def _mit(name: str) -> NetworkConfig:
    """The network over a Mix Transformer."""
    small = name == "mit_b0"
    return replace(
        _LITE0,
        backbone=name,
        mean=(123.675, 116.28, 103.53),
        std=(58.395, 57.12, 57.375),
        patch=512,
        contexts=_contexts(512, 2.0, 3.0),
        stage="s16",
        channels=160 if small else 320,
        lcf=replace(_LCF, key_channels=160 if small else 256),
        decoder="segformer",
        decoder_channels=256 if name in ("mit_b0", "mit_b1") else 768,
    )


def without_contexts(network: NetworkConfig) -> NetworkConfig:
    """The same network with the patch alone: no contexts, and nothing that fuses them."""
    return replace(network, contexts=(), encoders="shared", lcf=None, ale=None)


def _single(backbone: str, stage: str, channels: int, decoder: str, width: int) -> NetworkConfig:
    """A system of Table 1 that sees one window, with the pixels of ImageNet's weights."""
    return replace(
        without_contexts(_mit("mit_b0")),
        backbone=backbone,
        stage=stage,
        channels=channels,
        decoder=decoder,
        decoder_channels=width,
    )


def _whole(local: Preset) -> Preset:
    """The same network, shown the whole image at the size of its patches: Table 1's global inference."""
    context = ContextConfig(name="whole", factor=GLOBAL, size=local.network.patch)
    network = replace(local.network, kind="whole", contexts=(context,))
    return Preset(network=network, serving=replace(local.serving, overlap=0, scene=_SCENE))


def _lcc(network: NetworkConfig) -> NetworkConfig:
    """The fusion of the paper's predecessor in place of LCF and ALE."""
    return replace(network, lcf=_LCC, ale=None)


_GLOBAL = (ContextConfig(name="medium", factor=3.0, size=508), ContextConfig(name="large", factor=GLOBAL, size=508))
_DEEPGLOBE = replace(_lcc(_VGG16), contexts=_GLOBAL, lcf=replace(_LCC, centre_query=True))

_GLNET = replace(
    _single("resnet50", "layer1", 256, "aggregate", 256),
    kind="glnet",
    encoders="separate",
    contexts=(
        ContextConfig(name="scene", factor=GLOBAL, size=512),
        ContextConfig(name="merged", factor=GLOBAL, size=512, gathers="scene"),
    ),
)

_CASCADE = replace(
    _single("resnet50_os8", "layer4", 2048, "psp", 512),
    kind="cascadepsp",
    contexts=(ContextConfig(name="scene", factor=GLOBAL, size=512),),
)

_TILED = ServingConfig(plan="stride", overlap=64, resampling="box", merge="cosine", scene=None)
_PAPER = ServingConfig(plan="stride", overlap=120, resampling="pillow-bilinear", merge="uniform", scene=None)
_RELEASE = replace(_PAPER, plan="even", overlap=50)
_SCENE = 2448  # the side of DeepGlobe's images
_SIZES = ("b0", "b1", "b2", "b3", "b4", "b5")

_ALONE: dict[str, Preset] = {
    "fcn8s-vgg16": Preset(network=without_contexts(_VGG16), serving=_PAPER),
    **{f"segformer-{size}": Preset(network=without_contexts(_mit(f"mit_{size}")), serving=_PAPER) for size in _SIZES},
    "unet": Preset(network=_single("unet", "s16", 1024, "unet", 64), serving=_PAPER),
    "segnet-vgg16": Preset(network=_single("vgg16_bn", "conv5", 512, "segnet", 64), serving=_PAPER),
    "pspnet-r50": Preset(network=_single("resnet50_os8", "layer4", 2048, "psp", 512), serving=_PAPER),
    "deeplabv3plus-r50": Preset(network=_single("resnet50_os16", "layer4", 2048, "deeplabv3plus", 256), serving=_PAPER),
    "icnet-r50": Preset(network=_single("icnet_resnet50", "quarter", 2048, "icnet", 128), serving=_PAPER),
}

PRESETS: dict[str, Preset] = {
    "fctl-lite0": Preset(network=_LITE0, serving=_TILED),
    "fctl-vgg16": Preset(network=_VGG16, serving=_PAPER),
    **{f"fctl-mit-{size}": Preset(network=_mit(f"mit_{size}"), serving=_PAPER) for size in _SIZES},
    "lcc-vgg16": Preset(network=_lcc(_VGG16), serving=_PAPER),
    **_ALONE,
    **{f"{name}-whole": _whole(local) for name, local in _ALONE.items()},
    "glnet-r50": Preset(network=_GLNET, serving=replace(_PAPER, scene=_SCENE)),
    "glnet-r50-noshare": Preset(
        network=replace(_GLNET, contexts=_GLNET.contexts[:1]), serving=replace(_PAPER, scene=_SCENE)
    ),
    "cascadepsp-r50": Preset(
        network=_CASCADE,
        serving=ServingConfig(plan="stride", overlap=128, resampling="box", merge="uniform", scene=_SCENE),
    ),
    "release-inria": Preset(network=_lcc(_VGG16), serving=replace(_RELEASE, raster=5000)),
    "release-deepglobe": Preset(network=_DEEPGLOBE, serving=replace(_RELEASE, scene=_SCENE, raster=_SCENE)),
}


def preset(name: str, *, classes: int) -> Preset:
    """Look up a preset.

    Args:
        name: Its name in `PRESETS`.
        classes: How many classes its network scores.

    Returns:
        The preset.

    Raises:
        ConfigError: There is no such preset; the error lists those that there are.
    """
    if name not in PRESETS:
        raise ConfigError(f"unknown architecture {name!r}; known: {', '.join(PRESETS)}")
    found = PRESETS[name]
    return replace(found, network=replace(found.network, classes=classes))


def narrow(network: NetworkConfig, width: float) -> NetworkConfig:
    """Make a network narrower, for tests and trials.

    Args:
        network: The network.
        width: What every number of channels is multiplied by.

    Returns:
        The same network with fewer channels.
    """
    from .backbones import backbone_class, scaled

    built = backbone_class(network.backbone)(bands=1, last=network.stage, width=width)
    plain = backbone_class(network.backbone)(bands=1, last=network.stage)
    kept = network.channels == plain.channels[network.stage]  # no neck: stay without
    return replace(
        network,
        width=width,
        channels=built.channels[network.stage] if kept else scaled(network.channels, width),
        decoder_channels=scaled(network.decoder_channels, width),
        lcf=network.lcf and replace(network.lcf, key_channels=scaled(network.lcf.key_channels, width)),
    )
