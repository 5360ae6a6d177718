"""Keys of the public release's files, at their real size on a device without memory. SegFormer is in test_golden."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor

from fctl.model.network import FCtL
from fctl.model.presets import narrow, preset
from fctl.model.weights.checkpoints import load_network
from fctl.model.weights.published import load_release, release_classes
from fctl.runtime.errors import CheckpointError
from tests.export.release_files import (
    BRANCHES,
    DEEPGLOBE,
    FULL,
    INRIA,
    LOCAL,
    NARROW,
    Branch,
    State,
    Widths,
    draw,
    layout,
)

EVERY_FILE = [(branch, role) for branch in BRANCHES.values() for role in branch.files]
FILE_NAMES = [f"{branch.arch} {name}" for branch in BRANCHES.values() for name in branch.files.values()]
ROLES = {LOCAL: "the main file", "medium": "the file of the medium context", "large": "the file of the large context"}
QUERY = {INRIA: "big_attention.conv_query_2.weight", DEEPGLOBE: "local.conv_query.weight"}  # of the patch itself


def shapes_only(branch: Branch, *, spare: bool = True) -> dict[str, State]:
    """The contents of the real files by role, or only what is needed of them, as tensors without values."""
    layouts = {role: layout(branch, role, FULL) for role in branch.files}
    return {
        role: {
            f"module.{k}": without_values(*shape)
            for k, shape in ((found.spare if spare else {}) | found.needed).items()
        }
        for role, found in layouts.items()
    }


def without_values(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


def load(branch: Branch, states: dict[str, State], widths: Widths = FULL) -> FCtL:
    config = preset(branch.arch, classes=len(branch.classes)).network
    config = config if widths == FULL else narrow(config, 1 / widths.divisor)
    (_, main), *contexts = ((role, (Path(name), states[role])) for role, name in branch.files.items())
    with torch.device("meta" if widths == FULL else "cpu"):
        return load_release(branch.arch, config, main, dict(contexts))


def refused(branch: Branch, role: str, state: State) -> str:
    """What is said of one file that holds something else, without what is said of any."""
    with pytest.raises(CheckpointError) as caught:
        load(branch, shapes_only(branch) | {role: state})
    head = f"{branch.files[role]}: not {ROLES[role]} of {branch.arch}: "
    tail = "; choose the `arch` it was trained as"
    message = str(caught.value)
    assert message.startswith(head)
    assert message.endswith(tail)
    assert "\n" not in message
    return message.removeprefix(head).removesuffix(tail)


def tens(keys: Iterable[str]) -> list[list[str]]:
    """As many keys at a time as one error names."""
    ordered = list(keys)
    return [ordered[start : start + 10] for start in range(0, len(ordered), 10)]


@pytest.fixture(params=BRANCHES.values(), ids=list(BRANCHES))
def branch(request: pytest.FixtureRequest) -> Branch:
    return request.param  # type: ignore[no-any-return]


@pytest.mark.parametrize("spare", [True, False], ids=["all keys", "needed keys"])
def test_the_real_files_fit_with_and_without_what_is_never_used(branch: Branch, spare: bool) -> None:
    network = load(branch, shapes_only(branch, spare=spare))
    assert not network.training
    needed = sum(len(layout(branch, role, FULL).needed) for role in branch.files)
    assert len(network.state_dict()) == needed
    assert sum(p.numel() for p in network.parameters()) > 150e6


@pytest.mark.parametrize(("branch", "role"), EVERY_FILE, ids=FILE_NAMES)
def test_every_needed_key_is_missed(branch: Branch, role: str) -> None:
    state = shapes_only(branch)[role]
    for keys in tens(layout(branch, role, FULL).needed):
        found = refused(branch, role, {k: v for k, v in state.items() if k.removeprefix("module.") not in keys})
        assert set(found.split("; ")) == {f"{key} (missing)" for key in keys}


@pytest.mark.parametrize(("branch", "role"), EVERY_FILE, ids=FILE_NAMES)
def test_every_needed_key_must_have_its_shape(branch: Branch, role: str) -> None:
    state, needed = shapes_only(branch)[role], layout(branch, role, FULL).needed
    for keys in tens(needed):
        wrong = {key: (*needed[key][:-1], needed[key][-1] + 1) for key in keys}
        found = refused(branch, role, state | {f"module.{key}": without_values(*wrong[key]) for key in keys})
        assert set(found.split("; ")) == {f"{key} {wrong[key]}, expected {needed[key]}" for key in keys}


@pytest.mark.parametrize(("branch", "role"), EVERY_FILE, ids=FILE_NAMES)
def test_an_unknown_key_is_an_error(branch: Branch, role: str) -> None:
    for key in ("epoch", "pool6.0.weight", "vgg.features.0", "vgg.classifier.6.weight.old", "output.9.weight"):
        state = shapes_only(branch)[role] | {f"module.{key}": without_values(1)}
        assert refused(branch, role, state) == f"{key} (unknown)"


@pytest.mark.parametrize(
    ("branch", "role", "key"),
    [
        (INRIA, LOCAL, "big_pool3.0.weight"),
        (INRIA, LOCAL, "local.conv_query.weight"),
        (DEEPGLOBE, LOCAL, "big_attention.conv_query.weight"),
        (DEEPGLOBE, "large", "big_pool3.0.weight"),
        (DEEPGLOBE, "large", "big.conv_query.weight"),
    ],
)
def test_keys_of_other_files_are_unknown(branch: Branch, role: str, key: str) -> None:
    state = shapes_only(branch)[role] | {f"module.{key}": without_values(1)}
    assert refused(branch, role, state) == f"{key} (unknown)"


@pytest.mark.parametrize("count", [10, 11, 14])
def test_ten_keys_are_named_and_the_others_counted(branch: Branch, count: int) -> None:
    extra = {f"module.extra_{i}": without_values(1) for i in range(count)}
    found = refused(branch, "medium", shapes_only(branch)["medium"] | extra)
    more = f" and {count - 10} more" if count > 10 else ""
    assert found == "; ".join(f"extra_{i} (unknown)" for i in range(10)) + more


def test_missing_misshapen_and_unknown_keys_are_told_together(branch: Branch) -> None:
    state = shapes_only(branch)[LOCAL]
    del state["module.pool3.0.bias"]
    state |= {"module.adj_pool4.bias": without_values(9), "module.extra": without_values(1)}
    expected = f"pool3.0.bias (missing); adj_pool4.bias (9,), expected ({len(branch.classes)},); extra (unknown)"
    assert refused(branch, LOCAL, state) == expected


def test_a_scalar_in_place_of_a_layer_is_misshapen(branch: Branch) -> None:
    state = shapes_only(branch)[LOCAL] | {f"module.{QUERY[branch]}": without_values()}
    assert f"{QUERY[branch]} (), expected (512, 512, 1, 1)" in refused(branch, LOCAL, state)


def test_the_channels_of_queries_are_those_of_the_file(branch: Branch) -> None:
    network = load(branch, draw(branch, NARROW), NARROW)
    assert network.config.lcf is not None
    assert network.config.lcf.key_channels == NARROW.keys
    base = narrow(preset(branch.arch, classes=len(branch.classes)).network, 1 / NARROW.divisor)
    assert replace(network.config, lcf=base.lcf) == base


def test_queries_of_different_channels_are_refused(branch: Branch) -> None:
    shape = layout(branch, LOCAL, FULL).needed[QUERY[branch]]
    other = (shape[0] // 2, *shape[1:])
    found = refused(branch, LOCAL, shapes_only(branch)[LOCAL] | {f"module.{QUERY[branch]}": without_values(*other)})
    assert len(re.findall(r"conv_(?:query|key)\S* \(512, .*?\), expected \(256,", found)) >= 5


def test_the_prefix_may_be_absent(branch: Branch) -> None:
    states = draw(branch, NARROW)
    bare = {role: {k.removeprefix("module."): v for k, v in state.items()} for role, state in states.items()}
    found, expected = (load(branch, each, NARROW).state_dict() for each in (bare, states))
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in found.items())
    mixed = states | {LOCAL: states[LOCAL] | {"pool3.0.bias": bare[LOCAL]["pool3.0.bias"]}}
    with pytest.raises(CheckpointError, match=r"all\.epoch\.pth: not the main file"):
        load(branch, mixed, NARROW)


def test_what_was_loaded_is_a_network_of_ours(branch: Branch) -> None:
    network = load(branch, draw(branch, NARROW), NARROW)
    again = load_network(network.config, network.state_dict(), "again.pt").state_dict()
    assert all(torch.equal(value, again[key]) for key, value in network.state_dict().items())


def test_classes_are_counted_where_there_is_a_score(branch: Branch) -> None:
    states = shapes_only(branch)
    assert release_classes(states[LOCAL]) == len(branch.classes)
    without = {key: value for key, value in states[LOCAL].items() if key != "module.output.6.weight"}
    assert release_classes(without) is None
    assert release_classes(without | {"module.output.6.weight": without_values()}) is None
