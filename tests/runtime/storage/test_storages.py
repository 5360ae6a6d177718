"""What every storage can do, and how what goes wrong is said."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fctl.runtime.errors import InputError, OutputError
from fctl.runtime.storage.base import Storage
from fctl.runtime.storage.places import is_remote_place, storage_of, url_of

PLACES = ("folder", "file", "memory", "s3", "vsis3")


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place that does not exist yet."""
    kind = request.param
    if kind in ("s3", "vsis3"):
        url: str = request.getfixturevalue("s3")
        return url if kind == "s3" else url.replace("s3://", "/vsis3/")
    if kind == "memory":
        pytest.importorskip("fsspec")
        return f"memory://{tmp_path.name}/deep"
    folder = tmp_path / "a folder" / "deep"
    return str(folder) if kind == "folder" else folder.as_uri()


@pytest.fixture
def storage(place: str) -> Storage:
    return storage_of(place)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "made.npz"
    path.write_bytes(b"shard" * 1000)
    return path


def test_a_file_is_put_found_fetched_and_removed(storage: Storage, file: Path, tmp_path: Path) -> None:
    before = time.time()
    assert (storage.names(), storage.size("a.npz"), storage.changed("a.npz")) == ([], None, None)
    storage.put(file, "a.npz")
    storage.write("b.json", b"{}")
    storage.write("empty", b"")
    assert storage.names() == ["a.npz", "b.json", "empty"]
    assert storage.names("b") == ["b.json"]
    assert [storage.size(name) for name in storage.names()] == [5000, 2, 0]
    changed = storage.changed("a.npz")
    assert changed is not None
    assert before - 2 <= changed <= time.time() + 2
    assert storage.read("a.npz") == file.read_bytes()
    storage.get("a.npz", tmp_path / "new" / "fetched.npz")
    assert (tmp_path / "new" / "fetched.npz").read_bytes() == file.read_bytes()
    storage.remove("a.npz")
    storage.remove("a.npz")
    assert storage.names() == ["b.json", "empty"]


def test_a_file_is_replaced(storage: Storage, file: Path) -> None:
    storage.write("a.npz", b"before")
    assert storage.size("a.npz") == 6
    storage.put(file, "a.npz")
    assert storage.names() == ["a.npz"]
    assert storage.read("a.npz") == file.read_bytes()
    storage.write("a.npz", b"after")
    assert storage.read("a.npz") == b"after"


def test_what_is_not_there_is_said_so(storage: Storage, tmp_path: Path) -> None:
    for exists in (False, True):
        with pytest.raises(FileNotFoundError):
            storage.read("a.npz")
        with pytest.raises(FileNotFoundError):
            storage.get("a.npz", tmp_path / "fetched.npz")
        assert storage.local("a.npz") is None
        assert not (tmp_path / "fetched.npz").exists()
        if not exists:
            storage.write("b.npz", b"another")


def test_all_of_a_place_is_cleared_and_nothing_else(place: str, storage: Storage) -> None:
    neighbour, within = storage_of(f"{place}-2"), storage_of(f"{place}/within")
    for each in (storage, neighbour, within):
        each.write("a", b"a")
    assert (storage.names(), within.names()) == (["a"], ["a"])  # files of folders within are theirs
    storage.clear()
    assert (storage.names(), within.names(), neighbour.names()) == ([], [], ["a"])
    storage.clear()
    storage.write("b", b"b")
    assert storage.names() == ["b"]


def test_another_storage_of_the_same_place_sees_a_file_at_once(place: str, storage: Storage) -> None:
    other = storage_of(place)
    assert other.names() == []
    storage.write("a", b"a")
    assert (other.names(), other.size("a"), other.read("a")) == (["a"], 1, b"a")
    other.remove("a")
    assert (storage.names(), storage.size("a")) == ([], None)


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "a/b", "/a", "a\\b"])
def test_a_name_stays_in_its_place(storage: Storage, file: Path, name: str) -> None:
    for act in (storage.size, storage.read, storage.remove, storage.local, lambda name: storage.put(file, name)):
        with pytest.raises(InputError, match="expected the name of a file in it"):
            act(name)


def test_many_write_the_same_name_at_once_and_no_part_of_it_is_seen(place: str, file: Path) -> None:
    if place.startswith("memory"):
        pytest.skip("fsspec's memory is that of one thread")
    file.write_bytes(os.urandom(3_000_000))
    storage = storage_of(place)
    with ThreadPoolExecutor(4) as pool:
        writing = [pool.submit(storage_of(place).put, file, f"{number % 2}.npz") for number in range(16)]
        while not all(each.done() for each in writing):
            assert {storage.size(name) for name in storage.names()} <= {3_000_000}
        assert [each.result() for each in writing] == [None] * 16
    assert storage.names() == ["0.npz", "1.npz"]
    assert all(storage.read(name) == file.read_bytes() for name in storage.names())


def test_a_local_file_is_not_copied(tmp_path: Path) -> None:
    storage = storage_of(tmp_path)
    storage.write("a", b"a")
    assert storage.local("a") == tmp_path / "a"


