"""Commands of the documentation that can run, do run; and what docsite makes of the program."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from rasterio.transform import from_origin
from typer.main import get_command

from docsite import charts, diagram, reference
from docsite.commands import ROOT, Command, UnmarkedError, commands, pages, table
from tests.conftest import InProcess, write_geotiff

APPS = {f"fctl-{entry.name}": entry.load() for entry in entry_points(group=reference.GROUP)}
IMAGES = ("image.tif", "huge.tif", "drone.tif", "scenes/a.tif", "scenes/b.tif", "a.tif", "tiles/a.tif")
BESIDE = ("b.tif", "tiles/b.tif")  # one image east of a.tif, another c.tif east of that
SIDE = 240


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small files of the names that the documentation uses."""
    folder = tmp_path_factory.mktemp("world")
    pixels = np.random.default_rng(0).integers(60, 200, (SIDE, SIDE, 3), np.uint8)
    for names, column in ((IMAGES, 0), (BESIDE, 1), (("c.tif",), 2)):
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True)
            place = from_origin(300000 + column * SIDE / 2, 2780000, 0.5, 0.5)
            write_geotiff(folder / name, pixels, transform=place)
    pytest.importorskip("pyogrio")
    _write_fields(folder / "fields.gpkg")
    return folder


def _write_fields(path: Path) -> None:
    import shapely
    from pyogrio.raw import write

    square = shapely.box(300020, 2779900, 300100, 2779980)
    write(path, np.array([square.wkb], object), [], [], geometry_type="Polygon", crs="EPSG:32640", driver="GPKG")


def _run_here() -> Iterator[tuple[str, list[Command]]]:
    """What the test below runs, by names to show: whole blocks, or lines on their own, each of these once."""
    known = set[str]()
    for page in pages():
        mine = [command for command in commands(page) if command.run and not command.note]
        for block, listed in groupby(mine, lambda command: command.block):
            together = list(listed)
            groups = [[command] for command in together] if together[0].alone else [together]
            for number, group in enumerate(groups):
                if group[0].alone and group[0].line in known:
                    continue
                known.add(group[0].line)
                yield f"{page.name}-{block}-{number}", group


RUN_HERE = dict(_run_here())


@pytest.mark.parametrize("name", RUN_HERE)
def test_commands_of_the_documentation_run(
    name: str, world: Path, tmp_path: Path, in_process: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "here"
    shutil.copytree(world, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setitem(sys.modules, "openvino", None)  # as after `pip install '.[cpu]'`; it takes longer to load
    for command in RUN_HERE[name]:
        program, *arguments = shlex.split(command.line)
        assert program in APPS, f"{command.page}: this test cannot run it: mark it as not run: {command.line}"
        done = in_process(APPS[program], *arguments)
        assert done.returncode == 0, f"{command.line}: {done.stderr}"


def test_the_list_tells_run_from_not_run() -> None:
    listed = table()
    everything = [command for page in pages() for command in commands(page)]
    assert f"shows {len(everything)} commands. Tests run {sum(command.run for command in everything)} of them" in listed
    assert len(re.findall(r"^\| `.*` \| (?:yes|yes, by `.*`|no: .+) \|$", listed, re.MULTILINE)) == len(everything)


@pytest.mark.parametrize(
    "block",
    [
        "```sh\nfctl-run image.tif\n```\n",
        "<!-- not run -->\n```sh\nfctl-run image.tif\n```\n",
        "<!-- run by tests/gone.py -->\n```sh\nfctl-run image.tif\n```\n",
        "<!-- run, but not --tta -->\n```sh\nfctl-run image.tif\n```\n",
        "```\nfctl-run image.tif\n```\n",
        "1. Item:\n\n   ```sh\n   fctl-run image.tif\n   ```\n",
    ],
)
def test_a_command_that_is_neither_is_an_error(block: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Page\n\n{block}")
    with pytest.raises(UnmarkedError, match=r"page\.md"):
        list(commands(page, tmp_path))


def test_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    lines = "```sh\nfctl-run a.tif \\\n  --tta   # twice\n# nothing\nfctl-run s3://a\n```\n"
    page.write_text(f"<!-- run each, but not s3://: needs a store -->\n{lines}\n<!-- run by page.md -->\n{lines}")
    found = [
        (command.block, command.line, command.run, command.alone, command.note) for command in commands(page, tmp_path)
    ]
    assert found == [
        (0, "fctl-run a.tif --tta", True, True, ""),
        (0, "fctl-run s3://a", False, False, "needs a store"),
        (1, "fctl-run a.tif --tta", True, False, "page.md"),
        (1, "fctl-run s3://a", True, False, "page.md"),
    ]


def test_lists_are_indented_as_the_site_reads_them() -> None:
    pytest.importorskip("mkdocs")
    from docsite.hooks import indented

    page = "1. One\n   more\n\n   ```sh\n   run\n     x\n   ```\n- Two\n\n  more\n\n```\n- no\n  item\n```\n"
    wanted = "1. One\n    more\n\n    ```sh\n    run\n      x\n    ```\n- Two\n\n    more\n\n```\n- no\n  item\n```\n"
    assert indented(page) == wanted


def test_the_reference_has_every_option() -> None:
    made = reference.command_pages()
    assert set(made) == set(APPS)
    for program, page in made.items():
        for parameter in get_command(APPS[program]).params:
            assert parameter.param_type_name == "argument" or f"`{', '.join(parameter.opts)}" in page


def test_the_reference_has_every_public_name() -> None:
    import fctl.runtime

    made = reference.python_page()
    assert all(re.search(rf"^::: fctl\.runtime\..*\b{name}$", made, re.MULTILINE) for name in fctl.runtime.__all__)


def test_drawings_are_what_the_scripts_draw() -> None:
    for name, drawing in (("windows", diagram.diagram()), ("contexts", charts.drawn())):
        assert (ROOT / "docs" / f"{name}.svg").read_text(encoding="utf-8") == drawing, f"draw {name}.svg anew"


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    for path in (ROOT / "integrations" / "systemd").iterdir():
        text = path.read_text(encoding="utf-8").replace("/opt/fctl/bin/fctl-run", sys.executable)
        (tmp_path / path.name).write_text(text, encoding="utf-8")
    units = sorted(map(str, tmp_path.iterdir()))
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_command_of_the_unit_works_again_and_again(world: Path, tmp_path: Path) -> None:
    """In a process of its own, for the memory that it is allowed is the whole process's."""
    unit = (ROOT / "integrations" / "systemd" / "fctl.service").read_text(encoding="utf-8")
    (line,) = re.findall(r"^ExecStart=(.*)", unit, re.MULTILINE)
    program, *arguments = shlex.split(line.replace("/srv/fctl", str(tmp_path)))
    command = [str(Path(sys.executable).with_name(Path(program).name)), *arguments]
    (tmp_path / "images").mkdir()
    shutil.copy(world / "image.tif", tmp_path / "images" / "a.tif")
    rounds = [subprocess.run(command, capture_output=True, check=False).returncode for _ in range(2)]
    shutil.copy(world / "image.tif", tmp_path / "images" / "a.tif")  # the image comes anew
    rounds.append(subprocess.run(command, capture_output=True, check=False).returncode)
    assert rounds == [0, 4, 0]
    assert "SuccessExitStatus=4" in unit
