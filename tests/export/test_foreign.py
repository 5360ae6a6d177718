"""Segmenters of others, exported on the command line and compared with whole-array computations written here."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import nn
from typer.testing import CliRunner

from fctl.export.cli.command import app
from fctl.export.verify import MAX_ERROR, MIN_AGREEMENT
from fctl.runtime import Segmenter
from fctl.runtime.bundle.store import Bundle, read_bundle, sha256
from fctl.runtime.engines.choose import choose_engine
from fctl.runtime.segment.host import HostNetwork

from ..conftest import write_geotiff
from . import foreign_networks as networks
from .foreign_networks import CASES, SCORES, Array, Score, contrast_graph, parse, picture, softmax

NAMES = ("land", "water", "road", "roof")
TILE, OVERLAP = 64, 16


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


def fctl_export(*arguments: object) -> Done:
    """``fctl-export`` in this process; whatever it does not catch is raised here."""
    log = logging.getLogger("fctl")
    handlers, level = list(log.handlers), log.level
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    log.handlers[:] = handlers  # those of this run write to a stream that is closed
    log.setLevel(level)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Done(done.exit_code, done.stdout, done.stderr)


def exported(network: object, out: Path, *arguments: object) -> Bundle:
    done = fctl_export(network, "--out", out, *arguments)
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == f"wrote {out}"
    assert "warning" not in done.err
    return read_bundle(out)


def averaged(image: Array, tile: int, overlap: int, score: Score) -> Array:
    """Scores (classes, height, width): tiles with cosine weights, averaged over the whole array."""
    height, width, _ = image.shape
    rows, columns = ([*range(0, side - tile, tile - overlap), side - tile] for side in (height, width))
    places = [(slice(y, y + tile), slice(x, x + tile)) for y in rows for x in columns]
    scores = score(np.stack([image[place] for place in places])).astype(np.float64)
    line = np.sin(np.pi * (np.arange(tile) + 0.5) / tile) ** 2
    weight = line[:, None] * line
    total, weights = np.zeros((scores.shape[1], height, width)), np.zeros((height, width))
    for (y, x), tile_scores in zip(places, scores, strict=True):
        total[:, y, x] += tile_scores * weight
        weights[y, x] += weight
    return total / weights


def same_class(ids: Array, scores: Array) -> float:
    return float((ids == scores.argmax(0)).mean())


@pytest.fixture(params=["onnxruntime", "openvino"])
def engine(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(request.param)
    return str(request.param)


# Networks in PyTorch ------------------------------------------------------------------------------------------------

TILES = {"unet": (64, 16), "pspnet": (96, 24), "deeplab": (64, 20)}
SCALING = [
    f"--scale={networks.SCALE}",
    f"--mean={','.join(map(str, networks.MEAN))}",
    f"--std={','.join(map(str, networks.STD))}",
]
FILES: dict[str, tuple[str, dict[str, Any]]] = {
    "any batch": ("unet", {"dynamo": True, "dynamic_shapes": ({0: torch.export.Dim("images")},)}),
    "batch of 1": ("deeplab", {}),
    "batch of 3": ("unet", {"batch": 3}),
    "any size": ("unet", {"dynamic_axes": {"image": {0: "n", 2: "h", 3: "w"}}}),
    "opset 11": ("pspnet", {"dynamic_axes": {"image": {0: "n"}}, "opset_version": 11}),
    "opset 12": ("deeplab", {"dynamic_axes": {"image": {0: "n"}}, "opset_version": 12}),
}


@pytest.fixture(scope="module")
def module() -> Callable[[str], nn.Module]:
    made: dict[str, nn.Module] = {}
    return lambda name: made.setdefault(name, made.get(name) or getattr(networks, name)())


@pytest.fixture(scope="module")
def expected(module: Callable[[str], nn.Module]) -> Callable[[str], Array]:
    """Averaged logits of the picture by network, computed in PyTorch."""
    done: dict[str, Array] = {}

    def get(name: str) -> Array:
        if name not in done:
            done[name] = averaged(picture(), *TILES[name], in_torch(module(name), TILES[name][0]))
        return done[name]

    return get


def in_torch(network: nn.Module, tile: int) -> Score:
    def score(tiles: Array) -> Array:
        logits = networks.logits_of(network, networks.as_taken(tiles))
        return F.interpolate(logits, (tile, tile), mode="bilinear", align_corners=False).numpy()  # type: ignore[no-any-return]

    return score


@pytest.fixture(scope="module")
def from_factory(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bundle]:
    done: dict[str, Bundle] = {}

    def get(name: str) -> Bundle:
        if name not in done:
            (tile, overlap), out = TILES[name], tmp_path_factory.mktemp(name) / f"{name}.fctl"
            options = ["--classes=land,water,road", f"--tile={tile}", f"--overlap={overlap}", "--gsd=0.5"]
            done[name] = exported(f"{networks.__name__}:{name}", out, *options, "--licence=MIT", *SCALING)
        return done[name]

    return get


@pytest.fixture(scope="module")
def file_of(module: Callable[[str], nn.Module], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """ONNX files as PyTorch writes them."""
    done: dict[str, Path] = {}

    def get(case: str) -> Path:
        if case not in done:
            name, options = FILES[case]
            settings = {"dynamo": False, "opset_version": 17, **options}
            done[case] = tmp_path_factory.mktemp("file") / f"{name}.onnx"
            image = torch.zeros(settings.pop("batch", 2 if settings["dynamo"] else 1), 3, *2 * TILES[name][:1])
            names = {"input_names": ["image"], "output_names": ["out", "aux"] if name == "deeplab" else ["out"]}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.onnx.export(module(name), (image,), done[case], verbose=False, **names, **settings)
        return done[case]

    return get


@pytest.fixture(scope="module")
def from_file(file_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bundle]:
    done: dict[str, Bundle] = {}

    def get(case: str) -> Bundle:
        if case not in done:
            name, out = FILES[case][0], tmp_path_factory.mktemp("bundle") / "own.fctl"
            options = ["--classes=land,water,road", f"--overlap={TILES[name][1]}", *SCALING]
            options += ["--output=out"] if name == "deeplab" else []
            options += [f"--tile={TILES[name][0]}"] if case == "any size" else []
            done[case] = exported(file_of(case), out, *options)
        return done[case]

    return get


@pytest.mark.parametrize("name", TILES)
def test_a_module_segments_as_in_pytorch(
    from_factory: Callable[[str], Bundle], expected: Callable[[str], Array], name: str, engine: str
) -> None:
    with Segmenter(from_factory(name), backend=engine) as segmenter:
        found = segmenter.segment(picture(), probabilities=True)
    assert len(np.unique(found.ids)) >= 2
    assert same_class(found.ids, expected(name)) >= 0.999
    np.testing.assert_allclose(found.probabilities, softmax(expected(name)), atol=1e-3)


@pytest.mark.parametrize("name", TILES)
def test_the_manifest_of_a_module(from_factory: Callable[[str], Bundle], name: str) -> None:
    manifest = from_factory(name).manifest
    tile, overlap = TILES[name]
    assert (manifest.name, manifest.network, manifest.contexts) == (name, None, ())
    assert manifest.class_names == ("land", "water", "road")
    assert (manifest.tile, manifest.plan.kind, manifest.plan.overlap) == (tile, "stride", overlap)
    assert (manifest.merge, manifest.scores, manifest.fixed_batch) == ("cosine", "logits", None)
    assert (manifest.input.bands, manifest.input.dtype, manifest.input.ground_sample_distance) == (3, "uint8", 0.5)
    assert manifest.provenance.licence == "MIT"
    (parity,) = manifest.parity
    assert (parity.reference, parity.patches) == ("the PyTorch module", 8)
    assert 0 < parity.max_error < MAX_ERROR
    assert parity.agreement >= MIN_AGREEMENT
    assert len(parity.classes) >= 2


@pytest.mark.parametrize("case", FILES)
def test_a_file_segments_as_in_pytorch(
    from_file: Callable[[str], Bundle], expected: Callable[[str], Array], case: str, engine: str
) -> None:
    with Segmenter(from_file(case), backend=engine, batch=4) as segmenter:
        found = segmenter.segment(picture(), probabilities=True)
    name = FILES[case][0]
    assert len(np.unique(found.ids)) >= 2
    assert same_class(found.ids, expected(name)) >= 0.999
    np.testing.assert_allclose(found.probabilities, softmax(expected(name)), atol=1e-3)


@pytest.mark.parametrize("case", FILES)
def test_the_manifest_of_a_file(from_file: Callable[[str], Bundle], file_of: Callable[[str], Path], case: str) -> None:
    bundle, batch = from_file(case), {"batch of 1": 1, "batch of 3": 3}.get(case)
    tile = TILES[FILES[case][0]][0]
    assert bundle.manifest.fixed_batch == batch
    (taken,), (given,) = bundle.manifest.segmenter.inputs, bundle.manifest.segmenter.outputs
    assert (taken.name, taken.dtype, taken.shape) == ("patch", "uint8", (batch or "N", 3, tile, tile))
    assert (given.name, given.dtype, given.shape) == ("logits", "float32", (batch or "N", 3, tile, tile))
    assert bundle.manifest.provenance.checkpoint_sha256 == sha256(file_of(case))
    assert bundle.manifest.parity[0].reference == "the ONNX file in ONNX Runtime"
    assert {path.name for path in bundle.folder.iterdir()} == {"manifest.json", "segmenter.onnx", "check.npz"}


def test_the_last_batch_of_three_is_padded(from_file: Callable[[str], Bundle], engine: str) -> None:
    """One tile more than fills a batch, and one less: as many as the batch that is asked for, and half of that."""
    with (
        Segmenter(from_file("batch of 3"), backend=engine, batch=4) as fixed,
        Segmenter(from_file("any batch"), backend=engine, batch=1) as free,
    ):
        for width in (TILE + 3 * (TILE - OVERLAP), TILE + TILE - OVERLAP):
            image = picture(TILE, width)
            assert (fixed.segment(image).ids == free.segment(image).ids).mean() >= 0.999


def test_test_time_augmentation_averages_the_eight_turns(
    from_factory: Callable[[str], Bundle], module: Callable[[str], nn.Module], engine: str
) -> None:
    upright = in_torch(module("unet"), TILE)

    def turned(tiles: Array) -> Array:
        total = 0
        for quarters in range(4):
            for mirrored in (False, True):
                seen = np.rot90(tiles, quarters, (1, 2))
                scores = upright(np.ascontiguousarray(seen[:, :, ::-1] if mirrored else seen))
                total = total + np.rot90(scores[..., ::-1] if mirrored else scores, -quarters, (2, 3))
        return total / 8  # type: ignore[return-value]

    image = picture(112, 160)
    with Segmenter(from_factory("unet"), backend=engine, tta=True) as segmenter:
        found = segmenter.segment(image, probabilities=True)
    averages = averaged(image, TILE, OVERLAP, turned)
    assert same_class(found.ids, averages) >= 0.999
    assert same_class(found.ids, averaged(image, TILE, OVERLAP, upright)) < 0.99
    np.testing.assert_allclose(found.probabilities, softmax(averages), atol=1e-3)


def test_a_module_that_wants_to_know_the_batch_is_fixed_to_one(
    tmp_path: Path, module: Callable[[str], nn.Module]
) -> None:
    out = tmp_path / "own.fctl"
    options = ["--classes=land,water,road", f"--tile={TILE}", f"--overlap={OVERLAP}", *SCALING]
    done = fctl_export(f"{networks.__name__}:one_by_one", "--out", out, *options)
    assert done.code == 0, done.err
    assert f"warning: {networks.__name__}:one_by_one cannot be exported for any batch" in done.err
    with Segmenter(out, batch=4) as segmenter:
        found = segmenter.segment(picture())
    assert segmenter.manifest.fixed_batch == 1
    assert same_class(found.ids, averaged(picture(), TILE, OVERLAP, in_torch(module("one_by_one"), TILE))) >= 0.999


def test_factories_are_found_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_network.py").write_text("from torch import nn\ndef make():\n    return nn.Conv2d(3, 2, 3, 1, 1)\n")
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    bundle = exported("own_network:make", Path("own.fctl"), "--classes=a,b", "--tile=64", "--scale=0.01")
    assert bundle.manifest.tile == 64
    assert sys.path == path


def test_an_onnx_file_needs_no_torch(tmp_path: Path) -> None:
    path = save(contrast_graph(), tmp_path)
    program = "import sys; sys.modules['torch'] = None; from fctl.export.cli.command import app; app()"
    arguments = [path, "--out", tmp_path / "own.fctl", *CONTRAST]
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True, timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert read_bundle(tmp_path / "own.fctl").manifest.class_names == ("land", "water", "road")


# Graphs made by hand ------------------------------------------------------------------------------------------------

CONTRAST = ("--classes=land,water,road", f"--overlap={OVERLAP}", "--scale=0.02")


def save(model: onnx.ModelProto, folder: Path) -> Path:
    onnx.save(model, folder / "network.onnx")
    return folder / "network.onnx"


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bundle]:
    done: dict[str, Bundle] = {}

    def get(name: str) -> Bundle:
        if name not in done:
            case, folder = CASES[name], tmp_path_factory.mktemp("hand")
            given: list[object] = [f"--classes={','.join(NAMES[: case.classes])}", f"--overlap={OVERLAP}"]
            if (case.dtype, case.bands) != ("uint8", 3):
                given += ["--patches", write_geotiff(folder / "image.tif", case.image(), photometric="MINISBLACK")]
            path, out = save(case.model(), folder), folder / "own.fctl"
            run = fctl_export(path, "--out", out, *given, *case.options, *case.scaling.split())
            assert run.code == 0, run.err
            assert run.err == (f"warning: {path} {case.warning}\n" if case.warning else "")
            done[name] = read_bundle(out)
        return done[name]

    return get


@pytest.mark.parametrize("name", CASES)
def test_a_graph_segments_as_its_formula_says(by_hand: Callable[[str], Bundle], name: str, engine: str) -> None:
    case = CASES[name]
    averages = averaged(case.image(), TILE, OVERLAP, case.score)
    with Segmenter(by_hand(name), backend=engine, batch=4) as segmenter:
        found = segmenter.segment(case.image(), probabilities=True)
    assert segmenter.manifest.scores == case.scores
    assert segmenter.manifest.fixed_batch == case.batch
    assert (segmenter.manifest.input.bands, segmenter.manifest.input.dtype) == (case.bands, case.dtype)
    assert set(np.unique(found.ids)) == set(range(case.classes))
    assert same_class(found.ids, averages) >= 0.999
    shares = softmax(averages) if case.scores == "logits" else averages
    wrong = np.abs(found.probabilities - shares).max(0) > case.tolerance
    assert wrong.mean() < 1e-3  # labels of single pixels may flip; all else is right everywhere
    assert not wrong.any() or "labels" in name


@pytest.mark.parametrize("name", ["softmax", "one sigmoid", "labels"])
def test_probabilities_are_averages_that_sum_to_one(by_hand: Callable[[str], Bundle], name: str) -> None:
    with Segmenter(by_hand(name)) as segmenter:
        shares = segmenter.segment(picture(), probabilities=True).probabilities
    assert shares is not None
    np.testing.assert_allclose(shares.sum(0), 1, atol=1e-5)
    assert shares.max() > 0.75  # a second softmax would leave at most e / (e + 1), 0.73
    assert shares.min() < 0.25


def test_it_matters_what_is_averaged() -> None:
    """Else the tests above would not see it."""
    masks = [averaged(picture(), TILE, OVERLAP, CASES[name].score).argmax(0) for name in ("plain", "softmax", "labels")]
    assert (masks[0] != masks[1]).mean() > 0.002
    assert (masks[0] != masks[2]).mean() > 0.002
    assert (masks[1] != masks[2]).mean() > 0.002


@pytest.mark.parametrize(
    ("kind", "layout", "tolerance"), [("float", "nchw", 1e-6), ("float", "nhwc", 1e-6), ("float16", "nchw", 1e-3)]
)
def test_the_network_gets_scaled_pixels(tmp_path: Path, kind: str, layout: str, tolerance: float) -> None:
    """Every value that a pixel can have, in a graph that gives what it gets."""
    shape = "[N,3,64,64]" if layout == "nchw" else "[N,64,64,3]"
    model = parse("scores = Identity(image)", f"{kind}{shape} scores", taken=f"{kind}{shape} image")
    scale, mean, std = 0.00392, np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.5, 2])
    options = [f"--scale={scale}", "--mean=0.485,0.456,0.406", "--std=0.229,0.5,2", f"--layout={layout}"]
    bundle = exported(save(model, tmp_path), tmp_path / "own.fctl", "--classes=a,b,c", *options)
    patch = np.random.default_rng(0).permuted(np.arange(2 * 3 * 64 * 64) % 256).astype(np.uint8).reshape(2, 3, 64, 64)
    scores = HostNetwork(bundle, choose_engine("onnxruntime", "fp32"), 2).segment(patch, {}, {})
    mean, std = mean.reshape(3, 1, 1), std.reshape(3, 1, 1)
    np.testing.assert_allclose(scores, (patch * scale - mean) / std, rtol=tolerance, atol=tolerance)
    scaling = bundle.manifest.input.scaling
    assert scaling is not None
    raw_mean, raw_std = (np.reshape(values, (3, 1, 1)) for values in (scaling.mean, scaling.std))
    np.testing.assert_allclose((patch - raw_mean) / raw_std, (patch * scale - mean) / std, rtol=1e-9, atol=1e-9)


def test_one_value_scales_every_band(tmp_path: Path) -> None:
    model = parse("scores = Identity(image)", SCORES)
    options = ["--classes=a,b,c", "--scale=0.5", "--mean=3", "--std=4"]
    bundle = exported(save(model, tmp_path), tmp_path / "own.fctl", *options)
    patch = np.arange(3 * 64 * 64).reshape(1, 3, 64, 64).astype(np.uint8)
    scores = HostNetwork(bundle, choose_engine("onnxruntime", "fp32"), 1).segment(patch, {}, {})
    np.testing.assert_allclose(scores, (patch * 0.5 - 3) / 4, rtol=1e-6, atol=1e-6)


def test_no_scaling_at_all_is_a_warning(tmp_path: Path) -> None:
    path = save(parse("scores = Identity(image)", SCORES), tmp_path)
    done = fctl_export(path, "--out", tmp_path / "own.fctl", "--classes=a,b,c")
    assert done.code == 0
    assert done.err == "warning: no --scale, --mean or --std: the network gets raw uint8 values as they are\n"


def test_an_eighth_of_the_tile_overlaps_unless_told_otherwise(tmp_path: Path) -> None:
    bundle = exported(save(contrast_graph(), tmp_path), tmp_path / "own.fctl", "--classes=a,b,c", "--scale=0.02")
    assert bundle.manifest.plan.overlap == 8


def test_a_bundle_that_exists_is_not_touched(tmp_path: Path) -> None:
    out = tmp_path / "old.fctl"
    out.mkdir()
    for network in (save(contrast_graph(), tmp_path), f"{networks.__name__}:unet"):
        done = fctl_export(network, "--out", out, "--classes=a,b,c", "--tile=64")
        assert done.code == 1
        assert done.err.startswith(f"error: {out} exists already")
    assert list(out.iterdir()) == []


# What is refused ----------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def nothing_past_python(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Libraries write past `sys.stderr`, where a test that reads that does not see it."""
    yield
    assert capfd.readouterr() == ("", "")


