"""What a checkpoint states about itself, completed by what the user states about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from fctl.model.config import ConfigError, NetworkConfig
from fctl.model.presets import Preset, preset
from fctl.model.serving.shared import shared_encoder
from fctl.model.weights.checkpoints import Card, Checkpoint, ClassLabel, differences
from fctl.model.weights.published import RELEASES, is_published_segformer, release_classes, segformer_classes
from fctl.runtime.errors import CheckpointError, InputError

from .choices import Graph
from .palette import colours_of


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What to make of a checkpoint.

    Attributes:
        arch: The name of a preset, for bare weights; a checkpoint of fctl knows its network.
        classes: The names of the classes, for bare weights; of a checkpoint of fctl they replace its own.
        context_files: By context, the files that the public release keeps beside its main one.
        windows: By context, the side of its window in pixels of the raster, for bare weights.
        scene: Side, in pixels, of the training images; a global context showed each of them whole.
        raster: Side, in pixels, of the rasters that the bundle will mostly segment, to which windows of contexts are
            fitted that are encoded once a raster; None for that of the checkpoint.
        graph: "staged" for a graph per context and the segmenter, "fused" for one graph of all.
        patches: Images or folders of images for the parity gate; empty for those shipped with fctl.
        half_weights: Whether weights are rounded to fp16 and stored so.
        licence: The licence of the weights; None for that of the checkpoint.
        ground_sample_distance: The side of a pixel of the training images, in metres; None for that of the checkpoint.
    """

    arch: str | None = None
    classes: tuple[str, ...] = ()
    context_files: Mapping[str, Path] = field(default_factory=dict)
    windows: Mapping[str, int] = field(default_factory=dict)
    scene: int | None = None
    raster: int | None = None
    graph: Graph = "staged"
    patches: tuple[Path, ...] = ()
    half_weights: bool = False
    licence: str | None = None
    ground_sample_distance: float | None = None


def completed_card(read: Checkpoint, path: Path, options: ExportOptions) -> Card:
    """Complete what a checkpoint states about itself.

    Args:
        read: The checkpoint.
        path: Its path, for error messages.
        options: What the user states about it.

    Returns:
        The card of the network to export.

    Raises:
        CheckpointError: Bare weights come without their architecture or classes, or the checkpoint has another network.
        InputError: An option does not fit the network.
    """
    card = _card_of_ours(read.card, path, options) if read.card else _card_of_bare(read.state, path, options)
    if options.scene is not None:
        card = replace(card, serving=replace(card.serving, scene=_scene(card.network, options.scene)))
    if options.raster is not None:
        card = replace(card, serving=replace(card.serving, raster=_raster(card.network, options)))
    distance = card.ground_sample_distance
    if options.ground_sample_distance is not None:
        distance = options.ground_sample_distance
        if not distance > 0:
            raise InputError(subject="`gsd`", expected="metres above 0", found=f"{distance:g}")
    return replace(card, licence=options.licence or card.licence, ground_sample_distance=distance)


def _card_of_ours(card: Card, path: Path, options: ExportOptions) -> Card:
    """The card of a checkpoint of fctl, with other names of its classes where they are given."""
    if options.arch:
        found = _preset(options.arch, card.network.classes)
        asked = found.network
        if not asked.sees_patch and card.network.sees_patch and not card.network.contexts:
            card, asked = _whole(card, found)
        if changed := differences(card.network, asked):
            problem = f"its network differs from {options.arch} in {', '.join(changed)}"
            raise CheckpointError(problem, subject=path, remedy="leave out `arch`")
    if options.classes:
        if len(options.classes) != card.network.classes:
            raise InputError(subject="`classes`", expected=f"{card.network.classes} names", found=len(options.classes))
        labels = (replace(old, name=name) for old, name in zip(card.classes, options.classes, strict=True))
        card = replace(card, classes=tuple(labels))
    if options.windows:
        raise InputError(
            "a checkpoint of fctl knows the windows that it was trained with",
            subject="`context_sizes`",
            remedy="leave it out",
        )
    return card


