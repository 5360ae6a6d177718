"""Files of the public release, exported: masks against a loop over patches that is written from the formulas alone."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from typer.testing import CliRunner, Result

from fctl.export import card, pipeline
from fctl.export.card import ExportOptions
from fctl.export.cli import command as cli
from fctl.export.pipeline import export_bundle
from fctl.model.presets import Preset, narrow, preset
from fctl.runtime import Segmenter
from fctl.runtime.bundle.manifest import Manifest, Precision
from fctl.runtime.bundle.store import read_bundle
from fctl.runtime.errors import CheckpointError, FctlError, InputError
from fctl.runtime.tiling.windows import TilePlan

from ..model.helpers import build, save_small, small_config
from . import builds, release_files
from .release_files import BRANCHES, DEEPGLOBE, INRIA, LOCAL, NARROW, Branch, State

Pixels = NDArray[np.uint8]

AGREEMENT = 0.999
SHARE = 0.05  # that at least two classes must hold, lest a mask of one colour agrees with everything
# Height and width, for 1 x 3 (a step of 247.5 pixels), 2 x 2 and 1 x 1 patches.
SIZES = ((430, 1003), (700, 901), (300, 200))
ODD, _, TINY = SIZES
SIDES = {INRIA.arch: {"medium": 1016, "large": 1524}, DEEPGLOBE.arch: {"medium": 1524}}


# --- The release, naively ---------------------------------------------------------------------------------------------

PATCH = 508
CONVOLUTIONS = {"pool3": ((0, 2), (5, 7), (10, 12, 14)), "pool4": ((0, 2, 4),), "pool5": ((0, 2, 4),)}  # between pools


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How a branch computes. attended: whose features in_1, in_2 and in_3 take, and what their layers are called."""

    attended: tuple[tuple[str, str], ...]
    mixing: str
    centred: bool
    encoders: Mapping[str, str]


RULES = {
    INRIA.arch: Rules(
        attended=(("medium", "big_attention.{}"), ("large", "big_attention.{}_1"), ("local", "big_attention.{}_2")),
        mixing="big_attention.",
        centred=False,
        encoders={"medium": "big_", "large": "big_"},
    ),
    DEEPGLOBE.arch: Rules(
        attended=(("local", "local.{}"), ("medium", "medium.{}"), ("large", "large.{}")),
        mixing="",
        centred=True,
        encoders={"medium": "big_", "large": ""},
    ),
}


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One patch: its first row and column, its features by stage, and those of its contexts by name."""

    y: int
    x: int
    local: dict[str, Tensor]
    contexts: dict[str, Tensor]


def starts(side: int) -> list[int]:
    if side <= PATCH:
        return [0]
    count = 2
    while count * PATCH < side or (count * PATCH - side) / (count - 1) < 50:
        count += 1
    step = (side - PATCH) / (count - 1)
    return [round(i * step) for i in range(count)]


def around(image: Pixels, y: int, x: int, side: int) -> Pixels:
    """The window of that side that shares the centre of the patch at (y, x), at the patch's size."""
    black = np.pad(image, ((side, side), (side, side), (0, 0)))
    first = side - (side - PATCH) // 2
    return resized(black[y + first : y + first + side, x + first : x + first + side])


def resized(pixels: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(pixels).resize((PATCH, PATCH), Image.Resampling.BILINEAR))


def convolved(x: Tensor, state: State, layer: str, padding: int = 0) -> Tensor:
    return F.conv2d(x, state[f"{layer}.weight"], state.get(f"{layer}.bias"), padding=padding)


def encoded(pixels: Pixels, state: State, prefix: str) -> dict[str, Tensor]:
    x = torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32) / 255)[None]
    features, padding = {}, 100
    for block, groups in CONVOLUTIONS.items():
        for group in groups:
            for index in group:
                x = F.relu(convolved(x, state, f"{prefix}{block}.{index}", padding))
                padding = 1
            x = F.max_pool2d(x, 2, 2, ceil_mode=True)
        features[block] = x
    return features


