"""One frozen configuration that says all of a network.

Plain data: nothing here imports torch, so a preset can be listed or a checkpoint's configuration compared
without loading it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

GLOBAL: Literal["global"] = "global"
LOCAL = "local"  # the patch itself, beside the contexts' names


class ConfigError(ValueError):
    """A configuration that no network can have."""


@dataclass(frozen=True, kw_only=True)
class ContextConfig:
    """One context window of a patch (§3.2, Table 5).

    factor: side of the window over the side of the patch, or "global" for the whole image (§4.2, DeepGlobe). The window
    is `window_pixels` wide, a whole number that leaves as many pixels on either side of the patch.
    size: side, in pixels, to which the window is resampled before it enters its encoder.
    """

    name: str
    factor: float | Literal["global"]
    size: int


@dataclass(frozen=True, kw_only=True)
class LcfConfig:
    """Locality-aware context fusion (§3.3).

    key_channels: channels of query and key. scale_logits: divide R_U by sqrt(key_channels); the paper does not.
    position: the gated position term of Eq. 2 with offsets from index to index ("grid", the paper) or measured on
    the ground ("ground"), or None for Eq. 1. self_attention: whether U includes the patch itself.
    fusion: Eq. 3-4 ("adaptive"), the baselines of Table 6, or the mixing of the public release ("lcc").
    centre_query: subtract the query's mean over the cells; gamma: a learned factor per member of U. Both as in the
    public release; the paper has neither.
    """

    key_channels: int
    scale_logits: bool
    position: Literal["grid", "ground"] | None
    self_attention: bool
    fusion: Literal["adaptive", "weighted", "average", "lcc"]
    centre_query: bool
    gamma: bool


@dataclass(frozen=True, kw_only=True)
class AleConfig:
    """Alternating local enhancement (§3.4).

    structure: a letter of Fig. 13 / Table 7, or the table's "concat". reference: the one context that (a) and (b)
    use, None for the structures that use all. windows: one depthwise kernel side per channel group (Eq. 6).
    """

    structure: Literal["a", "b", "c", "d", "e", "concat"]
    reference: str | None
    windows: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Everything that determines a network's graph.

    width: multiplies the backbone's channels, 1 for the published one. mean, std: scaling of raw pixels,
    (raw - mean) / std, one value per band. patch: side in pixels. encoders: one encoder per context and one for the
    patch, or one for all. stage: the backbone's stage that contexts enhance. resume: whether deeper stages are computed
    from the enhanced features (§3.3.1, an encoder of "Conv1 to Conv3") or from the plain ones (the release, which
    enhances the deepest). channels: C of the enhanced features. decoder, decoder_channels: its kind and width.
    """

    backbone: str
    width: float
    bands: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: int
    patch: int
    contexts: tuple[ContextConfig, ...]
    encoders: Literal["separate", "shared"]
    stage: str
    resume: bool
    channels: int
    lcf: LcfConfig | None
    ale: AleConfig | None
    decoder: str
    decoder_channels: int

    @property
    def context_names(self) -> tuple[str, ...]:
        """The contexts' names, in order."""
        return tuple(context.name for context in self.contexts)

    @property
    def placed(self) -> tuple[str, ...]:
        """The global contexts whose part under the patch the network must know: for ALE, or for "ground" offsets."""
        ground = self.lcf is not None and self.lcf.position == "ground"
        enhanced = self.context_names if self.ale and not self.ale.reference else (self.ale and self.ale.reference,)
        return tuple(c.name for c in self.contexts if c.factor == GLOBAL and (ground or c.name in (enhanced or ())))

    def __post_init__(self) -> None:
        _check_scaling(self)
        _check_contexts(self)
        _check_ale(self)


@dataclass(frozen=True, kw_only=True)
class ServingConfig:
    """How a network is meant to be run over a raster.

    plan, overlap: tiles at a fixed stride, or evenly spread with at least that overlap (pixels). resampling: the
    filter that brings context windows to their size. merge: weights of overlapping tiles. scene: side in pixels of
    the images whose whole was the global context in training, if there is one and it is known.
    """

    plan: Literal["stride", "even"]
    overlap: int
    resampling: Literal["pillow-bilinear", "box"]
    merge: Literal["uniform", "cosine"]
    scene: int | None


def window_pixels(factor: float, patch: int) -> int:
    """Side in pixels of a context window; ConfigError where it cannot be centred on its patch with whole pixels."""
    window = round(factor * patch)
    if abs(window - factor * patch) > 1e-6 * patch or window < patch or (window - patch) % 2:
        nearest = patch + 2 * max(0, round((factor - 1) * patch / 2))
        raise ConfigError(
            f"factor {factor:g} of a {patch}-pixel patch leaves {(factor - 1) * patch / 2:g} pixels on either side; "
            f"choose a factor that leaves a whole number: the nearest window is {nearest} pixels"
        )
    return window


def _check_scaling(config: NetworkConfig) -> None:
    if not len(config.mean) == len(config.std) == config.bands:
        raise ConfigError(
            f"mean and std need one value per band: {config.bands} bands, "
            f"{len(config.mean)} means, {len(config.std)} deviations"
        )
    if config.classes < 2:
        raise ConfigError(f"classes must be at least 2, found {config.classes}")


def _check_contexts(config: NetworkConfig) -> None:
    names = config.context_names
    if len(set(names)) < len(names) or LOCAL in names:
        raise ConfigError(f"contexts need distinct names other than {LOCAL!r}, found {', '.join(names)}")
    for context in config.contexts:
        if context.factor == GLOBAL:
            continue
        try:
            window_pixels(context.factor, config.patch)
        except ConfigError as error:
            raise ConfigError(f"context {context.name!r}: {error}") from error
    if config.lcf and not (config.contexts or config.lcf.self_attention):
        raise ConfigError("lcf needs a context or self_attention; set lcf to None for a network without either")
    used = set(names) if config.lcf or (config.ale and not config.ale.reference) else set()
    unused = set(names) - used - {config.ale.reference if config.ale else None}
    if unused:
        raise ConfigError(f"neither lcf nor ale uses context {min(unused)!r}; leave it out")


def _check_ale(config: NetworkConfig) -> None:
    if config.ale is None:
        return
    names = config.context_names
    if not names:
        raise ConfigError("ale needs at least one context; set ale to None")
    single = config.ale.structure in ("a", "b")
    if single and config.ale.reference not in names:
        raise ConfigError(
            f"ale structure {config.ale.structure!r} needs a reference among {', '.join(names)}, "
            f"found {config.ale.reference}"
        )
    if not single and config.ale.reference is not None:
        raise ConfigError(f"ale structure {config.ale.structure!r} uses every context; set reference to None")
    if any(side % 2 == 0 for side in config.ale.windows) or not config.ale.windows:
        raise ConfigError(f"ale windows must be odd, found {config.ale.windows}")
