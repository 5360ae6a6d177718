"""GLNet through export and runtime: two passes over a scene, against a plain loop written from the description."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

import numpy as np
import rasterio
from numpy.typing import NDArray

from fctl.export import pipeline
from fctl.export.card import ExportOptions
from fctl.export.triton import write_repository
from fctl.model.backbones import resnet50
from fctl.model.glnet import MAPS
from fctl.model.weights.checkpoints import save_checkpoint
from fctl.runtime import Paths, Segmenter
from fctl.runtime.bundle.manifest import Precision
from fctl.runtime.bundle.store import Bundle, read_bundle
from fctl.runtime.cli.info import info_app
from fctl.runtime.engines import choose
from fctl.runtime.engines.base import GpuEngine
from fctl.runtime.engines.choose import choose_engine
from fctl.runtime.engines.tensorrt.builder import build_plan, machine_for
from fctl.runtime.errors import BundleError, EngineError, InputError
from fctl.runtime.raster.source import open_raster
from fctl.runtime.segment.batches import grid_of
from fctl.runtime.segment.memory import Load, footprint
from fctl.runtime.segment.opening import load_network
from fctl.runtime.segment.pipeline import Pipeline
from fctl.runtime.segment.shards.plan import ShardPlan
from fctl.runtime.tiling.sources import ArraySource
from tests.conftest import InProcess, write_geotiff
from tests.model.glnet_naive import glnet_card, scores_of, shrunk, small_glnet
from tests.runtime.naive import TURNINGS, Turning, softmax
from tests.runtime.tiny import variant

from . import builds

SHARED, ALONE = "glnet-r50", "glnet-r50-noshare"
SCENE = 150
SIZES = {"whole": (208, 160), "blocks": (300, 160), "less than a patch": (50, 40)}

Array = NDArray[Any]
Export = Callable[[str], Path]


@pytest.fixture(scope="module", autouse=True)
def shallow() -> Iterator[None]:
    """One block a stage, for tracing takes seconds for every ten layers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resnet50, "_BLOCKS", (1, 1, 1, 1))
        patch.setattr(pipeline, "PARITY_PATCHES", 3)
        yield


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Exports a preset, once."""

    @functools.cache
    def exported(name: str) -> Path:
        network, folder = small_glnet(name), tmp_path_factory.mktemp(name)
        save_checkpoint(folder / "net.pt", glnet_card(network, SCENE), network.state_dict())
        pipeline.export_bundle(folder / "net.pt", folder / "net.fctl", ExportOptions())
        return folder / "net.fctl"

    return exported


def image_of(height: int, width: int) -> Array:
    """Blocks of colours, and noise."""
    random = np.random.default_rng(height * 1000 + width)
    coarse = random.integers(0, 256, (height // 10 + 1, width // 10 + 1, 3)).repeat(10, 0).repeat(10, 1)
    return (0.8 * coarse[:height, :width] + random.integers(0, 50, (height, width, 3))).astype(np.uint8)


# --- against the plain loop ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", [SHARED, ALONE])
def test_scores_are_those_of_the_description(name: str, size: str, export: Export) -> None:
    image = image_of(*SIZES[size])
    expected = softmax(scores_of(small_glnet(name), image, SCENE))
    with Segmenter(export(name), backend="onnxruntime", batch=3) as segmenter:
        found = segmenter.segment(image, probabilities=True)
    assert found.probabilities is not None
    np.testing.assert_allclose(found.probabilities, expected, atol=2e-3)
    assert (found.ids == expected.argmax(0)).mean() > 0.999
    assert len(np.unique(found.ids)) > 1


def test_everything_turns_in_augmentation(export: Export) -> None:
    """Patches, their window and where they are pasted: as if the image had been turned, once it is shrunk."""
    image, network = image_of(160, 112), small_glnet(SHARED)  # patches lie alike from either end

    def turned(turning: Turning) -> Array:
        def shrink(pixels: Array) -> Array:  # rounded after each axis: rows and columns are not alike
            return turning.there(shrunk(turning.back(pixels)))

        scores = scores_of(network, turning.there(image), SCENE, shrink)
        return np.moveaxis(turning.back(np.moveaxis(scores, 0, 2)), 2, 0)

    expected = softmax(np.mean([turned(turning) for turning in TURNINGS], axis=0))
    with Segmenter(export(SHARED), backend="onnxruntime", tta=True) as segmenter:
        found = segmenter.segment(image, probabilities=True)
    assert found.probabilities is not None
    np.testing.assert_allclose(found.probabilities, expected, atol=2e-3)


def test_a_region_has_the_bytes_of_the_whole(export: Export) -> None:
    """Every region sees its scene blocks anew, as every shard and every process does."""
    source = ArraySource(image_of(*SIZES["blocks"]))
    with closing(load_network(read_bundle(export(SHARED)), choose_engine("onnxruntime", "fp32"), 2)) as network:
        grid = grid_of(network.manifest, source.height, source.width)

        def scores(rows: tuple[int, int] | None, columns: tuple[int, int] | None) -> Array:
            region = grid.region(rows, columns)
            canvas = np.full((3, source.height, source.width), np.nan, np.float32)
            for block in Pipeline(network, source, probabilities=True).blocks(region):
                assert block.probabilities is not None
                canvas[:, block.y : block.window.bottom, block.x : block.window.right] = block.probabilities
            return canvas

        whole, parts = scores(None, None), np.full((3, source.height, source.width), np.nan, np.float32)
        for rows in ((0, 2), (2, 3), (3, len(grid.rows))):
            for columns in ((0, 1), (1, len(grid.columns))):
                part = scores(rows, columns)
                parts = np.where(np.isnan(part), parts, part)
    assert parts.tobytes() == whole.tobytes()


def test_a_file_is_the_array(export: Export, tmp_path: Path) -> None:
    image = image_of(*SIZES["blocks"])
    path = write_geotiff(tmp_path / "image.tif", image)
    with Segmenter(export(SHARED), backend="onnxruntime") as segmenter:
        ids = segmenter.segment(image).ids
        segmenter.segment_file(path, Paths(mask=tmp_path / "mask.tif"))
    with rasterio.open(tmp_path / "mask.tif") as mask:
        np.testing.assert_array_equal(mask.read(1), ids)


# --- what the bundle says --------------------------------------------------------------------------------------------


def test_the_manifest_says_what_is_passed_on(export: Export) -> None:
    manifest = read_bundle(export(SHARED)).manifest
    scene, merged = manifest.contexts
    assert scene.maps == MAPS and scene.gathering is None
    assert merged.maps == () and merged.gathering is not None
    assert [one.name for one in merged.gathering.maps] == list(MAPS)
    assert {graph.role for graph in manifest.graphs} == {"encoder_scene", "patches", "encoder_merged", "segmenter"}
    effects = {effect.name: effect.change for effect in manifest.parity[0].contexts}
    assert effects.keys() == {"scene", "merged"} and min(effects.values()) > 1e-2
    alone = read_bundle(export(ALONE)).manifest
    assert [(context.name, context.maps, context.gathering) for context in alone.contexts] == [("scene", (), None)]
    assert alone.host_only is None


def test_info_tells_of_the_passes(export: Export, in_process: InProcess) -> None:
    told = " ".join(in_process(info_app, str(export(SHARED))).stdout.replace("│", " ").split())
    assert "encoder_scene as 8 maps" in told
    assert "in a second pass with 8 maps that patches makes of all patches in it and of scene" in told


def change_of(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        found: Any = manifest
        for key in parents:
            found = found[int(key)] if isinstance(found, list) else found[key]
        found[last] = value

    return change


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("contexts.1.scene", None, "contexts[1].gathering: expected null: it takes a global context with a scene"),
        ("contexts.1.gathering.context", "merged", "gathering.context: expected an earlier one of the same windows"),
        ("contexts.0.scene", 160, "gathering.context: expected an earlier one of the same windows"),
        ("contexts.1.gathering.encoder", "nobody", "gathering.encoder: expected the role of a graph, found nobody"),
        ("contexts.1.gathering.plan.overlap", 64, "gathering.plan.overlap: expected 0 to 63, found 64"),
        ("contexts.1.gathering.maps", [], "graphs: inputs of encoder_merged: expected window"),
        ("contexts.1.gathering.maps.0.patch.count", 15, "gathering.maps[0]: expected (16, 16) of the graph, found 15"),
        ("contexts.1.gathering.maps.0.name", "c9", "graphs: inputs of encoder_merged: expected"),
        ("contexts.0.maps", ["c2", "c2"], "contexts[0].maps: expected distinct names"),
        ("contexts.0.maps", list(MAPS[1:]), "graphs: inputs of patches: expected"),
        ("contexts.0.maps", [*MAPS[:-1], "../p"], "contexts[0].maps: expected distinct names of letters"),
        ("contexts.1.gathering", None, "graphs: inputs of encoder_merged: expected window, found window, gathered_c2"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(
    path: str, value: object, message: str, export: Export, tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match=re.escape(message)):
        read_bundle(variant(export(SHARED), tmp_path, change_of(path, value)))


def test_memory_is_bounded_by_the_scene_and_counts_its_maps(export: Export, tmp_path: Path) -> None:
    found: dict[str, list[int]] = {}
    for name in (SHARED, ALONE):
        manifest = read_bundle(export(name)).manifest
        load = Load(manifest=manifest, batch=2, probabilities=False, picture=False)
        for rows in (300, 1200):
            path = write_geotiff(tmp_path / f"{rows}.tif", np.zeros((rows, 160, 3), np.uint8))
            with open_raster(path, manifest.input, None) as raster:
                plan = ShardPlan.over(grid_of(manifest, raster.height, raster.width))
                found.setdefault(name, []).append(footprint(load, raster, plan).segmenting)
    assert found[SHARED][0] == found[SHARED][1]
    channels = (32 + 64 + 128 + 256 + 4 * 32, 64)  # of maps of the stages and of the pyramid, and of the last features
    cells = 16 * 16
    assert found[SHARED][0] - found[ALONE][0] > 4 * cells * (channels[0] // 8 + channels[1])


# --- other precisions and engines ------------------------------------------------------------------------------------


def ids_in(bundle: Bundle, precision: Precision, image: Array) -> Array:
    with closing(load_network(bundle, choose_engine("onnxruntime", precision), 2)) as network:
        source = ArraySource(image)
        region = grid_of(network.manifest, source.height, source.width).region()
        canvas = np.zeros(image.shape[:2], np.uint8)
        for block in Pipeline(network, source).blocks(region):
            canvas[block.y : block.window.bottom, block.x : block.window.right] = block.ids
        return canvas


@pytest.mark.parametrize(("precision", "least"), [("fp16", 0.99), ("int8", 0.9)])
def test_other_precisions_run_and_tensorrt_builds_them(
    precision: Precision, least: float, export: Export, tmp_path: Path
) -> None:
    bundle, image = read_bundle(export(SHARED)), image_of(*SIZES["whole"])
    made = (builds.halved if precision == "fp16" else builds.quantised)(bundle, tmp_path)
    agreement = (ids_in(made, precision, image) == ids_in(bundle, "fp32", image)).mean()
    assert agreement >= least
    if precision == "fp16":
        for graph in made.manifest.graphs:
            kinds = {spec.name: spec.dtype for spec in (*graph.inputs, *graph.outputs)}
            assert {kind for name, kind in kinds.items() if name.startswith("features")} == {"float16"}
            assert {kind for name, kind in kinds.items() if name.startswith("gathered")} <= {"float32"}
    pytest.importorskip("tensorrt_rtx")
    kind = {"fp16": "Half", "int8": "Int8"}[precision]
    for graph in made.manifest.graphs:
        _, record = build_plan(made.folder / graph.file, graph, builds.OPTIONS, machine_for(builds.OPTIONS))
        assert record.layers is not None and kind in record.layers.products, graph.role


def test_engines_that_keep_everything_on_a_gpu_are_refused(export: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = read_bundle(export(SHARED))
    with pytest.raises(EngineError, match=r"onnxruntime-cuda keeps everything on the GPU: context 'scene' has several"):
        choose_engine("onnxruntime-cuda", "fp32", bundle)
    monkeypatch.setattr(choose.driver, "missing", lambda: None)  # as on a machine with a GPU
    with closing(choose_engine("auto", "fp32", bundle)) as engine:
        assert not isinstance(engine, GpuEngine)
    assert read_bundle(export(ALONE)).manifest.host_only is None


def test_there_is_no_single_graph_of_two_passes(export: Export, tmp_path: Path) -> None:
    checkpoint = export(SHARED).with_name("net.pt")
    with pytest.raises(InputError, match=r"`graph`: a network of two passes cannot be one graph; leave it out"):
        pipeline.export_bundle(checkpoint, tmp_path / "fused.fctl", ExportOptions(graph="fused"))
    with pytest.raises(BundleError, match="its graphs cannot be one"):
        write_repository(read_bundle(export(SHARED)), tmp_path / "models", precision="fp32")
    assert list(tmp_path.iterdir()) == []


def test_a_scene_must_be_known(export: Export, tmp_path: Path) -> None:
    network = small_glnet(SHARED)
    save_checkpoint(tmp_path / "net.pt", glnet_card(network, None), network.state_dict())
    with pytest.raises(InputError, match=r"`scene_size`: a network of two passes must know"):
        pipeline.export_bundle(tmp_path / "net.pt", tmp_path / "net.fctl", ExportOptions())