def test_nothing_is_left_of_a_local_file_that_cannot_be_put(tmp_path: Path, file: Path) -> None:
    storage = storage_of(tmp_path / "out")
    with pytest.raises(OutputError, match="No such file"):
        storage.put(tmp_path / "absent", "a")
    assert not (tmp_path / "out").exists()
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(OutputError, match="expected a folder, found a file"):
        storage_of(tmp_path / "taken").check()
    with pytest.raises(OutputError, match="cannot write"):
        storage_of(tmp_path / "taken").put(file, "a")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="an administrator may do all")
def test_a_folder_that_may_not_be_listed_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(OutputError, match="closed: cannot list it: Permission denied; "):
        storage_of(tmp_path / "closed").names()


@pytest.mark.parametrize(
    ("place", "url"),
    [
        ("s3://bucket/a/b/", "s3://bucket/a/b"),
        ("/vsis3/bucket/a", "s3://bucket/a"),
        ("/vsigs/bucket/a", "gs://bucket/a"),
        ("/vsiaz/container/a", "az://container/a"),
        (Path("s3://bucket/a"), "s3://bucket/a"),
        ("S3://bucket/A", "s3://bucket/A"),
        ("memory:///a", "memory:///a"),
    ],
)
def test_a_place_has_one_url(place: str | Path, url: str) -> None:
    assert is_remote_place(place)
    assert url_of(place) == url


@pytest.mark.parametrize("place", ["masks", "/data/masks", "C:/masks", "C:\\masks", "file:///data", "a:b", Path("a/b")])
def test_a_folder_is_no_remote_place(place: str | Path) -> None:
    assert not is_remote_place(place)


@pytest.mark.parametrize("place", ["/vsicurl/https://host/a", "/vsizip/a.zip", "/vsimem/a", "simplecache::s3://b/a"])
def test_a_place_where_nothing_can_be_put_is_refused(place: str) -> None:
    with pytest.raises(InputError, match=r"expected a folder, a URL such as s3://.* or a path under /vsis3/"):
        storage_of(place)


@pytest.mark.parametrize("place", ["https://host/masks", "http://host/masks", Path("https://host/masks")])
def test_an_address_of_the_web_is_refused(place: str | Path) -> None:
    with pytest.raises(InputError, match=r"cannot be put behind an address of the web; name a folder"):
        storage_of(place)


def test_an_unknown_scheme_is_one_line() -> None:
    pytest.importorskip("fsspec")
    with pytest.raises(InputError, match=r"^abc://a/b: it cannot be used: Protocol not known: abc"):
        storage_of("abc://a/b")


def test_a_password_is_not_shown() -> None:
    pytest.importorskip("fsspec")
    with pytest.raises(InputError, match=r"^abc://host/b: ") as caught:
        storage_of("abc://user:secret@host/b")
    assert "secret" not in str(caught.value).partition("Protocol")[0]


@pytest.mark.parametrize(("absent", "place"), [("fsspec", "s3://bucket/a"), ("s3fs", "s3://bucket/a")])
def test_a_missing_package_is_one_line_that_names_the_extra(absent: str, place: str) -> None:
    if absent != "fsspec":
        pytest.importorskip("fsspec")
    code = f"""
import sys
sys.modules[{absent!r}] = None
from fctl.runtime.errors import InputError
from fctl.runtime.storage.places import storage_of
try:
    storage_of({place!r})
except InputError as error:
    print(error)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.startswith(f"{place}: ")
    assert found.count("\n") == 1
    assert absent in found
    assert "[remote]" in found


def test_a_store_that_does_not_answer_is_one_line(
    s3: str, file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    storage = storage_of(s3.replace("bucket", "nobody"))
    for act in (
        storage.check, storage.names, lambda: storage.size("a"), lambda: storage.put(file, "a"),
        lambda: storage.get("a", tmp_path / "b"),
    ):  # fmt: skip
        with pytest.raises(OutputError, match=r"^s3://nobody/.*: cannot .*127\.0\.0\.1:1.*; see that") as caught:
            act()
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "b").exists()


def test_a_bucket_that_is_not_there_is_one_line(s3: str, file: Path) -> None:
    storage = storage_of("s3://no-such-bucket/a")
    assert storage.names() == []
    for act in (storage.check, lambda: storage.put(file, "a"), lambda: storage.write("a", b"")):
        with pytest.raises(OutputError, match=r"^s3://no-such-bucket/a.*: cannot write (to )?it: .*; see that"):
            act()
    storage_of(s3).check()


def test_a_bucket_itself_is_a_place_that_clearing_leaves(s3: str) -> None:
    import s3fs

    s3fs.S3FileSystem(endpoint_url=os.environ["AWS_ENDPOINT_URL"]).mkdir("another")
    storage = storage_of("s3://another")
    storage.write("a", b"a")
    assert storage.names() == ["a"]
    storage.clear()
    storage.check()
    assert storage.names() == []
