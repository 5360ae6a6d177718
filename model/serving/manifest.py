"""The draft of a network's manifest: how images are cut and placed, in training, in validation and in its bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from fctl.runtime.bundle.gathering import GatheredMap, Gathering
from fctl.runtime.bundle.manifest import (
    SCHEMA,
    ClassInfo,
    Context,
    InputSpec,
    Manifest,
    MovingCells,
    Provenance,
    Refines,
    Scaling,
)
from fctl.runtime.bundle.records import encode
from fctl.runtime.errors import InputError
from fctl.runtime.tiling.contexts import Cells
from fctl.runtime.tiling.windows import TilePlan

from ..backbones import backbone_class, stage_of
from ..config import ContextConfig, NetworkConfig, ServingConfig
from ..glnet import LEVELS, MAPS, maps_of
from ..weights.checkpoints import Card
from .cells import cells_of
from .shared import shared_encoder

PATCHES = "patches"
"""Role of the graph that computes what a context gathers."""
_MASK = 127.5  # mean and deviation by which 0 and 255 become -1 and 1


def draft_manifest(name: str, card: Card, encoders: Mapping[str, str | None]) -> Manifest:
    """Draft the manifest of a network: all that the runtime must know to cut and merge.

    Args:
        name: Name of the bundle, in logs and reports.
        card: The network, how it is run, and its classes.
        encoders: By name of the context, the role of its encoder's graph; None where the segmenter takes its window.

    Returns:
        A manifest without graphs, parity and checkpoint.
    """
    config, serving = card.network, card.serving
    return Manifest(
        schema=SCHEMA,
        name=name,
        network=encode(config),
        classes=tuple(ClassInfo(name=label.name, colour=label.colour) for label in card.classes),
        input=input_spec(config, card.ground_sample_distance),
        tile=config.patch,
        plan=tile_plan(config, serving),
        contexts=served_contexts(config, serving, encoders),
        merge=serving.merge,
        graphs=(),
        parity=(),
        provenance=Provenance(checkpoint_sha256="", licence=card.licence, created="", tools={}),
        extensions={},
        refines=Refines(bands=config.bands, uniform="keep") if config.refines else None,
    )


def tile_plan(config: NetworkConfig, serving: ServingConfig) -> TilePlan:
    """How tiles cover a raster: as the serving says, or side by side where the network does not look at them.

    Args:
        config: The network.
        serving: How it is run.

    Returns:
        The plan.
    """
    if not config.sees_patch:
        return TilePlan(kind="whole", overlap=0)
    return TilePlan(kind=serving.plan, overlap=serving.overlap)


def input_spec(config: NetworkConfig, ground_sample_distance: float | None) -> InputSpec:
    """What rasters must have: images, with the bands of a mask where the network refines one.

    Args:
        config: The network.
        ground_sample_distance: Metres per pixel of the training images, or None.

    Returns:
        Bands, dtype and scaling.
    """
    masks = (_MASK,) * (config.raster_bands - config.bands)
    return InputSpec(
        bands=config.raster_bands,
        dtype="uint8",
        scaling=Scaling(mean=config.mean + masks, std=config.std + masks),
        ground_sample_distance=ground_sample_distance,
    )


def image_spec(config: NetworkConfig, ground_sample_distance: float | None) -> InputSpec:
    """What images must have, without the mask that a network refines; arguments as of `input_spec`."""
    return replace(input_spec(config, ground_sample_distance), bands=config.bands)


def served_contexts(
    config: NetworkConfig, serving: ServingConfig, encoders: Mapping[str, str | None]
) -> tuple[Context, ...]:
    """The contexts of a network as a manifest has them.

    Args:
        config: The network.
        serving: How it is run.
        encoders: By name of the context, the role of its encoder's graph, or None.

    Returns:
        The contexts, in order.

    Raises:
        InputError: A context gathers what patches know, and nobody says how large a scene is.
    """
    return tuple(
        Context(
            name=context.name,
            factor=context.factor,
            size=context.size,
            resampling=serving.resampling,
            scene=None if context.centred else serving.scene,
            encoder=encoders[context.name],
            cells=moving_cells(config, context.size) if context.name in config.placed else None,
            sharing=shared_encoder(config, context, encoders[context.name], serving=serving),
            maps=maps_of(config, context.name),
            gathering=_gathering(config, serving, context),
        )
        for context in config.contexts
    )


def _gathering(config: NetworkConfig, serving: ServingConfig, context: ContextConfig) -> Gathering | None:
    """How a context is encoded with what patches know: those that are scored, and all of their maps."""
    if context.gathers is None:
        return None
    if serving.scene is None:
        raise InputError(
            "a network of two passes must know the side of its training images", subject="`scene_size`",
            remedy="give it in pixels: larger rasters are shown to it in blocks of that size",
        )  # fmt: skip
    kind = backbone_class(config.backbone)
    stages = dict(zip(LEVELS, kind.stages, strict=True))
    return Gathering(
        context=context.gathers,
        encoder=PATCHES,
        plan=TilePlan(kind=serving.plan, overlap=serving.overlap),
        maps=tuple(
            GatheredMap(
                name=name,
                patch=cells_of(kind, stages[name[1:]], config.patch),
                scene=cells_of(kind, stages[name[1:]], context.size),
            )
            for name in MAPS
        ),
    )


def moving_cells(config: NetworkConfig, size: int) -> MovingCells:
    """Where the cells of the patch and of a global context lie.

    Args:
        config: The network.
        size: Side of the context in pixels after resampling.

    Returns:
        Their grids: of the enhanced stage, or of pixels where scores or masks are all that is cut.
    """
    if not config.sees_patch or config.refines:
        patch, context = (Cells(stride=1, offset=0.0, count=side) for side in (config.patch, size))
        return MovingCells(patch=patch, context=context)
    stage, kind = stage_of(config.backbone, config.stage), backbone_class(config.backbone)
    return MovingCells(patch=cells_of(kind, stage, config.patch), context=cells_of(kind, stage, size))
