"""The windows in which a context is encoded once a raster (docs/shared-contexts.md)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from fctl.runtime.bundle.manifest import SharedEncoder
from fctl.runtime.errors import InputError
from fctl.runtime.tiling.lattice import Lattice
from fctl.runtime.tiling.windows import TilePlan

from ..backbones import Backbone, Stage, backbone_class, stage_of
from ..config import ContextConfig, NetworkConfig, ServingConfig
from .cells import cells_of


def shared_encoder(
    config: NetworkConfig,
    context: ContextConfig,
    encoder: str | None,
    *,
    serving: ServingConfig | None = None,
    framed: bool = False,
) -> SharedEncoder | None:
    """How a context is encoded once a raster.

    Its windows are some times as large as the context, so that less is lost at their borders. Where the size of the
    rasters is known, they are as large as it takes to cover one with the least work, and begin where it does.

    Args:
        config: The network.
        context: One of its contexts.
        encoder: The role of the graph that encodes one window for each patch, or None.
        serving: How the network is run, where that is known.
        framed: Whether windows are encoded as whole images are, with the backbone's padding around them.

    Returns:
        The windows; None for a global context, which many patches share in any case, and where windows would not start
        at whole pixels of the raster.
    """
    if encoder is None or not context.centred:
        return None
    scale = backbone_class(config.backbone).lattice_scale
    usual = _windows(config, context, encoder, scale * context.size, framed)
    if _lattice(config, context, usual) is None:
        return None
    if serving is None or serving.raster is None:
        return usual
    raster = max(serving.raster, config.patch)
    tiles = TilePlan(kind=serving.plan, overlap=serving.overlap).starts(raster, config.patch)
    return min(
        _choices(config, context, encoder, usual, framed),
        key=lambda windows: pixels_to_encode(config, context, windows, tiles, raster),
    )


def pixels_to_encode(
    config: NetworkConfig, context: ContextConfig, windows: SharedEncoder, tiles: tuple[int, ...], raster: int
) -> int:
    """How many pixels an encoder is shown of a square raster: those of all windows that touch it.

    Windows that do not are black, and one of them is encoded for all rasters.

    Args:
        config: The network.
        context: The context.
        windows: Its windows.
        tiles: First pixels of the tiles, along either axis.
        raster: Side of the raster in pixels.

    Returns:
        Pixels, after they are shrunk.
    """
    lattice = _lattice(config, context, windows)
    assert lattice is not None, "windows that lie on no lattice are not chosen"
    touching = lattice.touching(lattice.numbers(tiles, flipped=False), raster)
    return (len(touching) * windows.size) ** 2


def _choices(
    config: NetworkConfig, context: ContextConfig, encoder: str, usual: SharedEncoder, framed: bool
) -> Iterator[SharedEncoder]:
    """Windows to choose from, those first that are to be preferred where others take as much work."""
    stage = stage_of(config.backbone, config.stage)
    largest = backbone_class(config.backbone).lattice_limit * context.size
    yield usual
    for side in range(context.size, largest + 1, stage.stride):
        windows = _windows(config, context, encoder, side, framed)
        lattice = _lattice(config, context, windows) if windows.kept > 0 else None
        if lattice is not None:
            yield windows
            yield replace(windows, begin=_begin(lattice))


def _begin(lattice: Lattice) -> int:
    """How many cells of the first tile's context lie before window 0, if the one before that just misses the raster."""
    cell = lattice.step / lattice.kept
    return max(0, int((lattice.step - lattice.span - lattice.start(0)) // cell))


def _windows(config: NetworkConfig, context: ContextConfig, encoder: str, side: int, framed: bool) -> SharedEncoder:
    """Windows of about a side in pixels, after they are shrunk.

    Their side is such that the cells of a mirrored window lie on those of others, as they must in test-time
    augmentation.
    """
    stage, kind = stage_of(config.backbone, config.stage), backbone_class(config.backbone)
    offset = stage.offset if framed else kind.inside_grid(side, stage)[1]
    side += round(-(side - context.size + 2 * (stage.offset - offset)) % stage.stride)
    count = kind.grid(side, stage) if framed else kind.inside_grid(side, stage)[0]
    first, last = _kept(kind, stage, side, offset)
    same = (side, offset) == (context.size, stage.offset)
    return SharedEncoder(
        encoder=encoder if same else f"{encoder}_{side}", size=side, cells=cells_of(kind, stage, context.size),
        own=replace(cells_of(kind, stage, context.size), offset=offset, count=count), first=first,
        kept=last - first + 1,
    )  # fmt: skip


def _kept(kind: type[Backbone], stage: Stage, side: int, offset: float) -> tuple[int, int]:
    """The first and the last cell of a window that lie far enough from its borders."""
    margin = kind.lattice_margin * stage.stride
    return math.ceil((margin - offset) / stage.stride), int((side - 1 - margin - offset) // stage.stride)


def _lattice(config: NetworkConfig, context: ContextConfig, windows: SharedEncoder) -> Lattice | None:
    """The lattice of such windows, if they lie on one."""
    try:
        return windows.lattice(config.patch, context.window(config.patch), context.size)
    except InputError:
        return None
