"""``fctl-view`` as a command: what it refuses, and the page of one file."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

for package in ("rio_tiler", "starlette", "uvicorn", "shapely"):
    pytest.importorskip(package)

from fctl.runtime.cli.view import view_app  # noqa: E402
from fctl.runtime.errors import InputError  # noqa: E402
from fctl.runtime.view.export import export_page  # noqa: E402
from fctl.runtime.view.layers import open_view  # noqa: E402
from tests.conftest import InProcess  # noqa: E402
from tests.runtime.view.conftest import Run  # noqa: E402


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["gone.tif"], 1, "error: gone.tif: expected an image, found no such file"),
        (["MASK", "--zoom", "3"], 2, "--zoom is for --export: leave it out"),
        (["MASK", "--export", "p.html", "--port", "80"], 2, "--port is for a server, not for --export: leave it out"),
        (["MASK", "--export", "p.html", "--other", "MASK"], 1, "error: --export: expected the mask and its image"),
        (["MASK", "--export", "MASK"], 1, "exists already; use --overwrite to replace it"),
        (["MASK", "--export", "p.html", "--zoom", "25"], 1, "error: --zoom: expected at most 19"),
        (["MASK", "--host", "no.such.host.invalid", "--no-open"], 1, "error: cannot listen at no.such.host.invalid"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    run: Run, in_process: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    arguments: list[str], code: int, message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    done = in_process(view_app, *[str(run.mask) if word == "MASK" else word for word in arguments])
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert code == 2 or done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_port_that_is_taken_is_refused_in_one_line(run: Run, in_process: InProcess) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = in_process(view_app, run.mask, "--no-open", "--port", port)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: cannot listen at 127.0.0.1, port {port}: ")
    assert done.stderr.count("\n") == 1


def test_the_address_is_printed_and_ctrl_c_ends_it(run: Run) -> None:
    code = "from fctl.runtime.cli.view import view_app; view_app(prog_name='fctl-view')"
    command = [sys.executable, "-c", code, str(run.mask), "--no-open", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = re.match(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
            assert address is not None
            with urllib.request.urlopen(address[0]) as answer:
                assert b"maplibre-gl.js" in answer.read()
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=60)[1] == ""
            assert process.returncode == 0
        finally:
            process.kill()


def test_a_page_of_one_file_has_all_tiles_and_no_address(run: Run, in_process: InProcess, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    done = in_process(view_app, run.mask, run.image, "--export", path)
    assert (done.returncode, done.stdout.startswith(f"wrote {path}: ")) == (0, True)
    text = path.read_text("utf-8")
    names = set(re.findall(r'"((?:mask|image)/\d+/\d+/\d+)":"[A-Za-z0-9+/=]+"', text))
    assert {name.split("/")[0] for name in names} == {"mask", "image"}
    assert {int(name.split("/")[1]) for name in names} == set(range(19))
    tags = re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=[^>]*>", text)
    assert tags == []


def test_a_zoom_with_too_many_tiles_is_refused(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fctl.runtime.view.export.MOST", 3)
    view = open_view(run.files())
    with pytest.raises(InputError, match="3 tiles a layer, found 18"):
        export_page(view, tmp_path / "page.html", zoom=18)
    assert export_page(view, tmp_path / "page.html") < 18
