"""How a global context is encoded in a second pass over its window, with what the patches in it know."""

from __future__ import annotations

from dataclasses import dataclass

from ..tiling.contexts import Cells
from ..tiling.windows import TilePlan


@dataclass(frozen=True, slots=True, kw_only=True)
class GatheredMap:
    """One map of a window, put together of those of the patches in it (`fctl.runtime.tiling.pasting`).

    Attributes:
        name: Its name: ``features_NAME`` of the graph that computes it for a patch, ``gathered_NAME`` of the encoder.
        patch: Cells of the patch.
        scene: Cells of the window, as the encoder takes them.
    """

    name: str
    patch: Cells
    scene: Cells


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathering:
    """How a window is encoded once more, with what the patches in it know: a second pass over a scene.

    Attributes:
        context: The global context before this one that shows the same window. Patches are given its features.
        encoder: Role of the graph that computes maps of patches. It takes what a segmenter would take of that context.
        plan: How patches cover the window.
        maps: The maps that are put together, in the order of the encoder's inputs.
    """

    context: str
    encoder: str
    plan: TilePlan
    maps: tuple[GatheredMap, ...]
