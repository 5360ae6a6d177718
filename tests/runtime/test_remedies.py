"""The commands that errors advise, for every way in which fctl can have been installed."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

from fctl.runtime import remedies

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def install_as(folder: Path, origin: dict[str, object] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put metadata of an fctl in front of those that are installed, with pip's record of where it came from."""
    metadata = folder / "fctl-9.9.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: fctl\nVersion: 9.9\n", encoding="utf-8")
    if origin is not None:
        (metadata / "direct_url.json").write_text(json.dumps(origin), encoding="utf-8")
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (None, "pip install 'fctl[cuda]'"),
        ({"url": "file:///home/me/fctl", "dir_info": {"editable": True}}, "pip install -e '/home/me/fctl[cuda]'"),
        ({"url": "file:///home/me/fctl", "dir_info": {}}, "pip install '/home/me/fctl[cuda]'"),
        (
            {"url": "file:///home/me/fctl-0.1.0-py3-none-any.whl", "archive_info": {}},
            "pip install 'fctl[cuda] @ file:///home/me/fctl-0.1.0-py3-none-any.whl'",
        ),
        (
            {"url": "file:///home/me/my%20code/fctl", "dir_info": {"editable": True}},
            "pip install -e '/home/me/my code/fctl[cuda]'",
        ),
        (
            {"url": "file:///home/me/my%20code/fctl-0.1.0-py3-none-any.whl", "archive_info": {}},
            "pip install 'fctl[cuda] @ file:///home/me/my%20code/fctl-0.1.0-py3-none-any.whl'",
        ),
        (
            {"url": "https://example.org/fctl.git", "vcs_info": {"vcs": "git", "commit_id": COMMIT}},
            f"pip install 'fctl[cuda] @ git+https://example.org/fctl.git@{COMMIT}'",
        ),
    ],
    ids=["index", "editable checkout", "folder", "wheel", "checkout with a space", "wheel with a space", "repository"],
)
def test_the_command_installs_from_where_fctl_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: dict[str, object] | None, command: str
) -> None:
    install_as(tmp_path, origin, monkeypatch)
    assert remedies.install("cuda") == command
    assert shlex.split(remedies.install("cuda"))[-1].count("[cuda]") == 1  # one word for pip, whatever the path


def test_a_quote_in_a_path_does_not_end_the_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_as(tmp_path, {"url": "file:///home/o'neill/fctl", "dir_info": {"editable": True}}, monkeypatch)
    assert shlex.split(remedies.install("gpu,trt")) == ["pip", "install", "-e", "/home/o'neill/fctl[gpu,trt]"]


def test_an_fctl_that_nobody_installed_is_looked_for_in_the_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    assert remedies.install("cpu") == "pip install 'fctl[cpu]'"


def test_an_export_is_spelt_with_its_options_in_order() -> None:
    assert remedies.export("city.fctl", fmt="trt", compute_capability=86, batch=4) == (
        "fctl-export city.fctl --fmt trt --compute-capability 86 --batch 4"
    )
