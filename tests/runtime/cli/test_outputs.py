"""What ``fctl-run`` writes when it is asked for more than a mask."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import rasterio
from PIL import Image

from fctl.runtime.cli.run import run_app
from tests.conftest import InProcess, write_geotiff
from tests.runtime import tiny
from tests.runtime.naive import slope_of

ON_TINY = ("--bundle", tiny.TINY, "--backend", "onnxruntime")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_geotiff(tmp_path / "a.tif", slope_of(40, 50))
    write_geotiff(tmp_path / "b.tif", slope_of(30, 20))
    return tmp_path


def test_every_output_has_its_name_and_its_options(folder: Path, in_process: InProcess) -> None:
    result = in_process(
        run_app, "a.tif", *ON_TINY, "--probabilities", "float32", "--confidence", "--stats", "json", "--preview", "png",
        "--colours", "green=#010203, red=grey", "--co", "COMPRESS=LZW", "--co", "BLOCKSIZE=128",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    names = ["confidence.tif", "mask.qml", "mask.tif", "mask.tif.aux.xml", "preview.png", "prob.tif", "stats.json"]
    assert sorted(path.name for path in folder.glob("a_*")) == [f"a_{name}" for name in names]
    with rasterio.open("a_prob.tif") as dataset:
        assert dataset.dtypes == ("float32",) * 3
    with rasterio.open("a_mask.tif") as dataset:
        assert (dataset.profile["compress"], dataset.block_shapes) == ("lzw", [(128, 128)])
    colours = [entry.get("color") for entry in ET.parse("a_mask.qml").iter("paletteEntry")]
    assert colours == ["#808080", "#010203", "#1e1ec8"]
    with Image.open("a_preview.png") as picture:
        assert picture.format == "PNG"


def test_what_was_made_with_other_options_is_not_passed_over(folder: Path, in_process: InProcess) -> None:
    def run(*arguments: str) -> str:
        result = in_process(run_app, "a.tif", *ON_TINY, "--no-preview", "--skip-existing", "--overwrite", *arguments)
        assert result.returncode in (0, 4), result.stderr
        return "wrote" if "wrote" in result.stdout else "kept"

    blue = ("--colours", "green=blue")
    assert [run(), run(), run(*blue), run(*blue), run()] == ["wrote", "kept", "wrote", "kept", "wrote"]
    (folder / "a_mask.qml").unlink()
    assert run() == "wrote"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("a.tif", "--stats", "txt"), "--stats: expected csv or json, or a name with such an ending, found 'txt'"),
        (("a.tif", "b.tif", "--stats", "s.csv"), "--stats: expected csv or json for 2 images, found one name, s.csv"),
        (("a.tif", "--colours", "green"), "--colours: expected NAME=VALUE, found 'green'"),
        (("a.tif", "--colours", "green=grene"), "--colours: expected a colour such as #2060c0 or grey, found 'grene'"),
        (("a.tif", "--co", "COMPRESS"), "--co: expected NAME=VALUE, found 'COMPRESS'"),
        (("a.tif", "--co", "COMPRESS=BAR"), "creation options of the mask"),
        (("a.tif", "--colours", "wood=green"), "--colours: expected red or green or blue, found 'wood'"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    folder: Path, in_process: InProcess, arguments: tuple[str, ...], told: str
) -> None:
    result = in_process(run_app, *arguments, *ON_TINY)
    assert result.returncode != 0
    assert told in " ".join(result.stderr.replace("│", " ").split())
    assert sorted(path.name for path in folder.iterdir()) == ["a.tif", "b.tif"]