def _whole(card: Card, found: Preset) -> tuple[Card, NetworkConfig]:
    """A checkpoint of a network for patches, as one that is shown the whole image at their size.

    Args:
        card: The card of the checkpoint, which knows widths and sizes.
        found: The preset of such a network.

    Returns:
        The card that it then has, and the network that the preset asks for.
    """
    (context,) = found.network.contexts
    network = replace(card.network, kind="whole", contexts=(replace(context, size=card.network.patch),))
    serving = replace(found.serving, resampling=card.serving.resampling, merge=card.serving.merge)
    asked = replace(network, backbone=found.network.backbone, decoder=found.network.decoder)
    return replace(card, network=network, serving=serving), asked


def _card_of_bare(state: Mapping[str, Tensor], path: Path, options: ExportOptions) -> Card:
    """The card of bare weights, which state nothing about themselves."""
    if not options.arch or not options.classes:
        raise CheckpointError(
            "bare weights say neither what network nor what classes: give `arch` and `classes`", subject=path
        )
    found = _preset(options.arch, len(options.classes))
    scored = _scored_classes(state, options.arch)
    if scored not in (None, len(options.classes)):
        raise InputError(f"{path} scores {scored} classes, found {len(options.classes)} names", subject="`classes`")
    colours = colours_of(options.classes)
    labels = (ClassLabel(name=name, colour=colour) for name, colour in zip(options.classes, colours, strict=True))
    return Card(
        network=_with_windows(found.network, options.windows), serving=found.serving, classes=tuple(labels),
        ground_sample_distance=None, licence=None, training={},
    )  # fmt: skip


def _scored_classes(state: Mapping[str, Tensor], arch: str) -> int | None:
    """How many classes bare weights score; None where they do not show it."""
    if arch in RELEASES:
        return release_classes(state)
    if is_published_segformer(state):
        return segformer_classes(state)
    own = state.get("decoder.score.bias")
    return int(own.shape[0]) if own is not None and own.dim() else None


def _with_windows(network: NetworkConfig, windows: Mapping[str, int]) -> NetworkConfig:
    """The network with contexts that are cut from windows of other sides, in pixels of the raster."""
    subject = "`context_sizes`"
    for name in windows:
        if name not in network.context_names:
            known = ", ".join(network.context_names) or "none"
            raise InputError(f"unknown context {name!r}", subject=subject, remedy=f"this network has {known}")
        if any(context.name == name and not context.centred for context in network.contexts):
            raise InputError(f"context {name!r} is the whole image", subject=subject, remedy="see `scene_size`")
    try:
        contexts = tuple(
            replace(context, factor=windows[context.name] / network.patch) if context.name in windows else context
            for context in network.contexts
        )
        return replace(network, contexts=contexts)
    except ConfigError as error:
        raise InputError(str(error), subject=subject) from error


def _scene(network: NetworkConfig, side: int) -> int:
    """The side of a scene, checked."""
    subject = "`scene_size`"
    if all(context.centred for context in network.contexts):
        raise InputError("this network has no global context", subject=subject, remedy="leave it out")
    if side <= network.patch:
        expected = f"more than the {network.patch} pixels of a patch"
        raise InputError(subject=subject, expected=expected, found=side)
    return side


def _raster(network: NetworkConfig, options: ExportOptions) -> int:
    """The side of the rasters that will mostly be segmented, checked."""
    subject, side = "`raster_size`", options.raster
    assert side is not None
    if options.graph == "fused" or not any(shared_encoder(network, one, "encoder") for one in network.contexts):
        raise InputError(
            "no context is encoded once a raster: that takes staged graphs, and a context around the patch",
            subject=subject, remedy="leave it out",
        )  # fmt: skip
    if side < network.patch:
        expected = f"at least the {network.patch} pixels of a patch"
        raise InputError(subject=subject, expected=expected, found=side)
    return side


def _preset(name: str, classes: int) -> Preset:
    """A preset by its name."""
    try:
        return preset(name, classes=classes)
    except ConfigError as error:
        raise InputError(str(error), subject="`arch`") from error
