"""Contexts that are encoded once a raster: masks of exact ones where cells are whole, and the same bytes anywhere."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from fctl.runtime import Paths, Segmenter
from fctl.runtime.bundle.manifest import Context
from fctl.runtime.bundle.store import read_bundle
from fctl.runtime.engines.choose import choose_engine
from fctl.runtime.errors import BundleError, InputError, OutputError
from fctl.runtime.segment.batches import grid_of
from fctl.runtime.segment.host import HostNetwork
from fctl.runtime.segment.pipeline import Pipeline, segment_rows
from fctl.runtime.segment.trial import windows_of
from fctl.runtime.tiling.sources import ArraySource
from fctl.runtime.tiling.turns import DIHEDRAL, UPRIGHT, Turn
from tests.conftest import write_geotiff
from tests.runtime import tiny

Array = NDArray[Any]

TURNS = pytest.mark.parametrize("turns", [(UPRIGHT,), DIHEDRAL], ids=["upright", "tta"])


def network_of(batch: int = 4, *, once: bool = True) -> HostNetwork:
    return HostNetwork(read_bundle(tiny.TINY_ONCE), choose_engine("onnxruntime", "fp32"), batch, once=once)


@pytest.fixture
def network() -> Iterator[HostNetwork]:
    with closing(network_of()) as opened:
        yield opened


@pytest.fixture
def exact() -> Iterator[HostNetwork]:
    with closing(network_of(once=False)) as opened:
        yield opened


def noise(height: int, width: int) -> Array:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def probabilities_of(network: HostNetwork, image: Array, turns: tuple[Turn, ...]) -> Array:
    rows = segment_rows(network, ArraySource(image), probabilities=True, turns=turns)
    return np.concatenate([row.probabilities for row in rows if row.probabilities is not None], axis=1)


@TURNS
def test_where_cells_are_whole_nothing_changes(
    network: HostNetwork, exact: HostNetwork, turns: tuple[Turn, ...]
) -> None:
    """Cells of this network are means of blocks, so that no border is seen: black beyond the raster included."""
    image = noise(160, 208)  # multiples of the tile and of both cells
    found = probabilities_of(network, image, turns)
    np.testing.assert_array_equal(found, probabilities_of(exact, image, turns))


@TURNS
def test_between_cells_they_are_interpolated(network: HostNetwork, exact: HostNetwork, turns: tuple[Turn, ...]) -> None:
    """A ramp is what linear interpolation gets right; tiles at the end lie between cells."""
    ramp = np.add.outer(np.arange(0, 141), np.arange(0, 203))[..., None] * np.ones(3) / 2 + 40
    image = ramp.astype(np.uint8)
    found, expected = (probabilities_of(one, image, turns) for one in (network, exact))
    inside = np.s_[:, 56:-56, 56:-56]  # where no context reaches beyond the raster
    assert np.abs(found - expected)[inside].max() < 0.05 < np.abs(found - expected).max() + 0.05
    assert (found.argmax(0) == expected.argmax(0)).mean() > 0.97


@pytest.mark.once
@TURNS
@pytest.mark.parametrize("batch", [1, 3])
def test_regions_give_the_bytes_of_the_whole(network: HostNetwork, turns: tuple[Turn, ...], batch: int) -> None:
    """Features depend on the raster alone: not on where a run started, nor on its batches."""
    image = noise(147, 230)
    whole = probabilities_of(network, image, turns)
    with closing(network_of(batch)) as other:
        grid = grid_of(other.manifest, *image.shape[:2])
        for rows in pairwise((0, 1, 4, len(grid.rows))):
            for columns in pairwise((0, 6, len(grid.columns))):
                pipeline = Pipeline(other, ArraySource(image), probabilities=True, turns=turns)
                for block in pipeline.blocks(grid.region(rows, columns)):
                    here = np.s_[:, block.y : block.window.bottom, block.x : block.window.right]
                    np.testing.assert_array_equal(block.probabilities, whole[here])


def test_each_window_is_encoded_once(network: HostNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[tuple[str, bytes]] = []
    encode = network.encode_once

    def noted(context: Context, window: Array) -> Array:
        encoded.append((context.name, window.tobytes()))
        return encode(context, window)

    monkeypatch.setattr(network, "encode_once", noted)
    image = noise(160, 208)
    list(segment_rows(network, ArraySource(image)))
    assert len(encoded) == len(set(encoded))  # those beyond the raster are black, and one and the same
    by_name = {name: sum(one == name for one, _ in encoded) for name in ("medium", "large")}
    tiles = len(grid_of(network.manifest, 160, 208))
    assert 0 < by_name["large"] < by_name["medium"] < tiles / 4, by_name
    foreseen = windows_of(
        network.lattices, ArraySource(image), [grid_of(network.manifest, 160, 208).region()], (UPRIGHT,)
    )
    assert foreseen == sum(bool(any(window)) for _, window in encoded)


def test_a_black_window_is_encoded_once_for_all_rasters(network: HostNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those beyond the raster, and those inside of it that show nothing, however they are turned."""
    black, encode = list[str](), network.encode_once

    def noted(context: Context, window: Array) -> Array:
        black.extend([] if window.any() else [context.name])
        return encode(context, window)

    monkeypatch.setattr(network, "encode_once", noted)
    image = noise(160, 208)
    image[:, 100:] = 0
    found = [probabilities_of(network, image, DIHEDRAL) for _ in range(2)]
    assert sorted(black) == ["large", "medium"]
    np.testing.assert_array_equal(*found)