def seen(image: Pixels, states: dict[str, State], rules: Rules, sides: Mapping[str, int]) -> list[Seen]:
    """Every patch of an image. sides: of the contexts' windows; a context that has none is the whole image."""

    def context(name: str, window: Pixels) -> Tensor:
        return encoded(window, states[name], rules.encoders[name])["pool5"]

    found = []
    with torch.inference_mode():
        whole = {name: context(name, resized(image)) for name in rules.encoders if name not in sides}
        for y in starts(image.shape[0]):
            for x in starts(image.shape[1]):
                cut = {name: context(name, around(image, y, x, side)) for name, side in sides.items()}
                local = encoded(around(image, y, x, PATCH), states[LOCAL], "")
                found.append(Seen(y=y, x=x, local=local, contexts=whole | cut))
    return found


def attended(x: Tensor, u: Tensor, state: State, layers: str, centred: bool) -> Tensor:
    query, key, value = (
        convolved(features, state, layers.format(layer)).flatten(2)[0]
        for features, layer in ((x, "conv_query"), (u, "conv_key"), (u, "conv_value"))
    )
    if centred:
        query, key = query - query.mean(1, keepdim=True), key - key.mean(1, keepdim=True)
    weights = torch.softmax(query.T @ key, dim=1)  # (pixels of x, pixels of u)
    return state[layers.format("gamma")] * (value @ weights.T).reshape(x.shape)


def enhanced(patch: Seen, state: State, rules: Rules) -> Tensor:
    x = patch.local["pool5"]
    members = {LOCAL: x, **patch.contexts}
    outs = [attended(x, members[name], state, layers, rules.centred) for name, layers in rules.attended]
    inputs = [convolved(out, state, f"{rules.mixing}in_{i}") for i, out in enumerate(outs, 1)]
    parts = convolved(torch.cat(inputs, dim=1), state, f"{rules.mixing}trans").chunk(3, dim=1)
    scores = [torch.sigmoid(convolved(part, state, f"{rules.mixing}out_{i}")) for i, part in enumerate(parts, 1)]
    weights = torch.softmax(torch.stack(scores), dim=0)
    return x + sum(weight * out for weight, out in zip(weights, outs, strict=True))


def decoded(x: Tensor, pool4: Tensor, pool3: Tensor, state: State) -> Tensor:
    x = F.relu(convolved(F.relu(convolved(x, state, "output.0")), state, "output.3"))
    x = F.conv_transpose2d(convolved(x, state, "output.6"), state["up_output.weight"], stride=2)
    x = x + convolved(0.01 * pool4, state, "adj_pool4")[:, :, 5 : 5 + x.shape[2], 5 : 5 + x.shape[3]]
    x = F.conv_transpose2d(x, state["up_pool4_out.weight"], stride=2)
    x = x + convolved(0.0001 * pool3, state, "adj_pool3")[:, :, 9 : 9 + x.shape[2], 9 : 9 + x.shape[3]]
    x = F.conv_transpose2d(x, state["up_final.weight"], stride=8)
    return x[0, :, 31 : 31 + PATCH, 31 : 31 + PATCH]


def mask(patches: list[Seen], size: tuple[int, int], state: State, rules: Rules) -> Pixels:
    """Class ids of an image from its patches."""
    total = torch.zeros(len(state["output.6.bias"]), *size)
    with torch.inference_mode():
        for patch in patches:
            scores = decoded(enhanced(patch, state, rules), patch.local["pool4"], patch.local["pool3"], state)
            place = total[:, patch.y : patch.y + PATCH, patch.x : patch.x + PATCH]
            place += scores[:, : place.shape[1], : place.shape[2]]
    return total.argmax(0).numpy().astype(np.uint8)


# --- What is compared -------------------------------------------------------------------------------------------------


