"""Networks of others with several windows, exported on the command line and compared with loops over an image."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

import numpy as np
import onnx
import torch
from PIL import Image
from torch import nn

from fctl.export.cli.command import app
from fctl.export.foreign import ForeignContext, ForeignOptions, export_foreign_onnx
from fctl.runtime import Segmenter
from fctl.runtime.bundle.store import Bundle, read_bundle
from fctl.runtime.cli.info import info_app
from fctl.runtime.cli.run import run_app
from fctl.runtime.errors import InputError

from ..conftest import InProcess
from . import window_networks as networks
from .foreign_networks import SCORES, Array, contrast_graph, parse, picture, softmax
from .test_foreign import SCALING, averaged, check_refused, exported, fctl_export, same_class, save
from .window_networks import TILE, Cut, centred, middle, places, three, three_scores, tile_of, whole

OVERLAP = 16
CLASSES = ("--classes=land,water,road", f"--overlap={OVERLAP}")
SWINS = (*CLASSES, *SCALING, "--input=patch=image", "--context=around=context,window=128")
SAMPLE = Path(__file__).parents[2] / "samples" / "dubai.tif"


def looped(image: Array, tile: int, cuts: Mapping[str, Cut], score: Callable[[Mapping[str, Array]], Array]) -> Array:
    """Averaged scores (classes, height, width) of tiles, each scored from the images that are cut around it."""

    def of(tiles: Array) -> Array:
        firsts = [(int(y), int(x)) for y, x in tiles[:, 0, 0]]
        return score({name: np.stack([cut(image, y, x) for y, x in firsts]) for name, cut in cuts.items()})

    return averaged(places(image), tile, OVERLAP, of)


def two_pixels(seen: Mapping[str, Array]) -> Array:
    """What `TwoPixels` and `middle` score."""
    return (20 * (seen["near"] / 255) + 10 * (seen["far"] / 255)).transpose(0, 3, 1, 2)


# Two windows: a patch looks at its neighbourhood ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def swins() -> nn.Module:
    return networks.two_swins()


@pytest.fixture(scope="module")
def from_module(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("module") / "swins.fctl"
    return exported(f"{networks.__name__}:two_swins", out, *SWINS, f"--tile={TILE}", "--output=out")


@pytest.fixture(scope="module")
def from_file(swins: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("file")
    images, names = torch.zeros(2, 3, TILE, TILE), {"input_names": ["image", "context"], "output_names": ["out", "in"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            swins, (images, images), folder / "swins.onnx", dynamo=False, opset_version=17, verbose=False,
            dynamic_axes={"image": {0: "n"}, "context": {0: "n"}}, **names,
        )  # fmt: skip
    return exported(folder / "swins.onnx", folder / "swins.fctl", *SWINS, "--output=out")


def swin_scores(network: nn.Module, image: Array) -> Array:
    cuts = {"near": tile_of(), "far": centred(128, TILE)}
    return looped(image, TILE, cuts, lambda seen: networks.swin_logits(network, seen["near"], seen["far"]))


@pytest.fixture(scope="module")
def expected(swins: nn.Module) -> Array:
    return swin_scores(swins, picture())


@pytest.mark.parametrize(("kind", "engine"), [("module", "onnxruntime"), ("module", "openvino"), ("file", "openvino")])
def test_a_network_of_two_windows_segments_as_in_pytorch(
    from_module: Bundle, from_file: Bundle, expected: Array, kind: str, engine: str
) -> None:
    pytest.importorskip(engine)
    with Segmenter(from_module if kind == "module" else from_file, backend=engine, batch=4) as segmenter:
        found = segmenter.segment(picture(), probabilities=True)
    assert len(np.unique(found.ids)) == 3
    assert same_class(found.ids, expected) >= 0.999
    np.testing.assert_allclose(found.probabilities, softmax(expected), atol=1e-3)


def test_its_neighbourhood_decides_on_pixels(swins: nn.Module, expected: Array) -> None:
    """Else the test above would not see how windows are cut."""
    cuts = {"near": tile_of(), "far": whole(TILE)}
    others = looped(picture(), TILE, cuts, lambda seen: networks.swin_logits(swins, seen["near"], seen["far"]))
    assert same_class(others.argmax(0), expected) < 0.95


def test_its_manifest(from_module: Bundle, from_file: Bundle) -> None:
    for bundle in (from_module, from_file):
        manifest = bundle.manifest
        (context,) = manifest.contexts
        assert (context.name, context.factor, context.size, context.resampling) == ("around", 2, TILE, "box")
        assert (context.encoder, context.cells, context.scene, context.sharing) == (None, None, None, None)
        assert [(one.name, one.dtype, one.shape) for one in manifest.segmenter.inputs] == [
            ("patch", "uint8", ("N", 3, TILE, TILE)), ("window_around", "uint8", ("N", 3, TILE, TILE))
        ]  # fmt: skip
        (effect,) = manifest.parity[0].contexts
        assert (effect.name, effect.change > 0.05) == ("around", True)
        assert manifest.extensions == {}


def test_test_time_augmentation_turns_all_windows(from_module: Bundle, swins: nn.Module) -> None:
    image, total = picture(112, 112), 0
    for quarters in range(4):
        for mirrored in (False, True):
            seen = np.ascontiguousarray(np.rot90(image, quarters)[:, ::-1] if mirrored else np.rot90(image, quarters))
            scores = swin_scores(swins, seen)
            total = total + np.rot90(scores[..., ::-1] if mirrored else scores, -quarters, (1, 2)) / 8
    with Segmenter(from_module, backend="onnxruntime", tta=True) as segmenter:
        found = segmenter.segment(image, probabilities=True)
    assert same_class(found.ids, total) >= 0.999
    assert same_class(found.ids, swin_scores(swins, image)) < 0.99
    np.testing.assert_allclose(found.probabilities, softmax(total), atol=5e-3)  # Pillow rounds rows, then columns


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_it_can_have_other_precisions(
    from_module: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    monkeypatch.setattr("fctl.export.precision.add.PARITY_PATCHES", 2)
    Image.fromarray(picture()).save(tmp_path / "image.png")
    given = ("--calib", tmp_path / "image.png", "--count=4", "--ranges=minmax") if precision == "int8" else ()
    out = tmp_path / "other.fctl"
    done = fctl_export(from_module.folder, "--precision", precision, "--out", out, *given)
    assert done.code == 0, done.err
    masks = []
    for chosen in ("fp32", precision):
        with Segmenter(out, backend="onnxruntime", precision=chosen) as segmenter:
            masks.append(segmenter.segment(picture()).ids)
    assert (masks[0] == masks[1]).mean() >= 0.98


def test_tensorrt_rtx_builds_it(from_module: Bundle, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    rtx = ("--fmt=trt", "--flavour=tensorrt-rtx", "--compute-capability=86", "--batch=2")
    done = fctl_export(from_module.folder, *rtx, "--out", tmp_path / "device.fctl")
    assert done.code == 0, done.err
    assert len(list((tmp_path / "device.fctl" / "engines").glob("segmenter*.engine"))) == 1


def test_torchscript_is_asked_for_the_names_of_its_arguments(tmp_path: Path) -> None:
    (tmp_path / "net.pt").write_bytes(networks.script_file(networks.TwoPixels))
    given = ("--classes=r,g,b", f"--overlap={OVERLAP}", "--scale=1/255", "--tile=64")
    bundle = exported(tmp_path / "net.pt", tmp_path / "own.fctl", *given, "--context=far=context,window=96,size=64")
    assert bundle.manifest.fixed_batch is None
    cuts = {"near": tile_of(), "far": centred(96, TILE)}
    scores = looped(picture(), TILE, cuts, two_pixels)
    with Segmenter(bundle) as segmenter:
        assert same_class(segmenter.segment(picture()).ids, scores) >= 0.999


# Three windows: a patch, its surroundings, and the whole raster -------------------------------------------------------

NEAR = ("--scale=0.02", "--mean=2.5,2,1.5", "--std=1,0.8,1.2")
WIDE = "--context=wide=overview,scale=0.01,mean=1.2,1,0.8,std=0.5"
AROUND = "--context=around=context,window=96"
TAKEN = {
    "any batch": (three, (), {}),
    "nhwc": (lambda: three(layout="nhwc"), ("--layout=nhwc",), {}),
    "a batch of 3": (lambda: three(batch="3"), (), {}),
    "any size": (lambda: three(side="S"), ("--tile=64",), {}),
    "another filter": (
        three, (), {"around": centred(96, TILE, kind=Image.Resampling.BILINEAR)},
    ),
    "integers": (lambda: three(kind="uint8"), (), {}),
}  # fmt: skip


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bundle]:
    done: dict[str, Bundle] = {}

    def get(name: str) -> Bundle:
        if name not in done:
            model, options, others = TAKEN[name]
            folder = tmp_path_factory.mktemp("hand")
            around = AROUND + (",resampling=pillow-bilinear" if others else "")
            scaling = ("--context=wide=overview",) if name == "integers" else (WIDE, *NEAR)
            done[name] = exported(save(model(), folder), folder / "own.fctl", *CLASSES, around, *scaling, *options)
        return done[name]

    return get


def taken(seen: Mapping[str, Array], integers: bool) -> dict[str, Array]:
    """Images as the three inputs get them."""
    if integers:
        return {name: (image - 110.0) * 0.02 for name, image in seen.items()}
    near = {name: (seen[name] * 0.02 - [2.5, 2, 1.5]) / [1, 0.8, 1.2] for name in ("near", "around")}
    return {**near, "wide": (seen["wide"] * 0.01 - [1.2, 1, 0.8]) / 0.5}


@pytest.mark.parametrize("name", TAKEN)
def test_a_network_of_three_windows_segments_as_its_formula_says(by_hand: Callable[[str], Bundle], name: str) -> None:
    cuts = {"near": tile_of(), "around": centred(96, TILE), "wide": whole(24), **TAKEN[name][2]}
    scores = looped(picture(), TILE, cuts, lambda seen: three_scores(taken(seen, name == "integers")))
    bundle = by_hand(name)
    assert bundle.manifest.fixed_batch == (3 if name == "a batch of 3" else None)
    for engine in ("onnxruntime", "auto"):
        with Segmenter(bundle, backend=engine, batch=4) as segmenter:
            found = segmenter.segment(picture(), probabilities=True)
        assert set(np.unique(found.ids)) == {0, 1, 2}
        assert same_class(found.ids, scores) >= 0.999
        np.testing.assert_allclose(found.probabilities, softmax(scores), atol=2e-3)


def test_the_manifest_of_three_windows(by_hand: Callable[[str], Bundle], in_process: InProcess) -> None:
    manifest = by_hand("any batch").manifest
    assert [(one.name, one.factor, one.size) for one in manifest.contexts] == [
        ("around", 1.5, 64), ("wide", "global", 24)
    ]  # fmt: skip
    assert manifest.input.scaling is not None
    np.testing.assert_allclose(manifest.input.scaling.mean, [125, 100, 75])
    scaling = manifest.extensions["context_scaling"]
    assert scaling == {"wide": {"mean": [120.0, 100.0, 80.0], "std": [50.0, 50.0, 50.0]}}
    assert all(effect.change > 0.01 for effect in manifest.parity[0].contexts)
    shown = in_process(info_app, by_hand("any batch").folder).stdout
    for line in ("1.5 x the tile (96 pixels), at 64 pixels (box); encoded by the segmenter itself", "the whole image"):
        assert line in shown


def test_an_input_of_one_window_fixes_the_batch(tmp_path: Path) -> None:
    """A global context is often fed once, and spread over the patches in the graph."""
    model = parse(
        "x = GlobalAveragePool(overview) scores = Add(image, x)", SCORES,
        taken="float[N,3,64,64] image, float[1,3,24,24] overview",
    )  # fmt: skip
    options = ("--classes=a,b,c", "--scale=0.02", "--context=wide=overview")
    done = fctl_export(save(model, tmp_path), "--out", tmp_path / "own.fctl", *options)
    assert done.code == 0, done.err
    assert done.err.endswith("has inputs of an open batch and of 1: the bundle's is fixed to 1\n")
    assert read_bundle(tmp_path / "own.fctl").manifest.fixed_batch == 1


def test_a_fixed_batch_can_have_fp16(by_hand: Callable[[str], Bundle], tmp_path: Path) -> None:
    done = fctl_export(by_hand("a batch of 3").folder, "--precision=fp16", "--out", tmp_path / "half.fctl")
    assert done.code == 0, done.err
    assert read_bundle(tmp_path / "half.fctl").manifest.precisions == ("fp32", "fp16")


def test_a_large_raster_is_shown_in_scene_blocks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bundle = exported(
        save(three(), tmp_path), tmp_path / "own.fctl", *CLASSES, *NEAR, AROUND, f"{WIDE},window=global,scene=100"
    )  # fmt: skip
    assert [context.scene for context in bundle.manifest.contexts] == [None, 100]
    image = picture()
    with Segmenter(bundle) as segmenter:
        blocks = segmenter.segment(image).ids
    assert "5 x 5 scene blocks" in caplog.text
    cuts = {"near": tile_of(), "around": centred(96, TILE), "wide": whole(24)}
    scores = looped(image, TILE, cuts, lambda seen: three_scores(taken(seen, False)))
    assert same_class(blocks, scores) < 0.99  # which has the whole for one block


def test_the_same_in_python(tmp_path: Path) -> None:
    options = ForeignOptions(
        classes=("a", "b", "c"), scale=0.02, input="image",
        contexts=(
            ForeignContext(name="around", input="context", window=96),
            ForeignContext(name="wide", input="overview", scale=0.01),
        ),
    )  # fmt: skip
    manifest = export_foreign_onnx(save(three(), tmp_path), tmp_path / "own.fctl", options)
    assert read_bundle(tmp_path / "own.fctl").manifest == manifest
    wrong = ForeignOptions(classes=("a", "b", "c"), contexts=(ForeignContext(name="around", input="contxt"),))
    with pytest.raises(InputError, match="has no input 'contxt'; it has image, context, overview"):
        export_foreign_onnx(tmp_path / "network.onnx", tmp_path / "wrong.fctl", wrong)


def test_scores_of_the_middle_beside_a_context(tmp_path: Path) -> None:
    given = ("--classes=r,g,b", "--scale=1/255", f"--overlap={OVERLAP}")
    bundle = exported(save(middle(64, 32), tmp_path), tmp_path / "own.fctl", *given, "--context=far=context,window=64")
    assert bundle.manifest.tile == 32
    assert [(one.name, one.factor, one.size) for one in bundle.manifest.contexts] == [
        ("surround", 2, 64), ("far", 2, 32)
    ]  # fmt: skip
    cuts = {"near": tile_of(32), "far": centred(64, 32, 32)}
    scores = looped(picture(), 32, cuts, two_pixels)
    with Segmenter(bundle) as segmenter:
        assert same_class(segmenter.segment(picture()).ids, scores) >= 0.999


def test_from_a_file_to_a_mask_of_a_raster(tmp_path: Path, in_process: InProcess) -> None:
    """On the command line alone, all of the sample."""
    rasterio = pytest.importorskip("rasterio")
    path = save(three(side="256"), tmp_path)
    around = "--context=around=context,window=512"
    exported(path, tmp_path / "own.fctl", *CLASSES, *NEAR, around, f"{WIDE},window=global", "--input=patch=image")
    done = in_process(run_app, SAMPLE, "--bundle", tmp_path / "own.fctl", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    (mask,) = (tmp_path / "out").glob("*mask.tif")
    with rasterio.open(SAMPLE) as opened:
        image = opened.read().transpose(1, 2, 0)
    with rasterio.open(mask) as opened:
        ids = opened.read(1)
    cuts = {"near": tile_of(256), "around": centred(512, 256, 256), "wide": whole(24)}
    scores = looped(image[:700, :700], 256, {**cuts, "wide": lambda *_: whole(24)(image, 0, 0)}, lambda seen: (
        three_scores(taken(seen, False))
    ))  # fmt: skip
    assert same_class(ids[:380, :380], scores[:, :380, :380]) >= 0.999  # whose tiles lie in the part, with all around


# What is refused ----------------------------------------------------------------------------------------------------

ONE = ("--classes=a,b,c", "--scale=0.02", "--input=patch=image", "--context=wide=overview")
REFUSED: dict[str, tuple[Callable[[], onnx.ModelProto], tuple[str, ...], str]] = {
    "inputs that nobody names": (
        three, ("--classes=a,b,c", "--scale=0.02"),
        "expected one input, an image, or contexts that take the others, found 3 (image, context, overview); say what "
        "each of them shows, as in --input patch=image --context NAME=context,window=PIXELS "
        "--context NAME=overview,window=PIXELS (without window: the whole raster), or make it a constant",
    ),
    "one input that nobody names": (
        three, ONE,
        "as in --input patch=image --context wide=overview --context NAME=context,window=PIXELS (",
    ),
    "an input that is not there": (
        three, (*ONE, "--context=around=contxt,window=96"),
        "network.onnx has no input 'contxt'; it has image, context, overview",
    ),
    "a patch that is not there": (
        contrast_graph, ("--classes=a,b,c", "--input=patch=picture"),
        "network.onnx has no input 'picture'; it has image",
    ),
    "the same input twice": (
        three, (*ONE, "--context=around=overview,window=96"),
        "--context around: the input 'overview' is that of --context wide already",
    ),
    "the patch's input twice": (
        three, (*ONE, "--context=around=image,window=96"),
        "--context around: the input 'image' is that of --input patch already",
    ),
    "no input for the patch": (
        contrast_graph, ("--classes=a,b,c", "--context=wide=image"),
        "no input is left for the patch: give --input patch=NAME",
    ),
    "another parity": (
        three, (*ONE, "--context=around=context,window=97"),
        "--context around: expected a window that leaves whole pixels on either side of the tile's 64, found 97; give "
        "window=96 or 98",
    ),
    "a window smaller than the patch": (
        three, (*ONE, "--context=around=context,window=48"),
        "--context around: expected a window of the tile's 64 pixels or more, found 48",
    ),
    "a window of nothing": (
        three, (*ONE, "--context=around=context,window=0"), "expected a window of 1 to 65536 pixels, found 0"
    ),
    "a size that the graph contradicts": (
        three, (*ONE, "--context=around=context,window=96,size=32"),
        "expected input 'context' of 3 bands x 32 x 32 in nchw, found 3 x 64 x 64; leave size out of --context around",
    ),
    "a scene smaller than the patch": (
        three, ("--classes=a,b,c", "--context=around=context,window=96", "--context=wide=overview,scene=64"),
        "--context wide: expected a scene of more than the tile's 64 pixels, found 64",
    ),
    "a scene of a window": (
        three, (*ONE, "--context=around=context,window=96,scene=200"),
        "--context around: scene is for a context that shows the whole raster: leave it out",
    ),
    "a name that is none": (
        three, (*ONE, "--context=a-b=context,window=96"), "expected a name of letters, digits and _, found 'a-b'"
    ),
    "a name that is ours": (
        three, (*ONE, "--context=surround=context,window=96"), "--context: a context cannot be called surround; choose"
    ),
    "the patch as a context": (
        three, ("--classes=a,b,c", "--context=patch=image"), "cannot be called patch; give --input patch=NAME"
    ),
    "one name twice": (
        three, (*ONE, "--context=wide=context,window=96"), "--context: expected distinct names, found wide 2 times"
    ),
    "two means": (
        three, (*ONE, "--context=around=context,window=96,mean=1,2"),
        "--context around: mean: expected one value or 3, one per band, found 2",
    ),
    "scaling before integers": (
        lambda: three(kind="uint8"), ("--classes=a,b,c", AROUND, "--context=wide=overview,scale=0.5"),
        "takes raw uint8 and scales by itself",
    ),
    "two fixed batches": (
        lambda: parse(
            "x = GlobalAveragePool(context) y = ReduceMean<axes=[0], keepdims=1>(x) scores = Add(image, y)",
            "float[2,3,64,64] scores", taken="float[2,3,64,64] image, float[3,3,64,64] context",
        ),
        ("--classes=a,b,c", AROUND), "expected inputs of one batch, found 2 and 3",
    ),
    "a context of one band": (
        lambda: parse("scores = Add(image, context)", "float[N,3,64,64] scores",
                      taken="float[N,3,64,64] image, float[N,1,64,64] context"),
        ("--classes=a,b,c", AROUND), "expected input 'context' of 3 bands x 64 x 64 in nchw, found 1 x 64 x 64",
    ),
    "a context without effect": (
        lambda: parse("none = Sub(context, context) scores = Add(image, none)", "float[N,3,64,64] scores",
                      taken="float[N,3,64,64] image, float[N,3,64,64] context"),
        ("--classes=a,b,c", "--scale=0.02", AROUND),
        "context 'around' is not wired in: another patch's changes no logit",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_windows_that_do_not_fit_are_one_line(tmp_path: Path, case: str) -> None:
    model, options, message = REFUSED[case]
    path = save(model(), tmp_path)
    done = fctl_export(path, "--out", tmp_path / "folder" / "own.fctl", *options)
    check_refused(done, message, 1, tmp_path, [path])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--input=image", "--input: expected patch=NAME, found 'image'"),
        ("--input=medium=context", "--input: expected patch=NAME, found 'medium=context'"),
        ("--context=medium", "--context: expected NAME=INPUT or NAME=INPUT,window=PIXELS, found 'medium'"),
        ("--context==x", "--context: expected NAME=INPUT"),
        ("--context=a=b,windw=96", "--context a: expected window=, scene=, size=, resampling=, scale=, mean=, std="),
        ("--context=a=b,96", "found '96'"),
        ("--context=a=b,window=wide", "--context a: window: expected pixels as 1024, or global, found 'wide'"),
        ("--context=a=b,size=small", "--context a: size: expected pixels as 512, found 'small'"),
        ("--context=a=b,window=96,window=98", "--context a: window is given twice"),
        ("--context=a=b,resampling=cubic", "resampling: expected pillow-bilinear or box, found 'cubic'"),
        ("--context=a=b,mean=1,grey", "--context a: mean: expected numbers as in 0.485,0.456,0.406, found '1,grey'"),
        ("--context=a=b,scale=1/0", "--context a: scale: expected a number as 0.00392157 or 1/255, found '1/0'"),
    ],
)
def test_windows_that_cannot_be_read_are_exit_code_2(tmp_path: Path, option: str, message: str) -> None:
    done = fctl_export("m.onnx", "--classes=a,b", option, "--out", tmp_path / "own.fctl")
    check_refused(done, message, 2, tmp_path, [])


@pytest.mark.parametrize("option", ["--input=patch=image", "--context=a=b"])
def test_windows_are_for_networks_of_ones_own(tmp_path: Path, option: str) -> None:
    done = fctl_export("m.pt", option, "--out", tmp_path / "own.fctl")
    check_refused(done, f"{option.partition('=')[0]} is for networks of your own", 2, tmp_path, [])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("TwoPixels", (), "expected one input, an image, or contexts that take the others, found 2 (image, context)"),
        ("TwoPixels", ("--context=a=wide",), "has no input 'wide'; it has image, context, more"),
        (
            "TwoPixels",
            ("--context=a=context,window=96,size=32",),
            "cannot take images (2, 3, 64, 64) and (2, 3, 32, 32)",
        ),
        ("Ignorant", ("--context=a=context,window=96",), "context 'a' is not wired in"),
        ("Packed", ("--context=a=context,window=96",), "has no input 'context'; it has none with a name"),
    ],
)
def test_a_module_whose_windows_do_not_fit_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, options: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    given = ("--classes=r,g,b", "--scale=1/255", "--tile=64", *options)
    done = fctl_export(f"{networks.__name__}:{name}", "--out", tmp_path / "own.fctl", *given)
    check_refused(done, message, 1, tmp_path, [])


def test_torchscript_that_ignores_a_window_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    path.write_bytes(networks.script_file(networks.Ignorant))
    given = ("--classes=r,g,b", "--scale=1/255", "--tile=64", "--context=a=context,window=96")
    done = fctl_export(path, "--out", tmp_path / "own.fctl", *given)
    check_refused(done, "its scores do not depend on context; leave it out of the network", 1, tmp_path, [path])


def test_help_shows_how_windows_are_written(in_process: InProcess) -> None:
    shown = in_process(app, "--help").stdout
    for part in ("--input", "--context", "NAME=INPUT[,...]"):
        assert part in shown
