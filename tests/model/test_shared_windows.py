"""Windows in which contexts are encoded once a raster, where the size of the rasters is known."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("torch")

from fctl.model.config import ContextConfig, NetworkConfig
from fctl.model.presets import PRESETS, Preset
from fctl.model.serving.shared import pixels_to_encode, shared_encoder
from fctl.runtime.bundle.manifest import SharedEncoder
from fctl.runtime.tiling.lattice import Lattice
from fctl.runtime.tiling.windows import TilePlan

CENTRED = [
    (name, context.name)
    for name in ("fctl-lite0", "fctl-vgg16", "fctl-mit-b0", "release-deepglobe")
    for context in PRESETS[name].network.contexts
    if context.centred
]


def context_of(network: NetworkConfig, name: str) -> ContextConfig:
    return next(context for context in network.contexts if context.name == name)


def windows_of(preset: Preset, context: ContextConfig, raster: int | None) -> SharedEncoder:
    found = shared_encoder(preset.network, context, "encoder", serving=replace(preset.serving, raster=raster))
    assert found is not None
    return found


def lattice_of(windows: SharedEncoder, network: NetworkConfig, context: ContextConfig) -> Lattice:
    return windows.lattice(network.patch, context.window(network.patch), context.size)


@pytest.mark.parametrize(("name", "context"), CENTRED)
@pytest.mark.parametrize("raster", [600, 2448, 5000])
def test_fitted_windows_do_no_more_work_than_the_usual_ones(name: str, context: str, raster: int) -> None:
    preset = PRESETS[name]
    one, plan = context_of(preset.network, context), TilePlan(kind=preset.serving.plan, overlap=preset.serving.overlap)
    tiles = plan.starts(raster, preset.network.patch)
    usual, fitted = (windows_of(preset, one, side) for side in (None, raster))
    work, before = (pixels_to_encode(preset.network, one, made, tiles, raster) for made in (fitted, usual))
    assert 0 < work <= before
    lattice = lattice_of(fitted, preset.network, one)
    for start in tiles:  # each finds all of its cells, whole ones where the step allows it, as before
        place = lattice.place(start)
        assert sum(piece.count for piece in place.pieces) == lattice.cells.count + (place.beyond > 0)
        assert place.beyond == lattice_of(usual, preset.network, one).place(start).beyond
        mirrored = lattice.place(start, flipped=True)
        assert (mirrored.beyond == 0) == (lattice_of(usual, preset.network, one).place(start, flipped=True).beyond == 0)


def test_windows_that_begin_with_the_raster_leave_a_black_one_before_it() -> None:
    preset = PRESETS["fctl-vgg16"]
    large = context_of(preset.network, "large")
    fitted = windows_of(preset, large, 5000)
    lattice = lattice_of(fitted, preset.network, large)
    assert fitted.begin > 0
    assert lattice.start(-1) + lattice.span <= 0 < lattice.start(0) + lattice.span
    assert lattice.start(-1) + lattice.span > -lattice.step / lattice.kept  # not a cell later than it could
    assert -1 in lattice.numbers((0,), flipped=False)


def test_one_window_shows_a_raster_of_deepglobe() -> None:
    preset = PRESETS["release-deepglobe"]
    medium = context_of(preset.network, "medium")
    tiles = TilePlan(kind="even", overlap=50).starts(2448, 508)
    fitted = windows_of(preset, medium, 2448)
    assert pixels_to_encode(preset.network, medium, fitted, tiles, 2448) == fitted.size**2
    assert fitted.size < 1.1 * windows_of(preset, medium, None).size
