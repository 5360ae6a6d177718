"""Networks that others wrote are tried only where `--networks` names a folder with their packages; see the Makefile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .table import Table

HOW = "`make networks` runs these: it installs other people's packages, 6 GB of them"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--networks", type=Path, help="the folder of the environments of tests/networks; see the Makefile")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("networks", default=None) is None:
        for item in items:
            if item.get_closest_marker("networks"):
                item.add_marker(pytest.mark.skip(reason=HOW))


@pytest.fixture(scope="session")
def networks(request: pytest.FixtureRequest) -> Path:
    """The folder of the environments; the table goes there too."""
    folder: Path = request.config.getoption("networks")
    return folder.absolute()


@pytest.fixture(scope="session")
def table(networks: Path) -> Iterator[Table]:
    """What was measured, written when all is done."""
    table = Table()
    yield table
    (networks / "table.md").write_text(table.markdown())
