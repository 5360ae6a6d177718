"""Bundles that are broken on purpose: each ends in one line, soon, and without crashing a library.

Whatever could hang or take all memory runs in a process of its own, which is given up after a while.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fctl.runtime.bundle.files import LARGEST_TEXT, WrongFileError, read_json
from fctl.runtime.bundle.store import read_bundle, sha256, write_manifest
from fctl.runtime.bundle.tensors import LARGEST_GRAPH
from fctl.runtime.errors import BundleError
from fctl.runtime.segment.selfcheck import CHECK_FILE, read_check, write_check
from tests.runtime import tiny

Document = dict[str, Any]

READ = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
from fctl.runtime import Segmenter
from fctl.runtime.errors import FctlError
for folder in sys.argv[1:]:
    try:
        Segmenter(folder, backend="onnxruntime").close()
    except FctlError as error:
        print(error)
"""


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return tiny.variant(tiny.TINY, tmp_path, lambda document: None)


def lines_of(*folders: Path) -> list[str]:
    """What reading each of some bundles ends with, in a process that may neither hang nor eat all memory."""
    done = subprocess.run(
        [sys.executable, "-c", READ, *map(str, folders)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", len(folders))
    return done.stdout.splitlines()


def line_of(folder: Path) -> str:
    [line] = lines_of(folder)
    return line


def changed(folder: Path, change: Callable[[Document], object]) -> str:
    """The error of a bundle whose manifest is changed."""
    path = folder / "manifest.json"
    document = json.loads(path.read_text("utf-8"))
    change(document)
    path.write_text(json.dumps(document), "utf-8")
    return error_of(folder)


def error_of(folder: Path) -> str:
    with pytest.raises(BundleError) as caught:
        read_bundle(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def replaced(path: Path, kind: str) -> None:
    """Put something in the place of a file that is no regular file."""
    path.unlink()
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    elif kind == "a folder":
        path.mkdir()
    elif kind == "Too many levels of symbolic links":
        path.symlink_to(path.name)
    else:
        path.symlink_to("gone")


KINDS = ("a pipe", "a device", "a folder", "Too many levels of symbolic links", "no such file")


@pytest.mark.parametrize("name", ["manifest.json", "segmenter.onnx"])
def test_only_regular_files_are_read(tmp_path: Path, name: str) -> None:
    bundles = [tiny.variant(tiny.TINY, tmp_path / kind, lambda document: None) for kind in KINDS]
    for bundle, kind in zip(bundles, KINDS, strict=True):
        replaced(bundle / name, kind)
    for bundle, kind, line in zip(bundles, KINDS, lines_of(*bundles), strict=True):
        manifest = f"{bundle / name}: expected the manifest of a bundle"
        expected = manifest if name == "manifest.json" else "'segmenter.onnx'"
        assert expected in line and f", found {kind}" in line


@pytest.mark.parametrize("name", ["manifest.json", "segmenter.onnx", CHECK_FILE])
def test_a_link_may_lead_to_another_file_of_the_bundle_and_not_out_of_it(
    bundle: Path, tmp_path: Path, name: str
) -> None:
    """Though what it leads to has the right hash: it could be any file of the machine."""
    square = np.zeros((16, 16, 3), np.uint8)
    check = write_check(bundle, square, np.ones((3, 16, 16), np.float32))
    write_manifest(bundle, replace(read_bundle(bundle).manifest, schema="1.1", check=check))

    def read() -> None:
        found = read_bundle(bundle)
        assert np.array_equal(read_check(found, check).square, square)

    (bundle / name).rename(bundle / "kept")
    (bundle / name).symlink_to("kept")
    read()
    (bundle / "kept").rename(tmp_path / "kept")
    (bundle / name).unlink()
    (bundle / name).symlink_to(tmp_path / "kept")
    with pytest.raises(BundleError, match=re.escape(f"found a link out of the folder, to {tmp_path / 'kept'}")):
        read()


def test_a_folder_of_the_bundle_may_not_lead_out_of_it(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (bundle / "segmenter.onnx").rename(tmp_path / "elsewhere" / "segmenter.onnx")
    (bundle / "graphs").symlink_to(tmp_path / "elsewhere")
    assert "a link out of the folder" in changed(bundle, put("graphs", 2, "file", "graphs/segmenter.onnx"))


def test_the_bundle_itself_may_be_a_link(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "city.fctl").symlink_to(bundle)
    assert read_bundle(tmp_path / "city.fctl").manifest == read_bundle(bundle).manifest


@pytest.mark.once
@pytest.mark.parametrize("size", [LARGEST_GRAPH + 1, 20 << 30])
def test_a_sparse_graph_is_not_hashed(bundle: Path, size: int) -> None:
    os.truncate(bundle / "segmenter.onnx", size)
    line = line_of(bundle)
    assert f"graphs[2].bytes: expected at most {LARGEST_GRAPH} bytes, found {size} of segmenter.onnx" in line
    document = json.loads((bundle / "manifest.json").read_text("utf-8"))
    document["graphs"][2]["bytes"] = size
    (bundle / "manifest.json").write_text(json.dumps(document), "utf-8")
    assert f"graphs[2].bytes: expected at most {LARGEST_GRAPH} bytes, found {size}" in line_of(bundle)


def test_graphs_are_bounded_together(bundle: Path) -> None:
    for number in range(5):
        os.truncate(bundle / "segmenter.onnx", LARGEST_GRAPH)
        (bundle / f"{number}.onnx").symlink_to("segmenter.onnx")

    def change(document: Document) -> None:
        for number in range(5):
            document["graphs"].append({**document["graphs"][0], "role": f"role{number}", "file": f"{number}.onnx"})

    assert "expected graphs of at most 8589934592 bytes, found 12884" in changed(bundle, change)


def test_a_size_that_is_not_the_stated_one(bundle: Path) -> None:
    size = (bundle / "segmenter.onnx").stat().st_size

    def change(document: Document) -> None:
        document["graphs"][2]["bytes"] = size
        document["schema"] = "1.1"

    path = bundle / "manifest.json"
    document = json.loads(path.read_text("utf-8"))
    change(document)
    path.write_text(json.dumps(document), "utf-8")
    assert read_bundle(bundle).manifest.graphs[2].bytes == size
    with (bundle / "segmenter.onnx").open("ab") as file:
        file.write(b"!")
    line = error_of(bundle)
    assert f"graphs[2].bytes: expected {size} bytes, found {size + 1} of segmenter.onnx; the file was changed" in line


def test_a_size_is_written_and_need_not_be(bundle: Path) -> None:
    manifest = read_bundle(bundle).manifest
    assert (manifest.schema, manifest.graphs[0].bytes) == ("1.0", None)
    write_manifest(bundle, manifest)
    assert "bytes" not in json.loads((bundle / "manifest.json").read_text("utf-8"))["graphs"][0]


def test_a_manifest_of_any_size_is_not_read(bundle: Path) -> None:
    os.truncate(bundle / "manifest.json", 20 << 30)
    assert f"found a file of more than {LARGEST_TEXT} bytes" in line_of(bundle)


@pytest.mark.skipif(not Path("/proc/self/pagemap").exists(), reason="needs Linux's /proc")
def test_a_file_that_is_larger_than_it_says(bundle: Path) -> None:
    (bundle / "manifest.json").unlink()
    (bundle / "manifest.json").symlink_to("/proc/self/pagemap")
    assert "found a link out of the folder, to /proc/" in line_of(bundle)
    with pytest.raises(WrongFileError, match=f"a file of more than {LARGEST_TEXT} bytes"):
        read_json(bundle / "manifest.json")


CONTENTS = {
    "a key twice": (b'{"schema": "1.0", "schema": "2.0"}', "expected JSON, found the key 'schema' twice"),
    "half a pair of surrogates": (b'{"schema": "1.0", "network": {"a": "\\ud800"}}', "surrogates not allowed"),
    "Latin-1": ('{"schema": "1.0", "name": "M\xfcnchen"}'.encode("latin-1"), "expected JSON, found 'utf-8' codec"),
    "UTF-16": ('{"schema": "1.0"}'.encode("utf-16"), "expected JSON, found 'utf-8' codec"),
    "a mark before it": (b'\xef\xbb\xbf{"schema": "1.0"}', "expected JSON, found Unexpected UTF-8 BOM"),
    "deep lists": (b'{"schema":' + b"[" * 1_000_000, "expected JSON, found maximum recursion depth"),
    "a long version": (json.dumps({"schema": "2" * 100_000}).encode(), "expected 1.x, found '2222"),
    "a long key": (json.dumps({"schema": "1.0", "a\n" * 9: 1}).encode(), "unknown key; expected only schema"),
}


@pytest.mark.parametrize(("content", "found"), CONTENTS.values(), ids=CONTENTS)
def test_a_manifest_with_tricks(bundle: Path, content: bytes, found: str) -> None:
    (bundle / "manifest.json").write_bytes(content)
    line = error_of(bundle)
    assert found in line and len(line) < 1000


def put(*keys_and_value: Any) -> Callable[[Document], object]:
    *keys, last, value = keys_and_value

    def change(document: Document) -> None:
        place: Any = document
        for key in keys:
            place = place[key]
        place[last] = value

    return change


LONG = "n" * 5000 + ".onnx"
TRICKS = {
    "a class on two lines": (put("classes", 0, "name", "red\nblue"), "classes[0].name: expected text on one line"),
    "a terminal's escapes": (put("name", "\x1b[2J"), "name: expected text on one line, found control characters"),
    "a tool on two lines": (put("provenance", "tools", "a\nb", "1"), "expected text on one line"),
    "a name that is too long": (put("graphs", 0, "file", LONG), "File name too long"),
    "another format": (put("graphs", 0, "file", "manifest.json"), "a name that ends with .onnx, found 'manifest.json'"),
    "a folder": (put("graphs", 0, "file", "."), "graphs[0].file: expected '.', found a folder"),
    "a role that is a path": (put("graphs", 0, "role", "../x"), "graphs[0].role: expected a name of letters"),
    "a role that is a pattern": (put("graphs", 0, "role", "*"), "graphs[0].role: expected a name of letters"),
    "no resolution": (put("input", "ground_sample_distance", 0.0), "expected metres above 0, or null, found 0.0"),
    "no number": (put("input", "ground_sample_distance", float("nan")), "expected metres above 0, or null, found nan"),
    "no temperature": (put("temperature", 0.0), "temperature: expected 0.01 to 100, found 0.0"),
    "a temperature that is no number": (put("temperature", float("inf")), "temperature: expected 0.01 to 100"),
    "features beyond memory": (
        put("graphs", 0, "outputs", 0, "shape", ["N", 2, 1 << 40, 1 << 40]), "axes of 1 to 65536 after the batch",
    ),
    "an axis without a length": (put("graphs", 0, "outputs", 0, "shape", ["N", 2, "H", 4]), "axes of 1 to 65536"),
    "no channels": (put("graphs", 0, "outputs", 0, "shape", ["N", 0, 4, 4]), "axes of 1 to 65536"),
    "a window beyond memory": (put("contexts", 0, "factor", 1e6), "a window of at most 65536 pixels"),
    "a window without an end": (put("contexts", 0, "factor", 1e9), "a window of at most 65536 pixels, found 1000000"),
    "a window of nothing": (put("contexts", 0, "factor", float("inf")), "a factor that leaves whole pixels"),
    "a tile beyond memory": (put("tile", 1 << 40), "tile: expected 1 to 65536 pixels, found 1099511627776"),
    "bands beyond memory": (put("input", "bands", 1 << 40), "contexts[0].size: expected (3, 16, 16) of the graph"),
    "classes without end": (lambda d: d["classes"].extend({**d["classes"][0], "name": str(n)} for n in range(300)),
        "classes: expected 2 to 255 classes, found 303"),
    "features that fill memory": (
        put("graphs", 0, "outputs", 0, "shape", ["N", 65536, 65536, 4]), "at most 1073741824 elements for each patch",
    ),
    "two inputs of one name": (
        lambda document: document["graphs"][2]["inputs"].append(document["graphs"][2]["inputs"][0]),
        "graphs[2]: expected distinct names of inputs and outputs",
    ),
    "too many graphs": (
        lambda document: document["graphs"].extend({**document["graphs"][0], "role": f"r{n}"} for n in range(99)),
        "graphs: expected at most 65 in fp32",
    ),
    "too many contexts": (
        lambda document: document["contexts"].extend({**document["contexts"][0], "name": f"c{n}"} for n in range(99)),
        "contexts: expected at most 64, found 101",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "found"), TRICKS.values(), ids=TRICKS)
def test_values_with_tricks(bundle: Path, change: Callable[[Document], object], found: str) -> None:
    assert found in changed(bundle, change)


def test_a_scene_beyond_any_raster(tmp_path: Path) -> None:
    bundle = tiny.variant(tiny.TINY_GLOBAL, tmp_path, lambda document: None)
    assert "contexts[0].scene: expected at most 1048576" in changed(bundle, put("contexts", 0, "scene", 10**9))


def test_a_batch_beyond_memory(tmp_path: Path) -> None:
    def change(document: Document) -> None:
        for tensor in document["graphs"][0]["inputs"] + document["graphs"][0]["outputs"]:
            tensor["shape"][0] = 10**9

    bundle = tiny.variant(tiny.TINY_FIXED, tmp_path, lambda document: None)
    assert "expected a batch of at most 1024, found {(1000000000,)}" in changed(bundle, change)


CELLS = ("contexts", 0, "cells")


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ((*CELLS, "patch", "count", 1 << 40), "contexts[0].cells: expected values of 1 to 65536"),
        ((*CELLS, "patch", "count", 9), "graphs: positions_global: expected ('N', 2, 9), found ('N', 2, 4)"),
        ((*CELLS, "context", "stride", 0), "contexts[0].cells: expected values of 1 to 65536"),
        ((*CELLS, "context", "offset", float("nan")), "contexts[0].cells: expected values of 1 to 65536"),
    ],
)
def test_cells_with_tricks(tmp_path: Path, keys: tuple[Any, ...], found: str) -> None:
    assert found in changed(tiny.variant(tiny.TINY_GLOBAL, tmp_path, lambda document: None), put(*keys))


NO_GRAPHS = {
    "nothing": (b"", "an empty file"),
    "text": (b"hello", "no protobuf"),
    "OpenVINO's format": (b'<?xml version="1.0"?><net name="x" version="11"></net>', "no protobuf"),
    "zeros": (bytes(100), "no protobuf"),
    "a field that ends later": (b"\x3a\x7f\x00", "no protobuf"),
    "a number without an end": (b"\x08" + b"\xff" * 20, "no protobuf"),
}


@pytest.mark.parametrize(("content", "found"), NO_GRAPHS.values(), ids=NO_GRAPHS)
def test_a_file_that_is_no_graph(bundle: Path, content: bytes, found: str) -> None:
    """Though the manifest has its hash."""
    (bundle / "segmenter.onnx").write_bytes(content)
    line = changed(bundle, put("graphs", 2, "sha256", sha256(bundle / "segmenter.onnx")))
    assert "graphs[2].file: expected an ONNX graph, found " in line and found in line


def test_a_graph_of_more_fields_than_any_network(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fctl.runtime.bundle.protobuf._MOST_FIELDS", 10)
    assert "found more than 10 fields" in error_of(bundle)


def test_graphs_that_nobody_may_read(bundle: Path) -> None:
    (bundle / "segmenter.onnx").chmod(0)
    if os.access(bundle / "segmenter.onnx", os.R_OK):
        pytest.skip("this user may read anything")
    assert "Permission denied" in error_of(bundle)