@TURNS
def test_where_the_lattice_begins_makes_no_difference_to_cells_that_see_no_border(
    exact: HostNetwork, turns: tuple[Turn, ...], tmp_path: Path
) -> None:
    def later(manifest: Any) -> None:
        for context, begin in zip(manifest["contexts"], (2, 1), strict=True):
            context["sharing"]["begin"] = begin

    bundle, image = read_bundle(tiny.variant(tiny.TINY_ONCE, tmp_path / "later.fctl", later)), noise(160, 208)
    with closing(HostNetwork(bundle, choose_engine("onnxruntime", "fp32"), 4, once=True)) as network:
        starts = [lattice.start(0) for lattice in network.lattices.values()]
        assert starts != [lattice.start(0) for lattice in read_bundle(tiny.TINY_ONCE).manifest.lattices.values()]
        found = probabilities_of(network, image, turns)
    np.testing.assert_array_equal(found, probabilities_of(exact, image, turns))


def test_black_beyond_the_raster_also_where_a_window_lies_outside(network: HostNetwork, exact: HostNetwork) -> None:
    image = noise(16, 16)
    np.testing.assert_array_equal(
        probabilities_of(network, image, (UPRIGHT,)), probabilities_of(exact, image, (UPRIGHT,))
    )


# --- which way is taken -----------------------------------------------------------------------------------------------


def test_auto_takes_what_the_bundle_was_validated_for(tmp_path: Path) -> None:
    failed = tiny.variant(tiny.TINY_ONCE, tmp_path / "failed", lambda m: m["sharing"].update(agreement=0.98))
    little_lost = tiny.variant(
        tiny.TINY_ONCE, tmp_path / "lost", lambda m: m["sharing"].update(agreement=0.98, lost=0.15)
    )
    unknown = tiny.variant(tiny.TINY_ONCE, tmp_path / "unknown", lambda m: m.pop("sharing"))
    ways = {}
    for bundle in (tiny.TINY_ONCE, failed, little_lost, unknown, tiny.TINY):
        with Segmenter(bundle, backend="onnxruntime") as segmenter:
            ways[bundle] = segmenter.once
    assert list(ways.values()) == [True, False, True, False, False]