@cache
def image_of(size: tuple[int, int]) -> Pixels:
    """Colours that vary from pixel to pixel and over hundreds of pixels, so that every context shows something else."""
    height, width = size
    random, total = np.random.default_rng(0), np.zeros((height, width, 3))
    for cell, share in ((256, 0.72), (64, 0.4), (16, 0.32), (2, 0.16)):
        coarse = random.integers(0, 256, (height // cell + 2, width // cell + 2, 3), np.uint8)
        total += share * (np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)) - 128.0)
    return (total + 128).clip(0, 255).astype(np.uint8)


@cache
def contents(branch: Branch) -> dict[str, State]:
    """What the files of a branch hold by role, without the prefix."""
    return {
        role: {key.removeprefix("module."): tensor for key, tensor in state.items()}
        for role, state in release_files.draw(branch, NARROW).items()
    }


@cache
def patches_of(branch: Branch, size: tuple[int, int]) -> list[Seen]:
    return seen(image_of(size), contents(branch), RULES[branch.arch], SIDES[branch.arch])


@cache
def expected(branch: Branch, size: tuple[int, int]) -> Pixels:
    ids = mask(patches_of(branch, size), size, contents(branch)[LOCAL], RULES[branch.arch])
    assert (np.bincount(ids.ravel()) >= SHARE * ids.size).sum() >= 2
    return ids


def agreement(found: Pixels, reference: Pixels) -> float:
    assert found.shape == reference.shape
    return float((found == reference).mean())


def narrow_preset(name: str, *, classes: int) -> Preset:
    found = preset(name, classes=classes)
    return replace(found, network=narrow(found.network, 1 / NARROW.divisor))


@pytest.fixture(scope="module", autouse=True)
def small_exports() -> Iterator[None]:
    """Presets at an eighth of their width, and a parity gate of as few patches as it takes to swap their contexts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(card, "preset", narrow_preset)
        patch.setattr(pipeline, "PARITY_PATCHES", 2)
        yield


@dataclass(frozen=True, kw_only=True)
class Files:
    """The files of a branch on disk, by role."""

    branch: Branch
    paths: dict[str, Path]

    def options(self, **changes: object) -> ExportOptions:
        """What the branch needs, with some of it changed."""
        others = {role: path for role, path in self.paths.items() if role != LOCAL}
        given = {"arch": self.branch.arch, "classes": self.branch.classes, "context_files": others}
        return ExportOptions(**(given | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def files_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Branch], Files]:
    @cache
    def get(branch: Branch) -> Files:
        folder = tmp_path_factory.mktemp(branch.arch)
        return Files(branch=branch, paths=release_files.write(folder, branch, release_files.draw(branch, NARROW)))

    return get


def fctl_export(files: Files, out: Path, *more: str) -> Result:
    """The command line, in this process: only here are the presets narrow."""
    branch, paths = files.branch, files.paths
    command = [paths[LOCAL], "--arch", branch.arch, "--medium", paths["medium"], "--large", paths["large"]]
    command += ["--classes", ",".join(branch.classes), "--out", out, *more]
    return CliRunner().invoke(cli.app, [str(argument) for argument in command])


@pytest.fixture(scope="module")
def exported(files_of: Callable[[Branch], Files], tmp_path_factory: pytest.TempPathFactory) -> Callable[[Branch], Path]:
    """Each branch as a bundle, exported once."""

    @cache
    def get(branch: Branch) -> Path:
        out = tmp_path_factory.mktemp("bundles") / f"{branch.arch}.fctl"
        done = fctl_export(files_of(branch), out)
        assert done.exit_code == 0, done.output
        assert done.stdout.splitlines()[-1] == f"wrote {out}"
        return out

    return get


@pytest.fixture(params=BRANCHES.values(), ids=list(BRANCHES))
def branch(request: pytest.FixtureRequest) -> Branch:
    return request.param  # type: ignore[no-any-return]


# --- Masks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_mask_is_that_of_the_naive_loop(
    exported: Callable[[Branch], Path], branch: Branch, size: tuple[int, int]
) -> None:
    with Segmenter(exported(branch), batch=1) as segmenter:
        share = agreement(segmenter.segment(image_of(size)).ids, expected(branch, size))
    print(f"{branch.arch}, {size[0]} x {size[1]} pixels: {share:.5%} of the pixels have the same class")
    assert share >= AGREEMENT


def swapped(*pairs: tuple[str, str]) -> Callable[[State], State]:
    """Layers exchanged, two by two: whatever of a key is not the layer's name stays."""

    def change(state: State) -> State:
        names = {a: b for pair in pairs for a, b in (pair, pair[::-1])}
        layers = {key: key.removesuffix(".weight").removesuffix(".bias") for key in state}
        return {names.get(layer, layer) + key[len(layer) :]: state[key] for key, layer in layers.items()}

    return change


