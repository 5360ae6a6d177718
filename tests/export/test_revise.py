"""Copies of bundles that say something else of themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("onnx")
pytest.importorskip("torch")

from fctl.export.cli.command import app
from fctl.runtime.bundle.manifest import SCHEMA
from fctl.runtime.bundle.store import read_bundle
from tests.conftest import InProcess
from tests.model.helpers import MEDIUM, lively, save_small, small_config
from tests.runtime import tiny


def test_a_bundle_keeps_colours_and_a_temperature(tmp_path: Path, in_process: InProcess) -> None:
    before = read_bundle(tiny.TINY).manifest
    first, second = before.class_names[:2]
    done = in_process(
        app, tiny.TINY, "--colours", f"{first}=#2060c0,{second} = grey", "--temperature", 0.7, "-o", tmp_path / "b.fctl"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"wrote {tmp_path / 'b.fctl'}"
    after = read_bundle(tmp_path / "b.fctl").manifest
    assert [info.colour for info in after.classes[:2]] == [(0x20, 0x60, 0xC0), (128, 128, 128)]
    assert after.classes[2:] == before.classes[2:] and after.class_names == before.class_names
    assert (after.name, after.schema, after.temperature) == ("b", SCHEMA, 0.7)
    assert (after.graphs, after.parity, after.provenance) == (before.graphs, before.parity, before.provenance)
    again = in_process(app, tmp_path / "b.fctl", "--colours", f"{second}=red", "-o", tmp_path / "c.fctl")
    assert again.returncode == 0
    assert read_bundle(tmp_path / "c.fctl").manifest.temperature == 0.7  # stays


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--colours", "pink=red"), 1, "--colours: expected red or green or blue, found 'pink'"),
        (("--colours", "red=blurple"), 2, "--colours: expected a colour such as #2060c0 or grey, found 'blurple'"),
        (("--colours", "red"), 2, "--colours: expected NAME=VALUE, found 'red'"),
        (("--temperature", "0"), 1, "--temperature: expected 0.01 to 100, found 0"),
        (("--temperature", "nan"), 1, "--temperature: expected 0.01 to 100, found nan"),
        (("--colours", "red=red", "--fmt", "triton"), 2, "--colours is for bundles"),
        ((), 2, "a bundle holds its fp32 graphs already"),
    ],
)
def test_what_cannot_be_said_is_one_line(
    tmp_path: Path, in_process: InProcess, arguments: tuple[str, ...], code: int, message: str
) -> None:
    names = read_bundle(tiny.TINY).manifest.class_names
    words = [word.replace("red=", f"{names[0]}=") for word in arguments]
    done = in_process(app, tiny.TINY, *words, "-o", tmp_path / "b.fctl")
    assert done.returncode == code
    assert message.replace("red or green or blue", " or ".join(names)) in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_replaced(tmp_path: Path, in_process: InProcess) -> None:
    (tmp_path / "b.fctl").mkdir()
    done = in_process(app, tiny.TINY, "--temperature", 2, "-o", tmp_path / "b.fctl")
    assert done.returncode == 1 and "exists already" in done.stderr
    assert list((tmp_path / "b.fctl").iterdir()) == []


def test_an_export_keeps_colours(tmp_path: Path, in_process: InProcess) -> None:
    checkpoint = save_small(
        tmp_path / "tiny.pt", lively(small_config(stage="s8", contexts=(MEDIUM,), encoders="shared", ale=None))
    )
    options = ("--classes", "land,water,road", "--colours")
    wrong = in_process(app, checkpoint, *options, "sea=blue", "-o", tmp_path / "a.fctl")
    assert wrong.returncode == 1 and "--colours: expected land or water or road, found 'sea'" in wrong.stderr
    assert not (tmp_path / "a.fctl").exists()
    done = in_process(app, checkpoint, *options, "water=blue", "-o", tmp_path / "a.fctl")
    assert done.returncode == 0, done.stderr
    manifest = read_bundle(tmp_path / "a.fctl").manifest
    assert (manifest.name, manifest.classes[1].colour) == ("a", (0, 0, 255))
