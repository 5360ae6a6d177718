from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from fctl.runtime.bundle.records import OPTIONAL, RecordError, decode, encode


@dataclass(frozen=True, kw_only=True)
class Leaf:
    size: int
    name: str = field(default="leaf", metadata=OPTIONAL)


@dataclass(frozen=True, kw_only=True)
class Tree:
    leaves: tuple[Leaf, ...]
    shares: dict[str, float]
    best: Leaf | None = None


def test_optional_fields_at_their_default_are_left_out_unless_all_are_wanted() -> None:
    tree = Tree(leaves=(Leaf(size=1), Leaf(size=2, name="b")), shares={"a": 0.5})
    assert encode(tree) == {
        "leaves": [{"size": 1}, {"size": 2, "name": "b"}], "shares": {"a": 0.5}, "best": None,
    }  # fmt: skip
    assert encode(tree, complete=True)["leaves"][0] == {"size": 1, "name": "leaf"}
    assert decode(Tree, encode(tree)) == decode(Tree, encode(tree, complete=True)) == tree


def test_one_error_names_all_fields_that_do_not_fit() -> None:
    document = {"leaves": [{"size": "1"}, 2, {"size": 3, "hue": 4}], "shares": {"a": 1, "b": "c"}, "more": 1, "most": 2}
    with pytest.raises(RecordError) as error:
        decode(Tree, document)
    assert error.value.problems == (
        "more, most: unknown keys; expected only leaves, shares, best",
        "best: expected a value, found none",
        "leaves[0].size: expected a whole number, found '1'",
        "leaves[1]: expected an object, found 2",
        "leaves[2].hue: unknown key; expected only size, name",
        "shares.b: expected a number, found 'c'",
    )
    assert str(error.value).startswith("6 fields do not fit: (1) more, most: unknown keys; ")
    assert str(error.value).endswith("; (6) shares.b: expected a number, found 'c'")


def test_of_very_many_the_first_are_named() -> None:
    document = {"leaves": [{}] * 1000, "shares": {}, "best": None} | {f"key {index}": 1 for index in range(1000)}
    with pytest.raises(RecordError) as error:
        decode(Tree, document)
    text = str(error.value)
    assert text.startswith("more than 20 fields do not fit: (1) key 0, key 1, ")
    assert "key 19 and 980 more: unknown keys" in text
    assert text.count("expected a value, found none") == 19 and len(text) < 3000