def rolled(layer: str, *, rows: bool = False, columns: bool = False) -> Callable[[State], State]:
    """A layer's three blocks of output channels (rows) or of input channels (columns) moved on by one."""

    def change(state: State) -> State:
        weight, bias = state[f"{layer}.weight"], state[f"{layer}.bias"]
        step = len(bias) // 3
        weight = weight.roll(step, 0) if rows else weight
        weight = weight.roll(step, 1) if columns else weight
        return state | {f"{layer}.weight": weight, f"{layer}.bias": bias.roll(step) if rows else bias}

    return change


def dropped(key: str) -> Callable[[State], State]:
    return lambda state: state | {key: torch.zeros_like(state[key])}


MISTAKES = {
    "in_1 as in_2": (INRIA, swapped(("big_attention.in_1", "big_attention.in_2"))),
    "in_1 as in_3": (INRIA, swapped(("big_attention.in_1", "big_attention.in_3"))),
    "out_1 as out_2": (INRIA, swapped(("big_attention.out_1", "big_attention.out_2"))),
    "out_2 as out_3": (INRIA, swapped(("big_attention.out_2", "big_attention.out_3"))),
    "trans, outputs": (INRIA, rolled("big_attention.trans", rows=True)),
    "trans, inputs": (INRIA, rolled("big_attention.trans", columns=True)),
    "trans, both": (INRIA, rolled("big_attention.trans", rows=True, columns=True)),
    "gammas": (INRIA, swapped(("big_attention.gamma", "big_attention.gamma_2"))),
    "gammas of contexts": (INRIA, swapped(("big_attention.gamma", "big_attention.gamma_1"))),
    "queries": (INRIA, swapped(("big_attention.conv_query", "big_attention.conv_query_2"))),
    "keys": (INRIA, swapped(("big_attention.conv_key", "big_attention.conv_key_1"))),
    "values": (INRIA, swapped(("big_attention.conv_value_1", "big_attention.conv_value_2"))),
    "query as key": (INRIA, swapped(("big_attention.conv_query", "big_attention.conv_key"))),
    "no bias of the query": (INRIA, dropped("big_attention.conv_query.bias")),
    "global, in_1 as in_2": (DEEPGLOBE, swapped(("in_1", "in_2"))),
    "global, in_1 as in_3": (DEEPGLOBE, swapped(("in_1", "in_3"))),
    "global, out_1 as out_3": (DEEPGLOBE, swapped(("out_1", "out_3"))),
    "global, trans, outputs": (DEEPGLOBE, rolled("trans", rows=True)),
    "global, trans, inputs": (DEEPGLOBE, rolled("trans", columns=True)),
    "global, gammas": (DEEPGLOBE, swapped(("medium.gamma", "large.gamma"))),
    "global, keys": (DEEPGLOBE, swapped(("medium.conv_key", "large.conv_key"))),
    "adj_pool4": (DEEPGLOBE, dropped("adj_pool4.weight")),
    "adj_pool3": (DEEPGLOBE, dropped("adj_pool3.weight")),
    "up_output": (DEEPGLOBE, swapped(("up_output", "up_pool4_out"))),
    "up_final": (DEEPGLOBE, lambda state: state | {"up_final.weight": state["up_final.weight"].transpose(0, 1)}),
}


