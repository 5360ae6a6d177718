from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("runtime", "calib", "model", "export")
FETCHED = "runtime/view/static/vendor"  # which git ignores, and a build fetches unless it is there


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of the files in the wheel that is built from what git tracks or would track."""
    pytest.importorskip("build.__main__")  # the folder build/ beside the sources is no package
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs the repository")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in tracked():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    if (ROOT / FETCHED).is_dir():
        shutil.copytree(ROOT / FETCHED, source / FETCHED)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    result = subprocess.run(command, cwd=out, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    (path,) = out.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


def tracked() -> list[str]:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listing.split("\0") if name]


def packaged(*patterns: str) -> set[str]:
    """Files of the tree that match, by their names in the wheel."""
    found = {f"fctl/{path.relative_to(ROOT).as_posix()}" for p in patterns for path in ROOT.glob(p) if path.is_file()}
    assert found
    return {name for name in found if "__pycache__" not in name}


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_wheel_holds_every_module(wheel: set[str], folder: str) -> None:
    assert packaged(f"{folder}/**/*.py") - wheel == set()


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_wheel_is_typed(wheel: set[str], folder: str) -> None:
    assert f"fctl/{folder}/py.typed" in wheel


@pytest.mark.parametrize("pattern", ["runtime/bundle/default.fctl/*", "calib/images/*", "runtime/view/static/*"])
def test_the_wheel_holds_the_data(wheel: set[str], pattern: str) -> None:
    assert packaged(pattern) - wheel == set()


def test_the_wheel_holds_the_map_that_its_page_needs(wheel: set[str]) -> None:
    wanted = {f"fctl/{FETCHED}/{name}" for name in ("maplibre-gl.js", "maplibre-gl.css", "LICENSE.txt")}
    assert wanted - wheel == set()


def test_the_wheel_holds_the_licence(wheel: set[str]) -> None:
    assert [name for name in wheel if name.endswith(".dist-info/licenses/LICENSE")] != []


def test_the_wheel_holds_the_commands(wheel: set[str]) -> None:
    assert [name for name in wheel if name.endswith(".dist-info/entry_points.txt")] != []


def test_the_wheel_holds_nothing_else(wheel: set[str]) -> None:
    tops = {name.split("/")[0] for name in wheel}
    assert "fctl" in tops
    assert [top for top in tops if top != "fctl" and not top.endswith(".dist-info")] == []
    assert {name.split("/")[1] for name in wheel if name.startswith("fctl/")} == set(FOLDERS)
    assert [name for name in wheel if "tests" in name.split("/")] == []
