from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fctl.runtime.bundle.store import Bundle, read_bundle, sha256, write_manifest
from fctl.runtime.errors import BundleError
from fctl.runtime.tiling.sources import ArraySource
from fctl.runtime.tiling.windows import Window
from tests.runtime import tiny

Document = dict[str, Any]
Change = Callable[[Document], object]
BUNDLES = (
    tiny.TINY,
    tiny.TINY_GLOBAL,
    tiny.TINY_PLAIN,
    tiny.TINY_FUSED,
    tiny.TINY_GLOBAL_FUSED,
    tiny.TINY_FIXED,
    tiny.TINY_SHARES,
    tiny.TINY_WHOLE,
)


def error_of(folder: Path) -> str:
    with pytest.raises(BundleError) as caught:
        read_bundle(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("bundle", BUNDLES)
def test_a_manifest_survives_a_round_trip(tmp_path: Path, bundle: Path) -> None:
    copy = tmp_path / bundle.name
    shutil.copytree(bundle, copy)
    written = read_bundle(bundle).manifest
    write_manifest(copy, written)
    assert read_bundle(copy) == Bundle(copy, written)
    assert (copy / "manifest.json").read_text("utf-8") == (bundle / "manifest.json").read_text("utf-8")


def test_what_was_read_is_what_the_json_says() -> None:
    manifest = read_bundle(tiny.TINY).manifest
    assert manifest.class_names == ("red", "green", "blue")
    assert manifest.classes[1].colour == (30, 200, 30)
    assert (manifest.tile, manifest.plan.kind, manifest.plan.overlap, manifest.merge) == (16, "stride", 4, "cosine")
    assert [(c.name, c.factor, c.size) for c in manifest.contexts] == [("medium", 2.0, 16), ("large", 4.0, 8)]
    assert manifest.graphs[0].inputs[0].shape == ("N", 3, 16, 16)


def test_a_bundle_is_read_from_text_too() -> None:
    assert read_bundle(str(tiny.TINY)) == read_bundle(tiny.TINY)


def test_a_graph_is_found_by_role_and_precision() -> None:
    path, graph = read_bundle(tiny.TINY).graph("encoder_large", "fp32")
    assert path == tiny.TINY / "encoder_large.onnx"
    assert graph.inputs[0].shape == ("N", 3, 8, 8)


def test_a_graph_that_is_not_there_lists_those_that_are() -> None:
    with pytest.raises(BundleError, match=r"no fp32 graph 'decoder'.* encoder_medium fp32, .*segmenter fp32"):
        read_bundle(tiny.TINY).graph("decoder", "fp32")


def test_the_default_bundle_reads_and_is_small() -> None:
    bundle = read_bundle("default")
    assert bundle.manifest.name == "default"
    assert sum(path.stat().st_size for path in bundle.folder.iterdir()) <= 20_000_000


def test_a_missing_folder(tmp_path: Path) -> None:
    message = error_of(tmp_path / "none.fctl")
    assert "expected a bundle folder" in message
    assert "found nothing" in message


def test_a_file_instead_of_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"")
    assert "found a file" in error_of(path)


def test_no_manifest(tmp_path: Path) -> None:
    message = error_of(tmp_path)
    assert "manifest.json" in message
    assert "found no such file" in message