def test_what_was_not_validated_runs_with_a_warning_that_names_the_command(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = tiny.variant(tiny.TINY_ONCE, tmp_path, lambda m: m.pop("sharing"))
    with caplog.at_level(logging.WARNING), Segmenter(bundle, backend="onnxruntime", contexts="shared") as segmenter:
        assert segmenter.once
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning == (
        f"bundle tiny_once was not validated for shared contexts: do so with fctl-export {bundle} "
        "--share-contexts IMAGES --out NAME.fctl"
    )


def test_what_did_not_pass_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bundle = tiny.variant(tiny.TINY_ONCE, tmp_path, lambda m: m["sharing"].update(agreement=0.5))
    with caplog.at_level(logging.WARNING), Segmenter(bundle, backend="onnxruntime", contexts="shared"):
        pass
    assert "did not pass with shared contexts: 50.0 % of the pixels of whole cells kept" in caplog.text


@pytest.mark.parametrize(
    ("bundle", "remedy"), [(tiny.TINY, "--share-contexts IMAGES"), (tiny.TINY_PLAIN, "leave it out")]
)
def test_a_bundle_that_cannot_is_refused_in_one_line(bundle: Path, remedy: str) -> None:
    with pytest.raises(InputError, match=rf"no contexts that could be encoded once a raster.*{remedy}"):
        Segmenter(bundle, backend="onnxruntime", contexts="shared")


def test_another_word_is_refused() -> None:
    with pytest.raises(InputError, match=r"expected .auto., .exact. or .shared., found .all."):
        Segmenter(tiny.TINY, backend="onnxruntime", contexts="all")  # type: ignore[arg-type]


def test_windows_are_counted_when_time_is_foreseen(tmp_path: Path) -> None:
    image = write_geotiff(tmp_path / "image.tif", noise(300, 420))
    with Segmenter(tiny.TINY_ONCE, backend="onnxruntime") as segmenter:
        found = segmenter.estimate(image, Paths(mask=tmp_path / "mask.tif"), trial=True)
    assert found.seconds is not None and found.seconds > 0 and found.tiles == 19 * 27


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_mask_tells_how_contexts_were_encoded(tmp_path: Path) -> None:
    write_geotiff(tmp_path / "image.tif", noise(100, 120))
    told = {}
    for contexts in ("exact", "shared"):
        mask = tmp_path / f"{contexts}.tif"
        with Segmenter(tiny.TINY_ONCE, backend="onnxruntime", contexts=contexts) as segmenter:  # type: ignore[arg-type]
            segmenter.segment_file(tmp_path / "image.tif", Paths(mask=mask))
            ids = segmenter.segment(noise(100, 120)).ids
        with rasterio.open(mask) as dataset:
            np.testing.assert_array_equal(dataset.read(1), ids)
            told[contexts] = dataset.tags().get("FCTL_CONTEXTS")
    assert told == {"exact": None, "shared": "shared"}


def test_a_run_is_not_resumed_in_the_other_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_geotiff(tmp_path / "image.tif", noise(100, 120))
    paths = Paths(mask=tmp_path / "mask.tif")
    monkeypatch.setattr("fctl.runtime.segment.filerun.write_outputs", _fails)
    with Segmenter(tiny.TINY_ONCE, backend="onnxruntime") as segmenter, pytest.raises(RuntimeError):
        segmenter.segment_file(tmp_path / "image.tif", paths)
    monkeypatch.undo()
    with (
        Segmenter(tiny.TINY_ONCE, backend="onnxruntime", contexts="exact") as segmenter,
        pytest.raises(OutputError, match="contexts"),
    ):
        segmenter.segment_file(tmp_path / "image.tif", paths, resume=True)


def _fails(*_: object) -> None:
    raise RuntimeError("stopped here")


# --- what a manifest may not say --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("encoder", "nobody", "the role of a graph, found nobody"),
        ("size", 31, "windows on a lattice|of the graph, found 31"),
        ("size", 1 << 20, "1 to 65536 pixels"),
        ("first", 7, "windows on a lattice"),
        ("kept", 0, "windows on a lattice"),
        ("own", {"stride": 4, "offset": 1.5, "count": 9}, "windows on a lattice|sharing.own"),
        ("cells", {"stride": 4, "offset": 1e9, "count": 4}, "cells with values"),
        ("cells", {"stride": 4, "offset": float("nan"), "count": 4}, "cells with values|NaN"),
        ("own", {"stride": 4, "offset": float("inf"), "count": 8}, "cells with values|Infinity"),
        ("cells", {"stride": 4, "offset": 1.5, "count": 5}, "of encoder_medium, found 5"),
    ],
)
def test_windows_that_do_not_fit_are_refused(tmp_path: Path, field: str, value: object, message: str) -> None:
    bundle = tiny.variant(tiny.TINY_ONCE, tmp_path, lambda m: m["contexts"][0]["sharing"].update({field: value}))
    with pytest.raises(BundleError, match=message):
        read_bundle(bundle)