def check_refused(done: Done, message: str, code: int, folder: Path, before: list[Path]) -> None:
    assert done.code == code, done.err
    assert done.out == ""
    assert "Traceback" not in done.err
    last = done.err.splitlines()[-1]
    assert message in last
    if code == 1:
        assert done.err == f"{last}\n"
        assert last.startswith("error: ")
    assert sorted(folder.rglob("*")) == before


PLAIN = ("--classes=a,b,c", "--scale=0.02")
REFUSED: dict[str, tuple[Callable[[], onnx.ModelProto], tuple[str, ...], str]] = {
    "two images": (
        lambda: parse("scores = Add(image, other)", SCORES, taken="float[N,3,64,64] image, float[N,3,64,64] other"),
        PLAIN,
        "expected one input, an image, or contexts that take the others, found 2 (image, other)",
    ),
    "three axes": (
        lambda: parse("scores = Neg(image)", "float[3,64,64] scores", taken="float[3,64,64] image"),
        PLAIN,
        "expected an image of 4 axes as input 'image', found 3 axes",
    ),
    "an image of float64": (
        lambda: parse("scores = Neg(image)", "double[N,3,64,64] scores", taken="double[N,3,64,64] image"),
        PLAIN,
        "expected an image of uint8, uint16, int16, float32 or float16, found float64",
    ),
    "an image of no type": (
        lambda: _untyped(contrast_graph()),
        PLAIN,
        "expected a tensor as input 'image', found no type of its elements",
    ),
    "boxes": (
        lambda: contrast_graph("places = NonZero(scores)", "int64[4,M] places"),
        PLAIN,
        "expected an output 'places' with scores or class ids of each of 2 images, found (4, 0)",
    ),
    "rows that come and go": (
        lambda: contrast_graph(
            "peak = ReduceMax<axes=[0,1,3], keepdims=0>(image) bright = Greater(peak, limit)"
            " some = Compress<axis=2>(scores, bright)",
            "float[N,3,M,64] some",
            limit=np.float32([0.1]),
        ),
        PLAIN,
        "output 'some' has a shape that depends on the image ((2, 3, 0, 64) and (2, 3, 64, 64))",
    ),
    "an operator of somebody": (
        lambda: parse("scores = own.Plugin(image)", SCORES),
        PLAIN,
        "unknown operator 'Plugin' of 'own'",
    ),
    "no standard operator": (lambda: parse("scores = Bogus(image)", SCORES), PLAIN, "unknown operator 'Bogus'"),
    "no standard operator of opset 11": (
        lambda: parse("scores = Bogus(image)", SCORES, opset=11),
        PLAIN,
        "unknown operator 'Bogus'",
    ),
    "an unknown operator in a branch": (
        lambda: parse(
            "peak = ReduceMax<keepdims=0>(image) bright = Greater(peak, limit)"
            " scores = If (bright) <then_branch = yes () => (float[M,3,64,64] a) { a = Bogus(image) },"
            " else_branch = no () => (float[M,3,64,64] b) { b = Neg(image) }>",
            SCORES,
            limit=np.array(0, np.float32),
        ),
        PLAIN,
        "unknown operator 'Bogus'",
    ),
    "an operator that ONNX Runtime lacks": (
        lambda: parse("scores = com.microsoft.Nothing(image)", SCORES),
        PLAIN,
        "ONNX Runtime cannot run it",
    ),
    "nodes in disorder": (
        lambda: parse("scores = Neg(other) other = Abs(image)", SCORES),
        PLAIN,
        "no valid ONNX graph",
    ),
    "ranks that are wrong": (
        lambda: parse(
            "peak = ReduceMax<keepdims=0>(image) bright = Greater(peak, limit)"
            " scores = If (bright) <then_branch = yes () => (float[3,64,64] a) { a = Abs(image) },"
            " else_branch = no () => (float[3,64,64] b) { b = Neg(image) }>",
            SCORES,
            limit=np.array(0, np.float32),
        ),
        PLAIN,
        "no valid ONNX graph",
    ),
    "images of a batch that mix": (
        lambda: parse("all = ReduceMean<keepdims=1>(image) scores = Mul(image, all)", SCORES),
        PLAIN,
        "max |difference| / max |logit|: expected at most 0.001",
    ),
    "too many classes": (
        contrast_graph,
        ("--classes=a,b,c,d", "--scale=1"),
        "expected scores (N, 4, h, w) for 4 --classes",
    ),
    "too few classes": (contrast_graph, ("--classes=a,b", "--scale=1"), "found (N, 3, 64, 64)"),
    "one class": (contrast_graph, ("--classes=a", "--scale=1"), "--classes: expected the names of 2 or more classes"),
    "the same class twice": (contrast_graph, ("--classes=a,b,a", "--scale=1"), "expected distinct names"),
    "one channel of softmax": (
        lambda: contrast_graph(given="float[N,1,64,64] scores", classes=1),
        ("--classes=a,b", "--activation=softmax", "--scale=1"),
        "expected softmax (N, 2, h, w)",
    ),
    "class ids beyond the names": (
        lambda: contrast_graph("ids = ArgMax<axis=1, keepdims=0>(scores)", "int64[N,64,64] ids"),
        ("--classes=a,b", "--activation=labels", "--scale=1"),
        "the network gives class ids 0 to 2, found 2 names",
    ),
    "class ids below zero": (
        lambda: contrast_graph(
            "all = ArgMax<axis=1, keepdims=0>(scores) ids = Sub(all, one)", "int64[N,64,64] ids", one=np.int64([1])
        ),
        (*PLAIN, "--activation=labels"),
        "the network gives class ids -1 to 1, found 3 names",
    ),
    "logits that are labels": (
        lambda: contrast_graph("ids = ArgMax<axis=1, keepdims=0>(scores)", "int64[N,64,64] ids"),
        (*PLAIN, "--activation=logits"),
        "expected logits (N, 3, h, w) for 3 --classes, found (N, 64, 64)",
    ),
    "labels that are logits": (
        contrast_graph,
        (*PLAIN, "--activation=labels"),
        "expected class ids (N, 64, 64)",
    ),
    "scores larger than the image": (
        lambda: contrast_graph(
            "large = Resize(scores, , twice)", "float[N,3,128,128] large", twice=np.float32([1, 1, 2, 2])
        ),
        PLAIN,
        "found (N, 3, 128, 128)",
    ),
    "scores of a row": (
        lambda: contrast_graph("row = ReduceMean<axes=[2]>(scores)", "float[N,3,1,64] row"),
        PLAIN,
        "found (N, 3, 1, 64)",
    ),
    "another layout": (contrast_graph, (*PLAIN, "--layout=nhwc"), "in nhwc, found 64 x 3 x 64"),
    "any size": (
        lambda: parse("scores = Neg(image)", "float[N,3,H,W] scores", taken="float[N,3,H,W] image"),
        PLAIN,
        "takes images of any size: give the side of a tile with --tile",
    ),
    "another size": (contrast_graph, (*PLAIN, "--tile=96"), "of 3 bands x 96 x 96 in nchw, found 3 x 64 x 64"),
    "no square": (
        lambda: parse("scores = Neg(image)", "float[N,3,64,96] scores", taken="float[N,3,64,96] image"),
        PLAIN,
        "found 3 x 64 x 96",
    ),
    "other bands": (contrast_graph, (*PLAIN, "--bands=4"), "of 4 bands x 64 x 64 in nchw, found 3 x 64 x 64"),
    "two means": (contrast_graph, (*PLAIN, "--mean=0,1"), "--mean: expected one value or 3, one per band, found 2"),
    "four deviations": (contrast_graph, (*PLAIN, "--std=1,1,1,1"), "--std: expected one value or 3"),
    "a deviation of 0": (contrast_graph, (*PLAIN, "--std=1,0,1"), "--scale and --std: expected numbers above 0"),
    "a scale of 0": (contrast_graph, ("--classes=a,b,c", "--scale=0"), "--scale and --std: expected numbers above 0"),
    "an infinite scale": (contrast_graph, ("--classes=a,b,c", "--scale=inf"), "expected numbers above 0"),
    "a mean that is no number": (contrast_graph, (*PLAIN, "--mean=nan"), "and a finite --mean"),
    "an overlap as wide as the tile": (
        contrast_graph,
        (*PLAIN, "--overlap=64"),
        "--overlap: expected 0 to 63 pixels, found 64",
    ),
    "no distance": (contrast_graph, (*PLAIN, "--gsd=0"), "--gsd: expected metres above 0, found 0"),
    "an unknown dtype": (
        contrast_graph,
        (*PLAIN, "--dtype=int8"),
        "--dtype: expected uint8, uint16, int16, float32, found 'int8'",
    ),
    "shipped images of another dtype": (
        contrast_graph,
        (*PLAIN, "--dtype=uint16"),
        "this network wants 3 of uint16: give images of yours with --patches",
    ),
    "shipped images of other bands": (
        lambda: contrast_graph(bands=4),
        PLAIN,
        "this network wants 4 of uint8: give images of yours with --patches",
    ),
    "images that are missing": (contrast_graph, (*PLAIN, "--patches=nowhere.tif"), "nowhere.tif: expected an image"),
    "a scale before its own": (
        CASES["uint8 in"].model,
        PLAIN,
        "takes raw uint8 and scales by itself: leave out --scale",
    ),
    "a dtype beside its own": (
        CASES["uint8 in"].model,
        ("--classes=a,b,c", "--dtype=uint16"),
        "takes raw uint8 and scales by itself",
    ),
    "several outputs": (
        CASES["several outputs"].model,
        PLAIN,
        "expected one output, found 3: choose with --output: peak, scores, wrong",
    ),
    "an output that is missing": (
        contrast_graph,
        (*PLAIN, "--output=middle"),
        "has no output 'middle'; it has scores",
    ),
}