@pytest.mark.parametrize(("branch", "mistake"), MISTAKES.values(), ids=list(MISTAKES))
def test_a_mistake_in_the_main_file_would_show(branch: Branch, mistake: Callable[[State], State]) -> None:
    state = mistake(contents(branch)[LOCAL])
    assert state.keys() == contents(branch)[LOCAL].keys()
    wrong = mask(patches_of(branch, ODD), ODD, state, RULES[branch.arch])
    assert agreement(wrong, expected(branch, ODD)) < AGREEMENT


RULES_MISREAD = {
    "order": (INRIA, {"attended": RULES[INRIA.arch].attended[2:] + RULES[INRIA.arch].attended[:2]}),
    "query centred": (INRIA, {"centred": True}),
    "query not centred": (DEEPGLOBE, {"centred": False}),
}


@pytest.mark.parametrize(("branch", "change"), RULES_MISREAD.values(), ids=list(RULES_MISREAD))
def test_a_rule_misread_would_show(branch: Branch, change: dict[str, object]) -> None:
    rules = replace(RULES[branch.arch], **change)  # type: ignore[arg-type]
    wrong = mask(patches_of(branch, ODD), ODD, contents(branch)[LOCAL], rules)
    assert agreement(wrong, expected(branch, ODD)) < AGREEMENT


@pytest.mark.parametrize(
    ("branch", "context", "prefix"),
    [(INRIA, "medium", ""), (INRIA, "large", ""), (DEEPGLOBE, "medium", "")],
    ids=["inria medium", "inria large", "deepglobe medium"],
)
def test_the_wrong_encoder_of_a_file_would_show(branch: Branch, context: str, prefix: str) -> None:
    rules = RULES[branch.arch]
    misread = replace(rules, encoders=rules.encoders | {context: prefix})
    wrong = seen(image_of(TINY), contents(branch), misread, SIDES[branch.arch])
    ids = mask(wrong, TINY, contents(branch)[LOCAL], rules)
    assert agreement(ids, expected(branch, TINY)) < AGREEMENT


@pytest.mark.parametrize("context", ["medium", "large"])
def test_every_context_matters(branch: Branch, context: str) -> None:
    blind = [
        replace(patch, contexts=patch.contexts | {context: torch.zeros_like(patch.contexts[context])})
        for patch in patches_of(branch, ODD)
    ]
    ids = mask(blind, ODD, contents(branch)[LOCAL], RULES[branch.arch])
    assert agreement(ids, expected(branch, ODD)) < AGREEMENT


# --- Manifests --------------------------------------------------------------------------------------------------------


def factors(manifest: Manifest) -> dict[str, float | str]:
    return {context.name: context.factor for context in manifest.contexts}


def test_the_manifest_says_how_the_release_runs(
    exported: Callable[[Branch], Path], files_of: Callable[[Branch], Files], branch: Branch
) -> None:
    manifest = read_bundle(exported(branch)).manifest
    assert manifest.class_names == branch.classes
    assert (manifest.tile, manifest.plan, manifest.merge) == (508, TilePlan(kind="even", overlap=50), "uniform")
    large = {INRIA.arch: (3.0, None), DEEPGLOBE.arch: ("global", 2448)}[branch.arch]
    assert [(context.factor, context.scene) for context in manifest.contexts] == [
        ({INRIA.arch: 2.0, DEEPGLOBE.arch: 3.0}[branch.arch], None),
        large,
    ]
    assert {(context.size, context.resampling) for context in manifest.contexts} == {(508, "pillow-bilinear")}
    digests = {role: hashlib.sha256(path.read_bytes()).hexdigest() for role, path in files_of(branch).paths.items()}
    assert manifest.provenance.checkpoint_sha256 == digests.pop(LOCAL)
    assert manifest.extensions == {"context_checkpoints": digests}


