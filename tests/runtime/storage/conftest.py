from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

BUCKET = "bucket"


@pytest.fixture(scope="session")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that names the objects which the S3 server does not take, while it exists."""
    return tmp_path_factory.mktemp("gate") / "gate"


@pytest.fixture(scope="session")
def s3_server(gate: Path) -> Iterator[str]:
    """The address of an S3 server."""
    pytest.importorskip("moto", reason="needs moto's server")
    pytest.importorskip("s3fs", reason="needs s3fs")
    script = Path(__file__).with_name("moto_server.py")
    command = [sys.executable, str(script), str(gate)]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.kill()


@pytest.fixture
def s3(s3_server: str, gate: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The URL of a folder in a bucket, which the environment says how to reach; empty at first."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    import s3fs

    files = s3fs.S3FileSystem(endpoint_url=s3_server)
    if not files.exists(BUCKET):
        files.mkdir(BUCKET)
    yield f"s3://{BUCKET}/{tmp_path.name}"
    gate.unlink(missing_ok=True)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """The address of a server of the folder "web", which answers ranges."""
    (tmp_path / "web").mkdir()
    command = [sys.executable, str(Path(__file__).with_name("web_server.py")), str(tmp_path / "web")]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.kill()
