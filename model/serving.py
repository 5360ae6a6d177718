"""How the contexts of a network are cut and placed when it is run: in training, in validation, in its bundle."""

from __future__ import annotations

from collections.abc import Mapping

from fctl.runtime.bundle import Context, MovingCells
from fctl.runtime.contexts import Cells

from .backbones import backbone_class, stage_of
from .config import GLOBAL, NetworkConfig, ServingConfig


def served_contexts(
    config: NetworkConfig, serving: ServingConfig, encoders: Mapping[str, str | None]
) -> tuple[Context, ...]:
    """The contexts as a manifest has them. encoders: the role of each one's encoder, by name."""
    return tuple(
        Context(
            name=context.name,
            factor=context.factor,
            size=context.size,
            resampling=serving.resampling,
            scene=serving.scene if context.factor == GLOBAL else None,
            encoder=encoders[context.name],
            cells=_moving_cells(config, context.size) if context.name in config.placed else None,
        )
        for context in config.contexts
    )


def _moving_cells(config: NetworkConfig, size: int) -> MovingCells:
    stage, kind = stage_of(config.backbone, config.stage), backbone_class(config.backbone)
    patch, context = (
        Cells(stride=stage.stride, offset=stage.offset, count=kind.grid(side, stage)) for side in (config.patch, size)
    )
    return MovingCells(patch=patch, context=context)