def test_other_windows_are_recorded_and_cut(files_of: Callable[[Branch], Files], tmp_path: Path) -> None:
    out, sides = tmp_path / "windows.fctl", {"medium": 762, "large": 1270}
    done = fctl_export(files_of(INRIA), out, "--contexts", "medium=762,large=1270", "--graph", "fused")
    assert done.exit_code == 0, done.output
    assert factors(read_bundle(out).manifest) == {"medium": 1.5, "large": 2.5}
    image, rules = image_of(TINY), RULES[INRIA.arch]
    with Segmenter(out, batch=1) as segmenter:
        found = segmenter.segment(image).ids
    reference = mask(seen(image, contents(INRIA), rules, sides), TINY, contents(INRIA)[LOCAL], rules)
    share = agreement(found, reference)
    print(f"windows of 762 and 1270 pixels: {share:.5%} of the pixels have the same class")
    assert share >= AGREEMENT
    assert agreement(found, expected(INRIA, TINY)) < AGREEMENT


# --- Errors -----------------------------------------------------------------------------------------------------------


def refused(files: Files, out: Path, error: type[FctlError], **changes: object) -> str:
    """The one line in which an export is refused. changes: of the options."""
    with pytest.raises(error) as caught:
        export_bundle(files.paths[LOCAL], out, files.options(**changes))
    assert not out.exists()
    message = str(caught.value)
    assert "\n" not in message
    return message


FILES_SWAPPED = {  # what is given in place of which file, and what is said of it
    "context as main": (INRIA, {LOCAL: "medium"}, "B10.epoch.pth: not the main file of release-inria: "),
    "main as medium": (
        INRIA,
        {"medium": LOCAL},
        "all.epoch.pth: not the file of the medium context of release-inria: big_pool3.0.weight (missing); ",
    ),
    "main as large": (
        INRIA,
        {"large": LOCAL},
        "all.epoch.pth: not the file of the large context of release-inria: big_pool3.0.weight (missing); ",
    ),
    "global as main": (DEEPGLOBE, {LOCAL: "large"}, "global.epoch.pth: not the main file of release-deepglobe: "),
    "global as medium": (
        DEEPGLOBE,
        {"medium": "large"},
        "global.epoch.pth: not the file of the medium context of release-deepglobe: big_pool3.0.weight (missing); ",
    ),
    "medium as global": (
        DEEPGLOBE,
        {"large": "medium"},
        "medium.epoch.pth: not the file of the large context of release-deepglobe: ",
    ),
    "main as global": (
        DEEPGLOBE,
        {"large": LOCAL},
        "all.epoch.pth: not the file of the large context of release-deepglobe: ",
    ),
}


@pytest.mark.parametrize(("branch", "swap", "message"), FILES_SWAPPED.values(), ids=list(FILES_SWAPPED))
def test_swapped_files_are_told_apart(
    files_of: Callable[[Branch], Files], tmp_path: Path, branch: Branch, swap: dict[str, str], message: str
) -> None:
    files = files_of(branch)
    paths = files.paths | {role: files.paths[other] for role, other in swap.items()}
    found = refused(replace(files, paths=paths), tmp_path / "out.fctl", CheckpointError)
    assert found.removeprefix(f"{files.paths[LOCAL].parent}/").startswith(message)
    assert found.endswith("; choose the `arch` it was trained as")


@pytest.mark.parametrize(("branch", "other"), [(INRIA, DEEPGLOBE), (DEEPGLOBE, INRIA)], ids=["inria", "deepglobe"])
def test_the_other_branch_is_refused(
    files_of: Callable[[Branch], Files], tmp_path: Path, branch: Branch, other: Branch
) -> None:
    found = refused(files_of(branch), tmp_path / "out.fctl", CheckpointError, arch=other.arch)
    assert f"all.epoch.pth: not the main file of {other.arch}: " in found


def test_a_mistaken_file_is_one_line_and_exit_code_1(files_of: Callable[[Branch], Files], tmp_path: Path) -> None:
    files = files_of(INRIA)
    mistaken = replace(files, paths=files.paths | {"large": files.paths[LOCAL]})
    done = fctl_export(mistaken, tmp_path / "out.fctl")
    assert done.exit_code == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("given", [(), ("medium",), ("large",)], ids=["neither", "no large", "no medium"])