def _untyped(model: onnx.ModelProto) -> onnx.ModelProto:
    model.graph.input[0].type.tensor_type.ClearField("elem_type")
    return model


@pytest.mark.parametrize("case", REFUSED)
def test_a_graph_that_does_not_fit_is_one_line(tmp_path: Path, case: str) -> None:
    model, options, message = REFUSED[case]
    path = save(model(), tmp_path)
    before = sorted(tmp_path.rglob("*"))
    done = fctl_export(path, "--out", tmp_path / "folder" / "own.fctl", *options)
    check_refused(done, message, 1, tmp_path, before)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "network.onnx: expected an ONNX file, found no such file"),
        (b"", "network.onnx: expected an ONNX file, found a graph without nodes"),
        (b"not a network\n" * 50, "network.onnx: expected an ONNX file, found none"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "network.onnx: expected an ONNX file, found none"),
    ],
    ids=["missing", "empty", "text", "picture"],
)
def test_a_file_that_is_no_network_is_one_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "network.onnx").write_bytes(content)
    before = sorted(tmp_path.rglob("*"))
    done = fctl_export(tmp_path / "network.onnx", "--out", tmp_path / "own.fctl", *PLAIN)
    check_refused(done, message, 1, tmp_path, before)


def test_a_folder_is_no_network(tmp_path: Path) -> None:
    (tmp_path / "network.onnx").mkdir()
    done = fctl_export(tmp_path / "network.onnx", "--out", tmp_path / "own.fctl", *PLAIN)
    check_refused(done, "expected an ONNX file, found a folder", 1, tmp_path, [tmp_path / "network.onnx"])


