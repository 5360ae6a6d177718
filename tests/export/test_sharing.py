"""Bundles whose contexts are encoded once a raster: their geometry, their graphs, and what they say was measured."""

from __future__ import annotations

import functools
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

import numpy as np
import onnx
import onnx.numpy_helper
from numpy.typing import NDArray
from PIL import Image

from fctl.calib.sample import sample_patches, shipped_images
from fctl.export.card import ExportOptions
from fctl.export.cli.command import app
from fctl.export.compare import ComparedOn
from fctl.export.pipeline import export_bundle
from fctl.export.sharing import share_contexts
from fctl.export.verify import verify_shared
from fctl.model.config import NetworkConfig
from fctl.model.presets import narrow, preset
from fctl.model.serving.manifest import draft_manifest
from fctl.model.serving.module_network import ModuleNetwork
from fctl.runtime.bundle.store import Bundle, read_bundle, sha256, write_manifest
from fctl.runtime.bundle.verdicts import SharedVerdict
from fctl.runtime.errors import BundleError, InputError, OutputError, ParityError
from fctl.runtime.segment.batches import BatchCutter, turned
from fctl.runtime.tiling.sources import ArraySource
from fctl.runtime.tiling.turns import DIHEDRAL, Turn
from fctl.runtime.tiling.windows import Window
from tests.conftest import InProcess
from tests.model.helpers import lively, save_small, small_card, small_config
from tests.runtime import tiny

Array = NDArray[Any]


# --- where cells lie --------------------------------------------------------------------------------------------------


measured = functools.cache(lively)  # statistics of full patches take longest


def networks(config: NetworkConfig) -> tuple[ModuleNetwork, ModuleNetwork]:
    """The same network, with contexts encoded once a patch and once a raster."""
    network = measured(config)
    roles = {name: f"encoder_{name}" for name in config.context_names}
    manifest = draft_manifest("drafted", small_card(config), roles)
    return ModuleNetwork(manifest, network, 1), ModuleNetwork(manifest, network, 1, once=True)


def features(network: ModuleNetwork, source: ArraySource, tile: Window, turn: Turn) -> dict[str, Array]:
    manifest = network.manifest
    batch = BatchCutter(manifest, source, network.lattices, turned=True).cut((tile,), 1)
    found: dict[str, Any] = network.encode_contexts(turned(manifest, batch, turn), turn)
    return {name: tensor.numpy()[0] for name, tensor in found.items()}


@pytest.mark.parametrize("turn", [DIHEDRAL[0], DIHEDRAL[3], DIHEDRAL[6]], ids=str)
@pytest.mark.parametrize("name", ["fctl-vgg16", "lcc-vgg16"])
def test_cells_that_see_no_border_are_those_of_exact_contexts(name: str, turn: Turn, rng: np.random.Generator) -> None:
    """In the middle of the patch: at another place in a window, without padding, and mirrored, they are the same.

    Cells of the other backbones see further than a context.
    """
    config = narrow(preset(name, classes=3).network, 0.125)
    exact, shared = networks(config)
    source = ArraySource(rng.integers(0, 256, (1800, 2000, 3), np.uint8))
    lattice = shared.lattices["medium"]
    cell = int(lattice.step) // lattice.kept
    start = lattice.start(0) + (lattice.first + lattice.kept // 2) * cell  # whose middle lies in that of window 0
    start = max(0, start - lattice.tile // 2) // cell * cell
    tile = Window(start, start, lattice.tile, lattice.tile)
    assert lattice.place(start).beyond == 0
    found, expected = (features(one, source, tile, turn)["medium"] for one in (shared, exact))
    middle = expected.shape[1] // 2
    inner = np.s_[:, middle - 2 : middle + 2, middle - 2 : middle + 2]
    assert np.abs(found - expected)[inner].max() < 2e-3 * np.abs(expected).max()
    assert np.abs(found - expected).max() > 1e-2 * np.abs(expected).max()  # the outer ones saw the border


def test_what_the_backbone_gives_is_where_it_says() -> None:
    for name in ("fctl-vgg16", "fctl-mit-b0", "fctl-lite0"):
        config = narrow(preset(name, classes=3).network, 0.125)
        _, shared = networks(config)
        for context in shared.manifest.contexts:
            sharing = context.sharing
            assert sharing is not None
            window = np.zeros((1, 3, sharing.size, sharing.size), np.uint8)
            found: Any = shared.encode_once(context, window)
            assert found.shape[2:] == (sharing.own.count,) * 2
            assert shared.lattices[context.name].place(0).beyond == 0
            assert shared.lattices[context.name].place(0, flipped=True).beyond == 0


# --- graphs -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("sharing")
    checkpoint = save_small(folder / "checkpoint.pt", lively(small_config()))
    export_bundle(checkpoint, folder / "small.fctl", ExportOptions())
    return read_bundle(folder / "small.fctl")


def test_an_export_can_share_its_contexts_and_does_not_say_that_it_may(exported: Bundle) -> None:
    assert set(exported.manifest.lattices) == {"medium", "large"}
    assert exported.manifest.shared_roles == {"encoder_medium_128", "encoder_large_128"}
    assert exported.manifest.sharing is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ExportOptions(raster=63), "`raster_size`: expected at least the 64 pixels of a patch, found 63"),
        (ExportOptions(raster=500, graph="fused"), "`raster_size`: no context is encoded once a raster"),
    ],
)
def test_a_size_of_rasters_that_means_nothing_is_refused(options: ExportOptions, message: str, tmp_path: Path) -> None:
    checkpoint = save_small(tmp_path / "checkpoint.pt", lively(small_config()))
    with pytest.raises(InputError, match=re.escape(message)):
        export_bundle(checkpoint, tmp_path / "out.fctl", options)