def test_both_files_of_contexts_are_asked_for(
    files_of: Callable[[Branch], Files], tmp_path: Path, branch: Branch, given: tuple[str, ...]
) -> None:
    files = files_of(branch)
    context_files = {name: files.paths[name] for name in given}
    found = refused(files, tmp_path / "out.fctl", InputError, context_files=context_files)
    assert found == f"{branch.arch} keeps every context's encoder in a file of its own: give `medium` and `large`"


def test_other_architectures_have_no_files_of_contexts(files_of: Callable[[Branch], Files], tmp_path: Path) -> None:
    files = files_of(INRIA)
    changes = {"arch": "fcn8s-vgg16", "context_files": {"medium": files.paths["medium"]}}
    found = refused(files, tmp_path / "out.fctl", InputError, **changes)
    assert found == "`medium`: only release-inria and release-deepglobe have files of their own for contexts"


@pytest.mark.parametrize(("branch", "given"), [(INRIA, 3), (DEEPGLOBE, 2)], ids=["too many", "too few"])
def test_the_classes_that_the_file_scores_are_counted(
    files_of: Callable[[Branch], Files], tmp_path: Path, branch: Branch, given: int
) -> None:
    files, names = files_of(branch), tuple("abc"[:given])
    found = refused(files, tmp_path / "out.fctl", InputError, classes=names)
    assert found == f"`classes`: {files.paths[LOCAL]} scores {len(branch.classes)} classes, found {given} names"


def test_the_file_of_a_context_must_exist(files_of: Callable[[Branch], Files], tmp_path: Path) -> None:
    files = files_of(INRIA)
    context_files = files.options().context_files | {"large": tmp_path / "absent.pth"}  # type: ignore[operator]
    found = refused(files, tmp_path / "out.fctl", CheckpointError, context_files=context_files)
    assert found == f"{tmp_path / 'absent.pth'}: expected a checkpoint, found no such file"


def test_a_checkpoint_of_fctl_is_no_file_of_the_release(files_of: Callable[[Branch], Files], tmp_path: Path) -> None:
    files, ours = files_of(INRIA), save_small(tmp_path / "ours.pt", build(small_config()))
    context_files = files.options().context_files | {"large": ours}  # type: ignore[operator]
    found = refused(files, tmp_path / "out.fctl", CheckpointError, context_files=context_files)
    assert found == f"{ours}: expected a file of the public release, found a checkpoint of fctl"


@pytest.mark.parametrize(
    ("windows", "message"),
    [
        ({"medium": 763}, "context 'medium': .* leaves 127.5 .*: the nearest window is 764 pixels"),
        ({"large": 1521}, "context 'large': .* leaves 506.5 .*: the nearest window is 1520 pixels"),
        ({"medium": 400}, "context 'medium': .* leaves -54 .*: the nearest window is 508 pixels"),
        ({"medium": 762, "big": 1524}, "unknown context 'big'; this network has medium, large"),
    ],
    ids=["odd", "odd large", "too small", "unknown"],
)
def test_windows_that_cannot_be_are_refused(
    files_of: Callable[[Branch], Files], tmp_path: Path, windows: dict[str, int], message: str
) -> None:
    found = refused(files_of(INRIA), tmp_path / "out.fctl", InputError, windows=windows)
    assert re.fullmatch(f"`context_sizes`: {message}", found)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_builder_makes_of_every_layer_what_is_listed(
    exported: Callable[[Branch], Path], branch: Branch, precision: Precision, tmp_path: Path
) -> None:
    """As in test_presets.py."""
    pytest.importorskip("tensorrt_rtx")
    bundle = read_bundle(exported(branch))
    if precision == "fp16":
        bundle = builds.halved(bundle, tmp_path)
    builds.assert_listed(bundle, precision, branch.arch)
