"""The configuration of a network, as frozen records.

Nothing here imports PyTorch, so presets can be listed, and configurations of checkpoints compared, without it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

GLOBAL: Literal["global"] = "global"
LOCAL = "local"  # name of the patch itself, beside those of the contexts


class ConfigError(ValueError):
    """A configuration that no network can have."""


@dataclass(frozen=True, kw_only=True)
class ContextConfig:
    """One context window of a patch (§3.2, Table 5).

    Attributes:
        name: Its name.
        factor: Side of the window over the side of the patch, or "global" for the whole image (§4.2, DeepGlobe).
        size: Side, in pixels, to which the window is resampled before it enters its encoder.
        gathers: For a global context that is encoded with what patches know, the name of the global context before it
            that shows the same window, and with whose features these patches are encoded; None for any other.
    """

    name: str
    factor: float | Literal["global"]
    size: int
    gathers: str | None = field(default=None, metadata={"optional": True})  # see `fctl.runtime.bundle.records`

    @property
    def centred(self) -> bool:
        """Whether the window is centred on its patch; otherwise the context is global, and many patches share it."""
        return self.factor != GLOBAL

    def window(self, patch: int) -> int:
        """The side of a centred window.

        Args:
            patch: Side of the patch in pixels.

        Returns:
            Pixels of the raster: the factor times the patch, with as many whole pixels on either side of the patch.

        Raises:
            ConfigError: The factor leaves fractions of pixels.
        """
        factor = float(self.factor)
        window = round(factor * patch)
        if abs(window - factor * patch) > 1e-6 * patch or window < patch or (window - patch) % 2:
            beside = (factor - 1) * patch / 2
            raise ConfigError(
                f"context {self.name!r}: factor {factor:g} of a {patch}-pixel patch leaves {beside:g} pixels on either "
                "side; choose a factor that leaves a whole number: the nearest window is "
                f"{patch + 2 * max(0, round(beside))} pixels"
            )
        return window


@dataclass(frozen=True, kw_only=True)
class LcfConfig:
    """Locality-aware context fusion (§3.3).

    Attributes:
        key_channels: Channels of query and key.
        scale_logits: Whether R_U is divided by sqrt(key_channels); in the paper it is not.
        position: The gated position term of Eq. 2, with offsets from index to index ("grid", as in the paper) or
            measured on the ground ("ground"); None for Eq. 1.
        self_attention: Whether U includes the patch itself.
        fusion: Eq. 3-4 ("adaptive"), a baseline of Table 6, or the mixing of the public release ("lcc").
        centre_query: Whether the query's mean over the cells is subtracted, as in the public release; in the paper it
            is not.
        gamma: Whether every member of U has a learned factor, as in the public release; in the paper none has.
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

    Attributes:
        structure: A letter of Fig. 13 and Table 7, or the table's "concat".
        reference: The one context that structures (a) and (b) use; None for those that use all contexts.
        windows: Sides of the depthwise kernels, one for each group of channels (Eq. 6).
    """

    structure: Literal["a", "b", "c", "d", "e", "concat"]
    reference: str | None
    windows: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Everything that determines a network's graph.

    Attributes:
        backbone: Name of the backbone.
        width: Multiplies the backbone's channels; 1 is the published network.
        bands: Bands of the image.
        mean: By band, what is subtracted from raw pixels.
        std: By band, what the difference is divided by.
        classes: How many classes are scored.
        patch: Side of a patch in pixels.
        contexts: The contexts, in order.
        encoders: One encoder for the patch and one for each context ("separate"), or one for all ("shared").
        stage: The backbone's stage that contexts enhance.
        resume: Whether deeper stages are computed from the enhanced features (§3.3.1, an encoder of "Conv1 to Conv3")
            or from the plain ones, as in the public release, which enhances the deepest stage.
        channels: Channels C of the enhanced features.
        lcf: Locality-aware context fusion, or None.
        ale: Alternating local enhancement, or None.
        decoder: Kind of the decoder.
        decoder_channels: Width of the decoder.
        kind: What kind of network it is (`model/build.py`): the paper's, which checkpoints need not say, or one that is
            shown the "whole" image and no patches.

    Raises:
        ConfigError: There can be no such network.
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
    kind: Literal["fctl", "whole", "glnet", "cascadepsp"] = field(
        default="fctl", metadata={"optional": True}
    )  # see `fctl.runtime.bundle.records`

    @property
    def context_names(self) -> tuple[str, ...]:
        """The contexts' names, in order."""
        return tuple(context.name for context in self.contexts)

    @property
    def sees_patch(self) -> bool:
        """Whether it looks at patches; one of kind "whole" sees the shrunken image alone."""
        return self.kind != "whole"

    @property
    def refines(self) -> bool:
        """Whether it refines masks of its classes instead of making them."""
        return self.kind == "cascadepsp"

    @property
    def raster_bands(self) -> int:
        """Bands that patches and contexts have: those of the image, and one for each class of a mask to refine."""
        return self.bands + (self.classes if self.refines else 0)

    @property
    def placed(self) -> tuple[str, ...]:
        """The global contexts in which the network must know the patch's place: for ALE, or for "ground" offsets.

        Networks of kind "whole" crop their scores there, those that refine masks crop these, and GLNet cuts the maps of
        all of its contexts to the patch.
        """
        if not self.sees_patch or self.refines:
            return self.context_names
        if self.kind == "glnet":
            return tuple(context.name for context in self.contexts if not context.centred)
        ground = self.lcf is not None and self.lcf.position == "ground"
        enhanced = self.context_names if self.ale and not self.ale.reference else (self.ale and self.ale.reference,)
        return tuple(c.name for c in self.contexts if not c.centred and (ground or c.name in (enhanced or ())))

    def __post_init__(self) -> None:
        _check_scaling(self)
        _check_contexts(self)
        _check_ale(self)
        if self.kind == "whole":
            _check_whole(self)