def test_graphs_of_larger_windows_are_compared_with_the_network(exported: Bundle, tmp_path: Path) -> None:
    network = ModuleNetwork(exported.manifest, lively(small_config()), 1, once=True)
    [batch] = sample_patches(exported.manifest, shipped_images(), 1, seed=0)
    verify_shared(exported, network, batch)
    folder = tmp_path / "other.fctl"
    shutil.copytree(exported.folder, folder)
    model = onnx.load(folder / "encoder_large_128.onnx")
    weight = next(one for one in model.graph.initializer if len(one.dims) == 4)
    weight.CopyFrom(onnx.numpy_helper.from_array(1.01 * onnx.numpy_helper.to_array(weight), weight.name))
    onnx.save(model, folder / "encoder_large_128.onnx")
    with pytest.raises(ParityError, match=r"features of context large differ from the network's by [0-9.e-]+ of the"):
        verify_shared(Bundle(folder, exported.manifest), network, batch)


# --- what was measured ------------------------------------------------------------------------------------------------


def bare(bundle: Bundle, folder: Path) -> Bundle:
    """A bundle as it was before contexts could be shared."""
    shutil.copytree(bundle.folder, folder)
    manifest = bundle.manifest
    for role in manifest.shared_roles:
        (folder / f"{role}.onnx").unlink()
    contexts = tuple(replace(context, sharing=None) for context in manifest.contexts)
    graphs = tuple(graph for graph in manifest.graphs if graph.role not in manifest.shared_roles)
    write_manifest(folder, replace(manifest, contexts=contexts, graphs=graphs, schema="1.1"))
    return read_bundle(folder)


def test_a_bundle_of_before_gets_the_same_graphs(exported: Bundle, images: Path, tmp_path: Path) -> None:
    before = bare(exported, tmp_path / "before.fctl")
    made = share_contexts(before, tmp_path / "after.fctl", ComparedOn(images=[images]))
    assert read_bundle(made.folder).manifest == made.manifest
    assert made.manifest.contexts == exported.manifest.contexts
    assert [graph.role for graph in made.manifest.graphs][-1] == "segmenter"
    assert {g.role: g.sha256 for g in made.manifest.graphs} == {g.role: g.sha256 for g in exported.manifest.graphs}
    verdict = made.manifest.sharing
    assert verdict is not None and verdict.pixels == 2 * 90 * 130 and verdict.source == "images"
    assert 0 < verdict.agreement < 1 and verdict.lost is None and verdict.engine == "onnxruntime"


def test_the_command_line_copies_a_bundle_and_shows_the_verdict(
    exported: Bundle, images: Path, tmp_path: Path, in_process: InProcess
) -> None:
    out = tmp_path / "after.fctl"
    done = in_process(app, exported.folder, "--share-contexts", images, "-o", out)
    assert done.returncode == 0, done.stderr
    verdict = read_bundle(out).manifest.sharing
    assert verdict is not None
    assert f"{verdict.agreement:.2%} of 23400 pixels keep their class" in " ".join(done.stdout.split())