def test_half_a_file_is_no_network(tmp_path: Path, file_of: Callable[[str], Path]) -> None:
    content = file_of("opset 12").read_bytes()
    (tmp_path / "network.onnx").write_bytes(content[: len(content) // 2])
    done = fctl_export(tmp_path / "network.onnx", "--out", tmp_path / "own.fctl", *PLAIN)
    check_refused(done, "expected an ONNX file, found none", 1, tmp_path, [tmp_path / "network.onnx"])


def test_weights_that_were_left_behind_are_named(tmp_path: Path) -> None:
    path = tmp_path / "network.onnx"
    onnx.save(contrast_graph(), path, save_as_external_data=True, location="network.data", size_threshold=0)
    exported(path, tmp_path / "with.fctl", *PLAIN)
    (tmp_path / "network.data").unlink()
    before = sorted(tmp_path.rglob("*"))
    done = fctl_export(path, "--out", tmp_path / "without.fctl", *PLAIN)
    check_refused(done, "cannot read its external data", 1, tmp_path, before)
    assert "network.data" in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["m.onnx", "--classes=a,b", "--arch=fctl-lite0"], "--arch is for checkpoints: leave it out"),
        (["m.onnx", "--classes=a,b", "--weights=fp16"], "--weights is for checkpoints"),
        (["m.onnx", "--classes=a,b", "--scene-size=900"], "--scene-size is for checkpoints"),
        (["a.b:c", "--classes=a,b", "--contexts=medium=128"], "--context-sizes is for checkpoints"),
        (["m.pt", "--tile=64"], "--tile is for networks of your own"),
        (["m.pt", "--scale=1"], "--scale is for networks of your own"),
        (["m.onnx", "--classes=a,b", "--tile=0"], "--tile"),
        (["m.onnx", "--classes=a,b", "--overlap=-1"], "--overlap"),
        (["m.onnx", "--classes=a,b", "--layout=chwn"], "'chwn' is not one of 'nchw', 'nhwc'"),
        (
            ["m.onnx", "--classes=a,b", "--activation=relu"],
            "'relu' is not one of 'auto', 'logits', 'softmax', 'sigmoid', 'labels'",
        ),
        (["m.onnx", "--classes=a,b", "--mean=grey"], "--mean: expected numbers as in 0.485,0.456,0.406, found 'grey'"),
        (["m.onnx", "--classes=a,b", "--std="], "--std: expected numbers"),
        (["m.onnx"], "--classes: a network of your own does not name its classes"),
    ],
)
def test_a_wrong_call_is_exit_code_2(tmp_path: Path, arguments: list[str], message: str) -> None:
    check_refused(fctl_export(*arguments, "--out", tmp_path / "own.fctl"), message, 2, tmp_path, [])