@dataclass(frozen=True, kw_only=True)
class ServingConfig:
    """How a network is meant to be run over a raster.

    Attributes:
        plan: Tiles at a fixed stride, or spread evenly.
        overlap: Pixels, at least, that neighbouring tiles share.
        resampling: The filter that shrinks context windows.
        merge: Weights of overlapping tiles.
        scene: Side, in pixels, of the training images, each of which a global context showed in full; None if it is
            not known or there is no such context.
        raster: Side, in pixels, of the rasters that it will mostly segment: contexts that are encoded once a raster are
            encoded in windows that fit it. None if that may be any.
    """

    plan: Literal["stride", "even"]
    overlap: int
    resampling: Literal["pillow-bilinear", "box"]
    merge: Literal["uniform", "cosine"]
    scene: int | None
    raster: int | None = field(default=None, metadata={"optional": True})


def _check_scaling(config: NetworkConfig) -> None:
    """Check what concerns bands and classes."""
    if not len(config.mean) == len(config.std) == config.bands:
        raise ConfigError(
            f"mean and std need one value per band: {config.bands} bands, "
            f"{len(config.mean)} means, {len(config.std)} deviations"
        )
    if config.classes < 2:
        raise ConfigError(f"classes must be at least 2, found {config.classes}")


def _check_contexts(config: NetworkConfig) -> None:
    """Check that contexts have distinct names, can be cut, and are used."""
    names = config.context_names
    if len(set(names)) < len(names) or LOCAL in names:
        raise ConfigError(f"contexts need distinct names other than {LOCAL!r}, found {', '.join(names)}")
    for context in config.contexts:
        if context.centred:
            context.window(config.patch)
    if config.refines and (len(names) != 1 or config.contexts[0].centred or config.lcf or config.ale):
        raise ConfigError("cascadepsp needs one context, which is global, and neither lcf nor ale")
    if config.kind != "fctl":  # the others check what they are made of themselves
        return
    if config.lcf and not (config.contexts or config.lcf.self_attention):
        raise ConfigError("lcf needs a context or self_attention; set lcf to None for a network without either")
    used = set(names) if config.lcf or (config.ale and not config.ale.reference) else set()
    if gathering := [context.name for context in config.contexts if context.gathers]:
        raise ConfigError(f"context {gathering[0]!r}: this kind of network gathers nothing; set gathers to null")
    unused = set(names) - used - {config.ale.reference if config.ale else None}
    if unused:
        raise ConfigError(f"neither lcf nor ale uses context {min(unused)!r}; leave it out")


def _check_ale(config: NetworkConfig) -> None:
    """Check that ALE fits the contexts."""
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


def _check_whole(config: NetworkConfig) -> None:
    """Check that the whole image is all that a network of this kind is shown."""
    if len(config.contexts) != 1 or config.contexts[0].centred:
        found = ", ".join(f"{c.name} ({c.factor})" for c in config.contexts) or "none"
        raise ConfigError(f"a network of kind 'whole' needs one context, of factor {GLOBAL!r}, found {found}")
    if config.lcf or config.ale:
        raise ConfigError("a network of kind 'whole' has nothing to fuse; set lcf and ale to None")
