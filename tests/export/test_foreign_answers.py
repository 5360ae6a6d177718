"""What a network of one's own says of itself is tested: activation, outputs, batch, crop and shapes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

import numpy as np
import onnx
import torch
from torch import nn

from fctl.runtime import Segmenter

from . import foreign_modules as modules
from .foreign_networks import contrast_graph, parse, picture
from .test_foreign import check_refused, exported, fctl_export, save

SCALE = "--scale=1/255"
RGB = ("--classes=r,g,b", SCALE)
NO_YES = ("--classes=no,yes", SCALE)


def brightest(after: str = "", given: str = "float[N,3,64,64] scores", **constants: np.ndarray) -> onnx.ModelProto:
    """Scores of red, green and blue, and more behind them; of equal ones, the first wins."""
    eye, first = 20 * np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1), np.float32([0.02, 0.01, 0])
    return parse(f"scores = Conv(image, eye, first) {after}", given, eye=eye, first=first, **constants)


def redder(after: str = "", given: str = "float[N,1,64,64] scores", **constants: np.ndarray) -> onnx.ModelProto:
    """Is red brighter than green?"""
    matrix, no = np.float32([20, -20, 0]).reshape(1, 3, 1, 1), np.float32([-0.01])
    return parse(f"scores = Conv(image, matrix, no) {after}", given, matrix=matrix, no=no, **constants)


def right_share(folder: Path, right: np.ndarray, image: np.ndarray) -> float:
    with Segmenter(folder) as segmenter:
        return float((segmenter.segment(image).ids == right).mean())


def is_redder(image: np.ndarray) -> np.ndarray:
    return image[..., 0] > image[..., 1]


# Activation ---------------------------------------------------------------------------------------------------------

TOLD: dict[str, tuple[Callable[[], onnx.ModelProto], tuple[str, ...], str]] = {
    "a sigmoid": (lambda: redder("y = Sigmoid(scores)", "float[N,1,64,64] y"), NO_YES, "probabilities"),
    "a logit": (redder, NO_YES, "logits"),
    "ids": (
        lambda: redder("hit = Greater(scores, zero) y = Cast<to=7>(hit)", "int64[N,1,64,64] y", zero=np.float32([0])),
        NO_YES,
        "probabilities",
    ),
    "a softmax of two": (
        lambda: redder(
            "none = Sub(scores, scores) both = Concat<axis=1>(none, scores) y = Softmax<axis=1>(both)",
            "float[N,2,64,64] y",
        ),
        NO_YES,
        "probabilities",
    ),
    "a logarithm of a softmax": (
        lambda: redder(
            "none = Sub(scores, scores) both = Concat<axis=1>(none, scores) y = LogSoftmax<axis=1>(both)",
            "float[N,2,64,64] y",
        ),
        NO_YES,
        "logits",
    ),
}


@pytest.mark.parametrize("case", TOLD)
def test_the_activation_is_told_by_the_scores(tmp_path: Path, case: str) -> None:
    model, options, scores = TOLD[case]
    bundle = exported(save(model(), tmp_path), tmp_path / "own.fctl", *options)
    assert bundle.manifest.scores == scores
    assert right_share(bundle.folder, is_redder(picture()), picture()) == 1


WRONG: dict[str, tuple[Callable[[], onnx.ModelProto], tuple[str, ...], str]] = {
    "a sigmoid as logits": (
        lambda: redder("y = Sigmoid(scores)", "float[N,1,64,64] y"),
        (*NO_YES, "--activation=logits"),
        "--activation logits: expected scores that may have any value, found values from 0",
    ),
    "a logit as a sigmoid": (
        redder,
        (*NO_YES, "--activation=sigmoid"),
        "--activation sigmoid: expected probabilities from 0 to 1, found values from -",
    ),
    "a softmax as logits": (
        lambda: contrast_graph("y = Softmax<axis=1>(scores)", "float[N,3,64,64] y"),
        (*RGB, "--activation=logits"),
        "that sum to 1 over the classes; give --activation softmax",
    ),
    "logits as a softmax": (brightest, (*RGB, "--activation=softmax"), "give --activation logits"),
    "sigmoids as a softmax": (
        lambda: brightest("y = Sigmoid(scores)", "float[N,3,64,64] y"),
        (*RGB, "--activation=softmax"),
        "over the classes; give --activation sigmoid",
    ),
    "sigmoids of several classes, or small logits": (
        lambda: brightest("y = Sigmoid(scores)", "float[N,3,64,64] y"),
        RGB,
        "over the classes; give --activation sigmoid or logits",
    ),
    "a sigmoid of 0 to 255": (
        lambda: redder("p = Sigmoid(scores) y = Mul(p, most)", "float[N,1,64,64] y", most=np.float32([255])),
        NO_YES,
        "never below 0: as logits, every pixel is 'yes'; give --activation logits",
    ),
    "ids as logits": (
        lambda: redder("hit = Greater(scores, zero) y = Cast<to=2>(hit)", "uint8[N,1,64,64] y", zero=np.float32([0])),
        (*NO_YES, "--activation=logits"),
        "give --activation labels",
    ),
    "a probability as ids": (
        lambda: redder("y = Sigmoid(scores)", "float[N,1,64,64] y"),
        (*NO_YES, "--activation=labels"),
        "--activation labels: expected class ids, which are whole numbers",
    ),
    "a probability without its channel": (
        lambda: redder("p = Sigmoid(scores) y = Squeeze(p, axis)", "float[N,64,64] y", axis=np.int64([1])),
        NO_YES,
        "scores need an axis for the classes: (N, classes, h, w), or (N, 1, h, w) of two",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_activation_that_does_not_fit_is_refused(tmp_path: Path, case: str) -> None:
    model, options, message = WRONG[case]
    path = save(model(), tmp_path)
    before = sorted(tmp_path.rglob("*"))
    check_refused(fctl_export(path, "--out", tmp_path / "own.fctl", *options), message, 1, tmp_path, before)


def test_a_logit_never_below_0_is_taken_where_it_is_stated(tmp_path: Path) -> None:
    model = redder("y = Relu(scores)", "float[N,1,64,64] y")
    done = fctl_export(save(model, tmp_path), "--out", tmp_path / "own.fctl", *NO_YES, "--activation=logits")
    assert done.code == 0
    assert "warning: " in done.err
    assert "never below 0: as logits, every pixel is 'yes'" in done.err


# Outputs of modules -------------------------------------------------------------------------------------------------


def export_module(name: str, folder: Path, *options: str) -> Path:
    given = (*RGB, "--tile=64", *options)
    return exported(f"{modules.__name__}:{name}", folder / f"{name}.fctl", *given).folder


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Named", ()),
        ("Alone", ()),
        ("Listed", ("--output=1",)),
        ("Nested", ("--output=main",)),
        ("scripted", ()),
        ("Wrapped", ()),
        ("scripted_pair", ("--output=1",)),
    ],
)
def test_the_scores_of_a_module_are_the_right_tensor(tmp_path: Path, name: str, options: tuple[str, ...]) -> None:
    folder = export_module(name, tmp_path, *options)
    assert right_share(folder, picture().argmax(2), picture()) == 1


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("Listed", (), "expected one output, found 2; choose with --output: 0 (N, 3, 64, 64), 1 (N, 3, 64, 64)"),
        ("scripted_pair", (), "expected one output, found 2; choose with --output: 0 (N, 3, 64, 64), 1 (N, 3, 64, 64)"),
        ("Nested", (), "choose with --output: side.0 (N, 3, 64, 64), side.1 (N, 3, 64, 64), main (N, 3, 64, 64)"),
        ("Named", ("--output=main",), "has no output 'main'; it has aux (N, 3, 64, 64), logits (N, 3, 64, 64)"),
        ("Squeezed", (), "found (3, 64, 64); the output lost its batch"),
        ("Halving", ("--tile=72",), "give --tile 96, with which it runs"),
    ],
)
def test_a_module_that_is_not_clear_is_one_line(
    tmp_path: Path, name: str, options: tuple[str, ...], message: str
) -> None:
    given = (*RGB, "--tile=64", *options)
    done = fctl_export(f"{modules.__name__}:{name}", "--out", tmp_path / "own.fctl", *given)
    check_refused(done, message, 1, tmp_path, [])


def test_a_torchscript_file_is_a_network(tmp_path: Path) -> None:
    (tmp_path / "net.pt").write_bytes(modules.script(modules.Brightest).read())
    bundle = exported(tmp_path / "net.pt", tmp_path / "own.fctl", *RGB, "--tile=64")
    assert bundle.manifest.fixed_batch is None
    assert right_share(bundle.folder, picture().argmax(2), picture()) == 1


def test_a_pickled_module_says_what_to_give(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(nn.Conv2d(3, 3, 1), tmp_path / "net.pt")
    done = fctl_export(tmp_path / "net.pt", "--out", tmp_path / "own.fctl", "--classes=a,b,c")
    message = (
        "save the state_dict alone; or give the network as package.module:factory, as TorchScript or as MODEL.onnx"
    )
    check_refused(done, message, 1, tmp_path, [tmp_path / "net.pt"])
    assert "\x1b" not in done.err


# Outputs and shapes of graphs ---------------------------------------------------------------------------------------


def test_a_graph_that_loses_its_batch_is_one_line(tmp_path: Path) -> None:
    """Of two images it scores both, of one it drops the batch."""
    path = save(brightest("y = Squeeze(scores)", "float y"), tmp_path)
    done = fctl_export(path, "--out", tmp_path / "own.fctl", *RGB)
    check_refused(done, "found (3, 64, 64); the output lost its batch", 1, tmp_path, [path])


@pytest.mark.parametrize("side", [64, 32])
def test_scores_in_another_layout_than_the_image(tmp_path: Path, side: int) -> None:
    pool = f"small = AveragePool<kernel_shape=[{64 // side},{64 // side}], strides=[{64 // side},{64 // side}]>(scores)"
    model = brightest(f"{pool} y = Transpose<perm=[0,2,3,1]>(small)", f"float[N,{side},{side},3] y")
    bundle = exported(save(model, tmp_path), tmp_path / "own.fctl", *RGB)
    assert right_share(bundle.folder, picture().argmax(2), picture()) >= (1 if side == 64 else 0.9)


def test_a_tile_that_a_network_cannot_take_names_one_that_it_can(tmp_path: Path) -> None:
    model = parse(
        "small = MaxPool<kernel_shape=[32,32], strides=[32,32]>(image) large = Resize(small, , many)"
        " none = Sub(large, large) scores = Add(image, none)",
        "float[N,3,H,W] scores", taken="float[N,3,H,W] image", many=np.float32([1, 1, 32, 32]),
    )  # fmt: skip
    path = save(model, tmp_path)
    done = fctl_export(path, "--out", tmp_path / "own.fctl", *RGB, "--tile=72")
    check_refused(done, "give --tile 96, with which it runs", 1, tmp_path, [path])


@pytest.mark.parametrize(
    ("taken", "options", "message"),
    [
        ("float[N,3,64,96] image", (), "tiles are square: export the network for a square image"),
        ("float[N,64,64,3] image", (), "give --layout nhwc"),
        ("float[N,3,64,64] image", ("--layout=nhwc",), "give --layout nchw"),
    ],
)
def test_an_image_of_another_shape_says_what_to_do(
    tmp_path: Path, taken: str, options: tuple[str, ...], message: str
) -> None:
    path = save(parse("scores = Neg(image)", taken.replace("image", "scores"), taken=taken), tmp_path)
    check_refused(fctl_export(path, "--out", tmp_path / "own.fctl", *RGB, *options), message, 1, tmp_path, [path])


@pytest.mark.parametrize("scale", ["1/0", "a/255", "1/", "half"])
def test_a_scale_that_is_no_number(tmp_path: Path, scale: str) -> None:
    done = fctl_export("m.onnx", "--classes=a,b", f"--scale={scale}", "--out", tmp_path / "own.fctl")
    check_refused(done, f"--scale: expected a number as 0.00392157 or 1/255, found '{scale}'", 2, tmp_path, [])


# Only the middle of the image ---------------------------------------------------------------------------------------


def shifted(side: int, scored: int, first: int, batch: str = "N", *, nodes: str = "") -> onnx.ModelProto:
    """A network without padding: a convolution whose kernel has one pixel, `first` of each side."""
    kernel = np.zeros((3, 3, side - scored + 1, side - scored + 1), np.float32)
    kernel[range(3), range(3), first, first] = 20
    given = f"float[{batch},3,{scored},{scored}] scores"
    return parse(
        nodes or "scores = Conv(image, kernel)", given, taken=f"float[{batch},3,{side},{side}] image", kernel=kernel
    )


@pytest.mark.parametrize(
    ("side", "scored", "options", "batch"),
    [
        (64, 40, (), "N"),
        (64, 60, (), "N"),
        (64, 32, (), "N"),
        (64, 40, ("--crop=valid",), "N"),
        (64, 40, (), "1"),
        (128, 126, (), "N"),
    ],
)
def test_scores_of_the_middle_are_placed_where_they_belong(
    tmp_path: Path, side: int, scored: int, options: tuple[str, ...], batch: str
) -> None:
    path = save(shifted(side, scored, (side - scored) // 2, batch), tmp_path)
    bundle = exported(path, tmp_path / "own.fctl", *RGB, *options)
    assert bundle.manifest.tile == scored
    assert bundle.manifest.fixed_batch == (1 if batch == "1" else None)
    for backend in ("onnxruntime", "auto"):
        with Segmenter(bundle, backend=backend, batch=3) as segmenter:
            np.testing.assert_array_equal(segmenter.segment(picture()).ids, picture().argmax(2))


@pytest.mark.parametrize("side", [32, 16, 8, 56])
def test_a_coarser_grid_covers_the_whole_tile(tmp_path: Path, side: int) -> None:
    places = np.arange(side) * 64 // side
    model = brightest(
        "rows = Gather<axis=2>(scores, places) y = Gather<axis=3>(rows, places)", f"float[N,3,{side},{side}] y",
        places=places,
    )  # fmt: skip
    assert exported(save(model, tmp_path), tmp_path / "own.fctl", *RGB).manifest.tile == 64


CROPS: dict[str, tuple[Callable[[], onnx.ModelProto], tuple[str, ...], str]] = {
    "not in the middle": (lambda: shifted(64, 40, 0), (), "scores of 40 x 40 lie not in the middle of a tile of 64"),
    "half a pixel beside the middle": (lambda: shifted(64, 41, 11), (), "lie not in the middle of a tile of 64"),
    "said to cover the tile": (
        lambda: shifted(64, 40, 12),
        ("--crop=none",),
        "--crop none: expected scores of the whole tile, found scores of only the middle of the tile",
    ),
    "said to be the middle": (
        lambda: brightest("y = AveragePool<kernel_shape=[2,2], strides=[2,2]>(scores)", "float[N,3,32,32] y"),
        ("--crop=valid",),
        "--crop valid: expected scores of only the middle of the tile, found scores of the whole tile",
    ),
    "said to be the middle of all": (brightest, ("--crop=valid",), "the scores cover the whole tile: leave --crop out"),
    "the middle at half size": (
        lambda: brightest(
            "some = Slice(scores, from, to, axes) y = AveragePool<kernel_shape=[2,2], strides=[2,2]>(some)",
            "float[N,3,20,20] y", **{"from": np.int64([12, 12]), "to": np.int64([52, 52]), "axes": np.int64([2, 3])},
        ),
        (),
        "scores of 20 x 20 for a tile of 64 are no grid over it and not its middle",
    ),
    "neither": (
        lambda: brightest(
            "rows = Gather<axis=2>(scores, places) y = Gather<axis=3>(rows, places)", "float[N,3,40,40] y",
            places=np.random.default_rng(0).permutation(40),
        ),
        (),
        "scores of 40 x 40 for a tile of 64 do not show whether they cover all of it; say what they are with --crop",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CROPS)
def test_scores_that_are_placed_otherwise_are_refused(tmp_path: Path, case: str) -> None:
    model, options, message = CROPS[case]
    path = save(model(), tmp_path)
    check_refused(fctl_export(path, "--out", tmp_path / "own.fctl", *RGB, *options), message, 1, tmp_path, [path])