FACTORIES = """
import torch
from torch import nn

class Shapeless(nn.Module):
    def forward(self, image):
        return image.shape[0]

def make():
    return nn.Conv2d(3, 2, 3, 1, 1)

def raising():
    raise OSError("no weights here\\nand a second line")

def other():
    return {"weights": 1}

def shapeless():
    return Shapeless()

def flat():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 2))

def four_bands():
    return nn.Conv2d(4, 2, 1)
"""


@pytest.mark.parametrize(
    ("factory", "options", "message"),
    [
        ("nowhere.to_be:found", ["--tile=64"], "found ModuleNotFoundError: No module named 'nowhere'"),
        ("refused_networks:absent", ["--tile=64"], "found AttributeError: module 'refused_networks' has no attribute"),
        ("refused_networks:raising", ["--tile=64"], "found OSError: no weights here"),
        ("refused_networks:other", ["--tile=64"], "expected a PyTorch module, found dict"),
        ("refused_networks:shapeless", ["--tile=64"], "out or logits in what the module returns, found int"),
        ("refused_networks:flat", ["--tile=64"], "the module cannot take an image (2, 3, 64, 64)"),
        ("refused_networks:four_bands", ["--tile=64"], "the module cannot take an image (2, 3, 64, 64)"),
        ("refused_networks:make", [], "a PyTorch module does not say its size: give --tile"),
        ("refused_networks:make", ["--tile=64", "--layout=nhwc"], "--layout: PyTorch modules take nchw"),
    ],
)  # fmt: skip
def test_a_factory_that_makes_no_network_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factory: str, options: list[str], message: str
) -> None:
    (tmp_path / "refused_networks.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    done = fctl_export(factory, "--out", tmp_path / "own.fctl", "--classes=a,b", "--scale=0.02", *options)
    check_refused(done, message, 1, tmp_path, [tmp_path / "refused_networks.py"])