@pytest.mark.parametrize(
    ("number", "field", "value", "message"),
    [
        (0, "factor", 1e300, "contexts\\[0\\].factor|a factor"),
        (1, "size", 0, "contexts\\[1\\]"),
        (0, "size", 1, "contexts\\[0\\]"),
    ],
)
def test_windows_of_a_context_that_makes_no_sense_are_one_error(
    tmp_path: Path, number: int, field: str, value: object, message: str
) -> None:
    bundle = tiny.variant(tiny.TINY_ONCE, tmp_path, lambda m: m["contexts"][number].update({field: value}))
    with pytest.raises(BundleError, match=message):
        read_bundle(bundle)


def test_shared_features_have_the_dtype_that_the_segmenter_takes(tmp_path: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        graph = next(graph for graph in manifest["graphs"] if graph["role"] == "encoder_medium_once")
        graph["outputs"][0]["dtype"] = "float16"

    with pytest.raises(BundleError, match=r"sharing.encoder: expected float32 features"):
        read_bundle(tiny.variant(tiny.TINY_ONCE, tmp_path, change))


def test_panels_leave_no_features_behind(network: HostNetwork) -> None:
    """Those of the lower border would never be forgotten: no later panel begins below them."""
    pipeline, held = Pipeline(network, ArraySource(noise(147, 230))), list[int]()
    grid = grid_of(network.manifest, 147, 230)
    for columns in pairwise(range(0, len(grid.columns), 3)):
        list(pipeline.blocks(grid.region(columns=columns)))
        held.append(len(pipeline._cache))
    assert max(held) <= held[0] + 3 and sum(not scene.black for scene in pipeline._cutter._scenes.values()) == len(
        pipeline._cache
    )


def test_a_trial_in_all_turns_finds_its_windows(tmp_path: Path) -> None:
    """Mirrored, tiles need other windows; those of this lattice lie one cell further."""

    def change(manifest: dict[str, Any]) -> None:
        for context in manifest["contexts"]:
            context["sharing"].update(first=0, kept=7)

    bundle = tiny.variant(tiny.TINY_ONCE, tmp_path, change)
    image = write_geotiff(tmp_path / "image.tif", noise(100, 120))
    with Segmenter(bundle, backend="onnxruntime", tta=True) as segmenter:
        assert segmenter.estimate(image, Paths(mask=tmp_path / "mask.tif"), trial=True).seconds


def test_a_global_context_has_no_lattice(tmp_path: Path) -> None:
    sharing = json.loads((tiny.TINY_ONCE / "manifest.json").read_text())["contexts"][0]["sharing"]
    bundle = tiny.variant(tiny.TINY_GLOBAL, tmp_path, lambda m: m["contexts"][0].update(sharing=sharing))
    with pytest.raises(BundleError, match="only a centred context with an encoder"):
        read_bundle(bundle)
