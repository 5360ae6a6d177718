from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor

from fctl.model.network import FCtL
from fctl.model.weights.checkpoints import differences, load_network, read_checkpoint, save_checkpoint
from fctl.runtime.errors import CheckpointError
from tests.model.helpers import WHOLE, build, inputs, lively, save_small, small_ale, small_card, small_config

ABSENT = object()


@pytest.fixture(scope="module")
def network() -> FCtL:
    return lively(small_config(stage="s8"))


@pytest.fixture(scope="module")
def saved(network: FCtL, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small(tmp_path_factory.mktemp("checkpoints") / "small.pt", network)


def test_a_checkpoint_is_read_as_it_was_saved(network: FCtL, saved: Path) -> None:
    read = read_checkpoint(saved)
    assert read.card == small_card(network.config)
    assert set(read.state) == set(network.state_dict())
    assert all(torch.equal(value, read.state[key]) for key, value in network.state_dict().items())


def test_a_card_with_a_global_context_survives(tmp_path: Path) -> None:
    card = replace(small_card(small_config(contexts=(WHOLE,), lcf=None)), ground_sample_distance=None, licence=None)
    save_checkpoint(tmp_path / "card.pt", card, {})
    assert read_checkpoint(tmp_path / "card.pt").card == card


def test_a_loaded_network_computes_the_same(network: FCtL, saved: Path) -> None:
    loaded = load_network(network.config, read_checkpoint(saved).state, str(saved))
    assert not loaded.training
    with torch.inference_mode():
        assert torch.equal(loaded(*inputs(network.config)), network(*inputs(network.config)))


@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_bare_weights_have_no_card(network: FCtL, tmp_path: Path, kind: type[dict[str, Tensor]]) -> None:
    torch.save(kind(network.state_dict()), tmp_path / "bare.pt")
    read = read_checkpoint(tmp_path / "bare.pt")
    assert read.card is None
    assert torch.equal(read.state["encoder.neck.weight"], network.state_dict()["encoder.neck.weight"])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent\.pt: expected a checkpoint, found no such file"):
        read_checkpoint(tmp_path / "absent.pt")


def test_a_folder_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected a checkpoint, found a folder"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 100,
        b"\x89PNG\r\n\x1a\n" + bytes(range(200)),
        b"<!DOCTYPE html><html>not found</html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n",
        b"a checkpoint",
        b"r",
    ],
    ids=["empty", "zeros", "png", "html", "git-lfs", "text", "one letter"],
)
def test_garbage_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "garbage.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"garbage\.pt: expected a PyTorch checkpoint") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.2, 0.6, 0.999])
def test_a_truncated_file_is_refused(saved: Path, tmp_path: Path, share: float) -> None:
    content = saved.read_bytes()
    (tmp_path / "part.pt").write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=r"part\.pt: expected a PyTorch checkpoint"):
        read_checkpoint(tmp_path / "part.pt")


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    torch.save({"path": tmp_path}, tmp_path / "code.pt")  # a class that is not a tensor
    with pytest.raises(CheckpointError, match="expected a PyTorch checkpoint of tensors"):
        read_checkpoint(tmp_path / "code.pt")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"epoch": 3, "lr": 0.1}, "a dictionary with epoch, lr"),
        ({"model": {"weight": torch.zeros(1)}, "optimizer": {}}, "a dictionary with model, optimizer"),
        ({}, "a dictionary"),
        ([torch.zeros(1)], "list"),
        (torch.zeros(1), "Tensor"),
    ],
)
def test_other_contents_are_described(tmp_path: Path, content: object, found: str) -> None:
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=f"expected a checkpoint of fctl or a state_dict, found {found}"):
        read_checkpoint(tmp_path / "other.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"card": None}, "expected an object"),
        ({"card": {}}, "expected a value, found none"),
        ({"card": ABSENT}, "expected an object"),
        ({"state_dict": ABSENT}, "state_dict"),
        ({"state_dict": None}, "state_dict"),
        ({"state_dict": {"weight": 3}}, "state_dict"),
    ],
)
def test_a_damaged_checkpoint_of_ours_is_refused(
    saved: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    content = torch.load(saved, weights_only=True) | change
    torch.save({key: value for key, value in content.items() if value is not ABSENT}, tmp_path / "damaged.pt")
    with pytest.raises(CheckpointError, match=rf"damaged\.pt: .*{message}"):
        read_checkpoint(tmp_path / "damaged.pt")


def test_a_card_that_contradicts_itself_is_refused(saved: Path, tmp_path: Path) -> None:
    content = torch.load(saved, weights_only=True)
    content["card"]["network"]["classes"] = 1
    torch.save(content, tmp_path / "bad.pt")
    with pytest.raises(CheckpointError, match=r"bad\.pt: .*classes must be at least 2, found 1"):
        read_checkpoint(tmp_path / "bad.pt")


def test_weights_of_another_network_are_named_ten_at_most() -> None:
    wanted, other = small_config(stage="s8"), build(small_config(stage="s8", ale=None, encoders="shared"))
    missing = len(build(wanted).state_dict().keys() - other.state_dict().keys())
    with pytest.raises(CheckpointError) as caught:
        load_network(wanted, other.state_dict(), "other.pt")
    message = str(caught.value)
    assert message.startswith("other.pt: the weights do not fit efficientnet_lite0: ")
    assert message.count("(missing)") == 10
    assert f" and {missing - 10} more; choose the `arch`" in message


def test_unknown_and_misshapen_weights_are_named(network: FCtL) -> None:
    state = {**network.state_dict(), "module.extra": torch.zeros(1), "decoder.score.bias": torch.zeros(9)}
    with pytest.raises(CheckpointError) as caught:
        load_network(network.config, state, "other.pt")
    assert "decoder.score.bias (9,), expected (3,); module.extra (unknown); choose" in str(caught.value)


def test_exactly_ten_problems_leave_none_to_count(network: FCtL) -> None:
    state = {**network.state_dict(), **{f"extra{i}": torch.zeros(1) for i in range(10)}}
    with pytest.raises(CheckpointError, match=re.escape("extra9 (unknown); choose the `arch`")):
        load_network(network.config, state, "other.pt")


def test_weights_for_a_network_that_cannot_be_built_are_refused(network: FCtL) -> None:
    with pytest.raises(CheckpointError, match=r"odd\.pt: backbone 'efficientnet_lite0' has no stage 's2'"):
        load_network(small_config(stage="s2"), network.state_dict(), "odd.pt")


def test_differences_names_the_settings() -> None:
    config = small_config()
    assert differences(config, config) == []
    assert differences(config, small_config(stage="s8", ale=small_ale("c"))) == ["stage", "ale"]


class Evil:
    """What runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.path}",)


def nested(depth: int) -> object:
    found: object = torch.zeros(1)
    for _ in range(depth):
        found = {"a": found}
    return found


ODD: dict[str, tuple[object, str]] = {
    "keys of no text": ({1: torch.zeros(1), (2, 3): torch.zeros(1)}, "a dictionary with a key of type int, a key of"),
    "a key that is a tensor": ({torch.zeros(1): torch.zeros(1)}, "a dictionary with a key of type Tensor"),
    "a tensor alone": (torch.zeros(2, 2), "found Tensor"),
    "a state of no tensors": ({"format": torch.zeros(3), "a": [torch.zeros(1)]}, "a dictionary with format, a"),
    "dictionaries in dictionaries": (nested(50), "a dictionary with a"),
    "a card of nothing": ({"format": "fctl-checkpoint-1", "card": torch.zeros(2)}, "expected an object, found tensor("),
    "a long key": ({"k" * 100_000: 1}, "a dictionary with kkkk"),
}


@pytest.mark.parametrize(("content", "found"), ODD.values(), ids=ODD)
def test_odd_contents_are_one_line(tmp_path: Path, content: object, found: str) -> None:
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(tmp_path / "odd.pt")
    line = str(caught.value)
    assert found in line and "\n" not in line and len(line) < 800


def test_nothing_is_run_by_reading(tmp_path: Path) -> None:
    torch.save({"a": Evil(tmp_path / "run")}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match=r"evil.pt: expected a PyTorch checkpoint of tensors"):
        read_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "run").exists()


SPOILT: dict[str, Callable[[Tensor], Tensor]] = {
    "NaN": lambda weight: weight * float("nan"),
    "infinity": lambda weight: weight + float("inf"),
    "sparse": lambda weight: weight.to_sparse(),
    "complex": lambda weight: weight.to(torch.complex64),
    "no values": lambda weight: weight.to("meta"),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_weights_that_are_no_numbers_are_refused(network: FCtL, spoil: Callable[[Tensor], Tensor]) -> None:
    state = dict(network.state_dict())
    state["encoder.neck.weight"] = spoil(state["encoder.neck.weight"])
    found = r"odd.pt: weight encoder.neck.weight (holds values that are not finite|is no plain tensor of numbers);"
    with pytest.raises(CheckpointError, match=found):
        load_network(network.config, state, "odd.pt")


def test_a_shape_beyond_memory_is_refused_before_anything_is_copied(network: FCtL) -> None:
    state = {**network.state_dict(), "encoder.neck.weight": torch.zeros(1).expand(1 << 20, 1 << 20, 1, 1)}
    with pytest.raises(CheckpointError, match=r"encoder.neck.weight \(1048576, 1048576, 1, 1\), expected"):
        load_network(network.config, state, "odd.pt")