def test_labels_decide_where_there_are_some(
    images: Path, tmp_path: Path, in_process: InProcess, exported: Bundle
) -> None:
    labels = images / "labels"
    labels.mkdir()
    names = exported.manifest.class_names
    for name in ("a", "b"):
        Image.fromarray(np.zeros((90, 130), np.uint8)).save(labels / f"{name}.png")
    described = (
        '{"name": "Zeros", "images": "*.png", "masks": "labels/*.png", "classes": ['
        + ", ".join(f'{{"name": "{name}", "values": [{index}], "counted": true}}' for index, name in enumerate(names))
        + '], "ignore": [], "threshold": null}'
    )
    (images / "dataset.json").write_text(described)
    out = tmp_path / "after.fctl"
    done = in_process(app, exported.folder, "--share-contexts", images, "--eval", images, "-o", out)
    assert done.returncode == 0, done.stderr
    verdict = read_bundle(out).manifest.sharing
    assert verdict is not None and verdict.lost is not None and verdict.source == "Zeros, 2 images"


@pytest.mark.parametrize(
    ("verdict", "passed"),
    [
        ({"agreement": 0.985, "lost": None}, True),
        ({"agreement": 0.9849, "lost": None}, False),
        ({"agreement": 0.5, "lost": 0.2}, True),
        ({"agreement": 0.5, "lost": 0.21}, False),
        ({"agreement": 0.99, "lost": 3.0}, True),
    ],
)
def test_the_limits_of_auto(verdict: dict[str, float | None], passed: bool) -> None:
    made = SharedVerdict(pixels=1, source="", engine="", agreement=verdict["agreement"] or 0, lost=verdict["lost"])
    assert made.passed == passed


# --- what cannot be done ----------------------------------------------------------------------------------------------


def test_a_folder_that_exists_is_kept(exported: Bundle, images: Path, tmp_path: Path) -> None:
    (tmp_path / "there.fctl").mkdir()
    with pytest.raises(OutputError, match="exists already"):
        share_contexts(exported, tmp_path / "there.fctl", ComparedOn(images=[images]))


def test_no_images_leave_nothing_behind(exported: Bundle, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError):
        share_contexts(exported, tmp_path / "out.fctl", ComparedOn(images=[tmp_path / "none"]))
    assert [path.name for path in tmp_path.iterdir()] == ["none"]


@pytest.mark.parametrize(
    ("bundle", "message"),
    [(tiny.TINY, "only networks of fctl say where the cells"), (tiny.TINY_PLAIN, "only networks of fctl say where")],
)
def test_networks_of_others_are_refused(bundle: Path, message: str, images: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=message):
        share_contexts(read_bundle(bundle), tmp_path / "out.fctl", ComparedOn(images=[images]))


def test_a_graph_that_depends_on_the_size_is_refused(exported: Bundle, images: Path, tmp_path: Path) -> None:
    before = bare(exported, tmp_path / "before.fctl")
    path = before.folder / "encoder_medium.onnx"
    model = onnx.load(path)
    shape = [1, -1, 4, 4]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0, *shape[1:]], np.int64), "shape"))
    last = model.graph.output[0]
    model.graph.node[-1].output[0] = "flexible"
    model.graph.node.append(onnx.helper.make_node("Reshape", ["flexible", "shape"], [last.name]))
    onnx.save(model, path)
    graphs = tuple(
        replace(graph, sha256=sha256(path), bytes=path.stat().st_size) if graph.role == "encoder_medium" else graph
        for graph in before.manifest.graphs
    )
    write_manifest(before.folder, replace(before.manifest, graphs=graphs))
    with pytest.raises(BundleError, match=r"depends on the size of its window.*export the checkpoint again"):
        share_contexts(read_bundle(before.folder), tmp_path / "out.fctl", ComparedOn(images=[images]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--precision", "fp16"), "--share-contexts: expected a run of its own"),
        (("--fmt", "triton"), "--share-contexts: expected a run of its own"),
        (("--temperature", "0.7"), "--share-contexts: expected a run of its own"),
    ],
)
def test_a_wrong_call_exits_with_two(
    tmp_path: Path, in_process: InProcess, arguments: tuple[str, ...], message: str
) -> None:
    done = in_process(app, tiny.TINY, "--share-contexts", tmp_path, *arguments, "-o", tmp_path / "out.fctl")
    assert done.returncode == 2 and message in " ".join(done.stderr.split())