@pytest.mark.parametrize("content", [b"", b"{", b"not json", b"\xff\xfe\x00", b"{'schema': 1}", b"[" * 100_000])
def test_a_manifest_that_is_no_json(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    assert "expected JSON" in error_of(tmp_path)


@pytest.mark.parametrize("content", ["[]", "null", '"1.0"', "1"])
def test_json_that_is_no_object(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    assert "schema: expected 1.x, found None" in error_of(tmp_path)


def put(*keys_and_value: Any) -> Change:
    """Set the value at a path of keys."""
    *keys, last, value = keys_and_value

    def change(document: Document) -> None:
        place: Any = document
        for key in keys:
            place = place[key]
        place[last] = value

    return change


def drop(*keys: Any) -> Change:
    """Remove the value at a path of keys."""

    def change(document: Document) -> None:
        place: Any = document
        for key in keys[:-1]:
            place = place[key]
        del place[keys[-1]]

    return change


def fix_batch(graph: Document, batch: int | str) -> None:
    """In all tensors."""
    for tensor in (*graph["inputs"], *graph["outputs"]):
        tensor["shape"][0] = batch


HASH = "0" * 64
CELLS = {side: {"stride": 4, "offset": 1.5, "count": 4} for side in ("patch", "context")}

WRONG: list[tuple[str, Change, tuple[str, ...]]] = [
    ("major version", put("schema", "2.0"), ("schema", "expected 1.x", "found '2.0'")),
    ("version that only starts with 1", put("schema", "10.0"), ("schema", "expected 1.x", "found '10.0'")),
    ("version of another type", put("schema", 1.0), ("schema", "expected 1.x", "found 1.0")),
    ("no version", drop("schema"), ("schema", "expected 1.x", "found None")),
    ("unknown key", put("colour", 1), ("colour: unknown key", "expected only schema, name")),
    ("unknown nested key", put("input", "channels", 3), ("input.channels: unknown key", "expected only bands")),
    ("unknown listed key", put("classes", 1, "id", 1), ("classes[1].id: unknown key", "expected only name")),
    ("missing key", drop("tile"), ("tile", "expected a value", "found none")),
    ("missing nested key", drop("graphs", 2, "file"), ("graphs[2].file", "expected a value", "found none")),
    ("missing null", drop("input", "scaling"), ("input.scaling", "expected a value", "found none")),
    ("text for a number", put("tile", "16"), ("tile", "expected a whole number", "found '16'")),
    ("fraction for a whole number", put("tile", 16.5), ("tile", "expected a whole number", "found 16.5")),
    ("truth for a number", put("input", "bands", True), ("input.bands", "expected a whole number", "found True")),
    ("number for text", put("name", 3), ("name", "expected text", "found 3")),
    ("null for a value", put("plan", None), ("plan", "expected an object", "found None")),
    ("object for a list", put("classes", {}), ("classes", "expected a list", "found {}")),
    ("list for an object", put("extensions", []), ("extensions", "expected an object", "found []")),
    ("two colours", put("classes", 0, "colour", [1, 2]), ("classes[0].colour", "a list of 3", "found [1, 2]")),
    ("unknown plan", put("plan", "kind", "random"), ("plan.kind", "'even' or 'whole'", "found 'random'")),
    ("unknown merge", put("merge", "max"), ("merge", "'uniform' or 'cosine'", "found 'max'")),
    ("unknown filter", put("contexts", 0, "resampling", "cubic"), ("contexts[0].resampling", "'box'", "found 'cubic'")),
    ("unknown factor", put("contexts", 0, "factor", "all"), ("contexts[0].factor", "expected", "found 'all'")),
    ("unknown precision", put("graphs", 0, "precision", "int4"), ("graphs[0].precision", "'fp32'", "found 'int4'")),
    ("one class", lambda d: d["classes"].__delitem__(slice(1, None)), ("classes", "2 to 255", "found 1")),
    ("twice the same class", put("classes", 2, "name", "red"), ("classes", "distinct names", "found red, green, red")),
    ("colour too high", put("classes", 1, "colour", [0, 256, 0]), ("classes[1].colour", "0 to 255", "(0, 256, 0)")),
    ("colour too low", put("classes", 1, "colour", [0, -1, 0]), ("classes[1].colour", "0 to 255", "(0, -1, 0)")),
    ("no bands", put("input", "bands", 0), ("input.bands", "at least 1", "found 0")),
    ("unknown dtype", put("input", "dtype", "float64"), ("input.dtype", "uint8 or", "found float64")),
    ("no tile", put("tile", 0), ("tile: expected 1 to 65536 pixels", "found 0")),
    ("tile too large to reckon with", put("tile", 65537), ("tile: expected 1 to 65536 pixels", "found 65537")),
    ("overlap of a tile", put("plan", "overlap", 16), ("plan.overlap", "0 to 15", "found 16")),
    ("negative overlap", put("plan", "overlap", -1), ("plan.overlap", "0 to 15", "found -1")),
    ("tile that is not the graphs'", put("tile", 32), ("patch", "32, 32", "16, 16")),
    ("huge tile", put("tile", 10**400), ("expected", "found")),
    ("huge factor", put("contexts", 0, "factor", 10**400), ("contexts[0].factor", "expected", "found")),
    ("factor that is just a number", put("contexts", 0, "factor", 1e308), ("contexts[0].factor", "found 1e+308")),
    ("infinite factor", put("contexts", 0, "factor", float("inf")), ("contexts[0].factor", "whole", "found inf")),
    ("factor that is none", put("contexts", 0, "factor", float("nan")), ("contexts[0].factor", "whole", "found nan")),
    ("logits of another tile", put("graphs", 2, "outputs", 0, "shape", ["N", 3, 8, 8]), ("logits", "16, 16", "8, 8")),
    ("logits of other classes", put("graphs", 2, "outputs", 0, "shape", 1, 4), ("logits", "found ('N', 4, 16, 16)")),
    (
        "neither logits nor probabilities",
        put("graphs", 2, "outputs", 0, "name", "scores"),
        ("outputs of the segmenter", "logits or probabilities", "found scores"),
    ),
    (
        "both logits and probabilities",
        lambda d: d["graphs"][2]["outputs"].append({**d["graphs"][2]["outputs"][0], "name": "probabilities"}),
        ("outputs of the segmenter", "logits or probabilities", "found logits, probabilities"),
    ),
    ("no output", put("graphs", 2, "outputs", []), ("outputs of the segmenter", "logits or probabilities", "found ")),
    (
        "probabilities of another tile",
        put("graphs", 2, "outputs", 0, {"name": "probabilities", "dtype": "float32", "shape": ["N", 3, 8, 8]}),
        ("graphs: probabilities of the segmenter", "16, 16", "found ('N', 3, 8, 8)"),
    ),
    ("context size", put("contexts", 0, "size", 32), ("contexts[0].size", "(3, 16, 16)", "found 32")),
    ("context without encoder", put("contexts", 0, "encoder", "gone"), ("contexts[0].encoder", "found gone")),
    ("encoder without features", put("graphs", 0, "outputs", 0, "name", "x"), ("features", "expected", "found")),
    (
        "features of another shape",
        put("graphs", 0, "outputs", 0, "shape", ["N", 2, 5, 5]),
        ("features", "expected", "5, 5", "4, 4"),
    ),
    ("half a pixel of margin", put("contexts", 0, "factor", 1.0625), ("contexts[0].factor", "whole", "found 1")),
    ("a fraction of a pixel", put("contexts", 0, "factor", 1.51), ("contexts[0].factor", "whole", "found 1.51")),
    ("window inside the patch", put("contexts", 0, "factor", 0.5), ("contexts[0].factor", "expected", "found")),
    ("context that nobody takes", put("contexts", 0, "name", "far"), ("segmenter", "features_far", "features_medium")),
    ("two contexts of one name", lambda d: d["contexts"].append(d["contexts"][0]), ("contexts", "expected", "medium")),
    (
        "window for a graph that takes features",
        put("contexts", 0, "encoder", None),
        ("inputs of the segmenter", "window_medium", "found patch, features_medium"),
    ),
    ("cells of a context that does not move", put("contexts", 0, "cells", CELLS), ("contexts[0].cells", "global")),
    (
        "scene of a context that is not global",
        put("contexts", 0, "scene", 64),
        ("contexts[0].scene", "null: only a global context", "found 64"),
    ),
    ("no scene", drop("contexts", 1, "scene"), ("contexts[1].scene", "expected a value", "found none")),
    ("scene of another type", put("contexts", 1, "scene", 64.5), ("contexts[1].scene", "a whole number", "found 64.5")),
    ("no segmenter", put("graphs", 2, "role", "other"), ("graphs", "'segmenter'", "encoder_large, other")),
    ("no graphs", put("graphs", []), ("graphs", "'segmenter'", "found none")),
    ("mixed batches", put("graphs", 2, "inputs", 0, "shape", 0, 4), ("graphs[2]: expected one batch", "(4,)", "'N'")),
    (
        "fixed batch with contexts",
        lambda d: fix_batch(d["graphs"][2], 4),
        ("graphs[2]", "N or, without encoders, a number", "found {(4,)}"),
    ),
    (
        "another name of the batch",
        lambda d: fix_batch(d["graphs"][2], "M"),
        ("graphs[2]", "one batch in all tensors, N", "found {('M',)}"),
    ),
    ("tensor without axes", put("graphs", 1, "inputs", 0, "shape", []), ("graphs[1]", "one batch in all", "()")),
    ("wrong hash", put("graphs", 1, "sha256", HASH), ("graphs[1].sha256", "expected 000000000000", "found 3")),
    ("file above the folder", put("graphs", 0, "file", "../x.onnx"), ("graphs[0].file", "folder", "found '../x.onnx'")),
    ("absolute file", put("graphs", 0, "file", "/etc/passwd"), ("graphs[0].file", "folder", "found '/etc/passwd'")),
    ("file that is gone", put("graphs", 0, "file", "gone.onnx"), ("graphs[0].file", "'gone.onnx'", "found no such")),
    ("file without a name", put("graphs", 0, "file", ""), ("graphs[0].file", "expected ''", "found no such file")),
    ("file with a null byte", put("graphs", 0, "file", "a\0.onnx"), ("graphs[0].file", "expected", "found")),
]  # fmt: skip


@pytest.mark.parametrize(("change", "told"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_an_error_names_the_field_what_was_expected_and_what_was_found(
    tmp_path: Path, change: Change, told: tuple[str, ...]
) -> None:
    message = error_of(tiny.variant(tiny.TINY, tmp_path, change))
    assert [part for part in told if part not in message] == []


PATCH = {"name": "patch", "dtype": "uint8", "shape": ["N", 3, 16, 16]}

WRONG_ELSEWHERE: list[tuple[str, Path, Change, tuple[str, ...]]] = [
    (
        "tiles that overlap though all show the same",
        tiny.TINY_WHOLE,
        put("plan", "overlap", 2),
        ("plan.overlap: expected 0 with a plan of kind 'whole', found 2",),
    ),
    (
        "a patch that nobody cuts",
        tiny.TINY_WHOLE,
        lambda d: d["graphs"][1]["inputs"].append(PATCH),
        ("inputs of the segmenter: expected features_whole, positions_whole, found", "patch"),
    ),
    (
        "no patch though tiles are cut",
        tiny.TINY_WHOLE,
        put("plan", "kind", "stride"),
        ("inputs of the segmenter: expected patch, features_whole, positions_whole, found features_whole",),
    ),
    (
        "whole image that is not shown",
        tiny.TINY_WHOLE,
        put("contexts", []),
        ("contexts: expected a global context, which a plan of kind 'whole' shows, found none",),
    ),
    (
        "window around a patch that is not seen",
        tiny.TINY_WHOLE,
        put("contexts", 0, "factor", 2.0),
        ("contexts[0]: expected a global context with cells, for a plan of kind 'whole', found factor 2",),
    ),
    (
        "whole image without a place in it",
        tiny.TINY_WHOLE,
        put("contexts", 0, "cells", None),
        ("contexts[0]: expected a global context with cells, for a plan of kind 'whole', found none",),
    ),
    (
        "scene of a tile",
        tiny.TINY_GLOBAL,
        put("contexts", 0, "scene", 16),
        ("contexts[0].scene: expected more than 16 pixels, or null, found 16",),
    ),
    (
        "positions without cells",
        tiny.TINY_GLOBAL,
        put("contexts", 0, "cells", None),
        ("inputs of the segmenter: expected patch, features_global, found", "positions_global"),
    ),
    (
        "cells for a graph without positions",
        tiny.TINY_GLOBAL,
        lambda d: d["graphs"][1]["inputs"].pop(),
        ("inputs of the segmenter: expected patch, features_global, positions_global, found patch, features_global",),
    ),
    (
        "features for a graph that takes the window",
        tiny.TINY_FUSED,
        put("contexts", 0, "encoder", "segmenter"),
        ("contexts[0].size: expected None of the graph",),
    ),
    (
        "encoder that is not there",
        tiny.TINY_FUSED,
        put("contexts", 0, "encoder", "encoder_medium"),
        ("contexts[0].encoder: expected the role of a graph, or null, found encoder_medium",),
    ),
    (
        "no window",
        tiny.TINY_FUSED,
        put("graphs", 0, "inputs", 1, "name", "features_medium"),
        ("inputs of the segmenter: expected patch, window_medium, window_large, found patch, features_medium",),
    ),
    (
        "window of another size",
        tiny.TINY_FUSED,
        put("contexts", 0, "size", 32),
        ("graphs: window_medium: expected ('N', 3, 32, 32) as it is cut, found ('N', 3, 16, 16)",),
    ),
    (
        "window of other bands",
        tiny.TINY_GLOBAL_FUSED,
        put("graphs", 0, "inputs", 1, "shape", 1, 4),
        ("graphs: window_global", "('N', 3, 8, 8)", "found ('N', 4, 8, 8)"),
    ),
    (
        "fixed patch, any logits",
        tiny.TINY_FIXED,
        put("graphs", 0, "outputs", 0, "shape", 0, "N"),
        ("graphs[0]: expected one batch in all tensors", "(3,)", "('N',)"),
    ),
    (
        "two fixed batches",
        tiny.TINY_FIXED,
        put("graphs", 0, "outputs", 0, "shape", 0, 4),
        ("graphs[0]: expected one batch in all tensors", "(3,)", "(4,)"),
    ),
    ("batch of nothing", tiny.TINY_FIXED, lambda d: fix_batch(d["graphs"][0], 0), ("a number from 1, found {(0,)}",)),
    ("negative batch", tiny.TINY_FIXED, lambda d: fix_batch(d["graphs"][0], -1), ("a number from 1, found {(-1,)}",)),
    (
        "fixed batch with positions in a shared context",
        tiny.TINY_GLOBAL_FUSED,
        lambda d: fix_batch(d["graphs"][0], 3),
        ("graphs: positions_global: expected ('N', 2, 4), found (3, 2, 4)",),
    ),
]


@pytest.mark.parametrize(
    ("bundle", "change", "told"), [case[1:] for case in WRONG_ELSEWHERE], ids=[case[0] for case in WRONG_ELSEWHERE]
)
def test_an_error_of_another_form_says_so_too(
    tmp_path: Path, bundle: Path, change: Change, told: tuple[str, ...]
) -> None:
    message = error_of(tiny.variant(bundle, tmp_path, change))
    assert [part for part in told if part not in message] == []


def test_a_global_context_may_do_without_cells_and_with_a_scene(tmp_path: Path) -> None:
    def change(document: Document) -> None:
        document["contexts"][1] |= {"factor": "global", "scene": 17}

    context = read_bundle(tiny.variant(tiny.TINY, tmp_path, change)).manifest.contexts[1]
    assert (context.cells, context.window.shared, context.scene) == (None, True, 17)


def test_a_factor_may_be_a_rounded_fraction(tmp_path: Path) -> None:
    manifest = read_bundle(tiny.variant(tiny.TINY, tmp_path, put("contexts", 0, "factor", 1.99999999))).manifest
    source = ArraySource(np.zeros((40, 40, 3), np.uint8))
    assert manifest.contexts[0].window.around(Window(8, 8, 16, 16), source) == Window(0, 0, 32, 32)


def test_inputs_are_named_after_what_they_hold() -> None:
    staged, fused = (read_bundle(bundle).manifest.contexts[0] for bundle in (tiny.TINY_GLOBAL, tiny.TINY_GLOBAL_FUSED))
    assert (staged.input, staged.positions) == ("features_global", "positions_global")
    assert (fused.input, fused.positions) == ("window_global", "positions_global")


@pytest.mark.parametrize(
    ("bundle", "scores", "batch"),
    [
        (tiny.TINY, "logits", None),
        (tiny.TINY_PLAIN, "logits", None),
        (tiny.TINY_FIXED, "logits", 3),
        (tiny.TINY_SHARES, "probabilities", None),
    ],
    ids=str,
)
def test_the_segmenter_says_what_it_gives_and_takes(bundle: Path, scores: str, batch: int | None) -> None:
    manifest = read_bundle(bundle).manifest
    assert (manifest.segmenter.role, manifest.scores, manifest.fixed_batch) == ("segmenter", scores, batch)


@pytest.mark.parametrize("digits", [5000])
def test_a_number_too_long_for_python(tmp_path: Path, digits: int) -> None:
    folder = tiny.variant(tiny.TINY, tmp_path, put("tile", "TILE"))
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace('"TILE"', "9" * digits))
    assert "expected" in error_of(folder)


def test_a_damaged_graph(tmp_path: Path) -> None:
    folder = tiny.variant(tiny.TINY, tmp_path, lambda document: None)
    path = folder / "segmenter.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    message = error_of(folder)
    assert "graphs[2].sha256" in message
    assert "segmenter.onnx" in message


def test_a_later_minor_version_is_read(tmp_path: Path) -> None:
    folder = tiny.variant(tiny.TINY, tmp_path, put("schema", "1.9"))
    assert read_bundle(folder).manifest.schema == "1.9"


def test_what_a_later_minor_version_added_asks_for_a_newer_fctl(tmp_path: Path) -> None:
    folder = tiny.variant(tiny.TINY, tmp_path, lambda document: document.update(schema="1.9", colour=1))
    message = error_of(folder)
    assert "colour: unknown key" in message and "schema 1.9 is newer than this fctl, which knows 1." in message


def test_a_manifest_that_nobody_could_read_again_is_not_written(tmp_path: Path) -> None:
    manifest = read_bundle(tiny.TINY).manifest
    with pytest.raises(BundleError, match="name: expected text on one line"):
        write_manifest(tmp_path, replace(manifest, name="two\nlines"))
    assert list(tmp_path.iterdir()) == []


def test_extensions_take_any_key(tmp_path: Path) -> None:
    extensions = {"vendor": {"deep": [1, None, {"x": "y"}]}, "note": "hello"}
    folder = tiny.variant(tiny.TINY, tmp_path, put("extensions", extensions))
    assert read_bundle(folder).manifest.extensions == extensions


def test_network_takes_any_key(tmp_path: Path) -> None:
    folder = tiny.variant(tiny.TINY, tmp_path, put("network", {"backbone": "mine", "depth": [1, 2]}))
    assert read_bundle(folder).manifest.network == {"backbone": "mine", "depth": [1, 2]}


def test_writing_a_manifest_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    manifest = read_bundle(tiny.TINY).manifest
    with pytest.raises(BundleError, match="graphs: patch"):
        write_manifest(tmp_path, replace(manifest, tile=32))
    assert list(tmp_path.iterdir()) == []


def test_sha256_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON document below its root."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, item in items for place in ((*path, key), *paths_of(item, (*path, key)))]


DOCUMENTS = {
    bundle: json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    for bundle in (tiny.TINY_GLOBAL, tiny.TINY_FUSED, tiny.TINY_FIXED)
}
PLACES = [(bundle, place) for bundle, document in DOCUMENTS.items() for place in paths_of(document)]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["N", "global", -1, 0, 1e308, 1 << 64])
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Path]:
    folder = tmp_path_factory.mktemp("fuzz")
    return {bundle: tiny.variant(bundle, folder, lambda document: None) for bundle in DOCUMENTS}


@pytest.mark.once
@settings(deadline=None, max_examples=200)
@given(place=st.sampled_from(PLACES), value=VALUES)
def test_any_other_value_anywhere_is_read_or_is_a_bundle_error(
    scratch: dict[Path, Path], place: tuple[Path, tuple[Any, ...]], value: Any
) -> None:
    bundle, keys = place
    document = json.loads(json.dumps(DOCUMENTS[bundle]))
    put(*keys, value)(document)
    (scratch[bundle] / "manifest.json").write_text(json.dumps(document), encoding="utf-8")
    try:
        found = read_bundle(scratch[bundle])
    except BundleError as error:
        assert "expected" in str(error)
    else:
        assert found.folder == scratch[bundle]
