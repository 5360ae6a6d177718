"""When an image is the one that it was."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fctl.runtime.bundle.manifest import InputSpec
from fctl.runtime.errors import RasterError
from fctl.runtime.raster.fingerprint import Fingerprint, fingerprint
from fctl.runtime.raster.source import open_raster
from tests.conftest import write_geotiff
from tests.runtime.raster.test_access import simple

SPEC = InputSpec(bands=1, dtype="uint8", scaling=None, ground_sample_distance=None)


@pytest.fixture
def image(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A VRT of a file in a folder below, with metadata beside both."""
    (tmp_path / "tiles").mkdir()
    write_geotiff(tmp_path / "tiles" / "a.tif", rng.integers(1, 256, (400, 400, 1), np.uint8))
    (tmp_path / "tiles" / "a.tif.aux.xml").write_text("<PAMDataset/>")
    (tmp_path / "photo.vrt.aux.xml").write_text("<PAMDataset/>")
    (tmp_path / "photo.vrt").write_text(simple("tiles/a.tif"))
    return tmp_path / "photo.vrt"


def later(path: Path) -> None:
    state = path.stat()
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 10**9))


def flipped(path: Path, at: int) -> None:
    """Change one byte, and leave size and times as they are."""
    state, data = path.stat(), bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


CHANGES: list[tuple[Callable[[Path], object], str]] = [
    (lambda image: image.write_text(image.read_text() + " "), "its size was"),
    (later, "it was written anew since"),
    (lambda image: flipped(image, 45), "its first or last bytes are others"),
    (lambda image: flipped(image, -1), "its first or last bytes are others"),
    (lambda image: later(image.parent / "tiles" / "a.tif"), "tiles/a.tif, which belongs to it, is changed"),
    (
        lambda image: later(image.parent / "tiles" / "a.tif.aux.xml"),
        "tiles/a.tif.aux.xml, which belongs to it, is changed",
    ),
    (lambda image: (image.parent / "photo.vrt.aux.xml").unlink(), "photo.vrt.aux.xml, which belongs to it, is gone"),
    (lambda image: (image.parent / "photo.vrt.msk").touch(), "photo.vrt.msk, which belongs to it, is new"),
    (lambda image: (image.parent / "tiles" / "a.tif.MSK").touch(), "tiles/a.tif.MSK, which belongs to it, is new"),
]


@pytest.mark.parametrize(("change", "words"), CHANGES, ids=[words for _, words in CHANGES])
def test_a_fingerprint_tells_what_changed(image: Path, change: Callable[[Path], object], words: str) -> None:
    before = fingerprint(image)
    assert before == fingerprint(image) == Fingerprint.from_dict(json.loads(json.dumps(before.as_dict())))
    assert before.difference(fingerprint(image)) is None
    change(image)
    now = fingerprint(image)
    assert now != before
    told = before.difference(now)
    assert told is not None and told.startswith(words) and "\n" not in told


def test_a_stranger_beside_the_image_does_not_count(image: Path) -> None:
    before = fingerprint(image)
    (image.parent / "photo2.vrt.msk").touch()
    (image.parent / "photo.txt").touch()
    assert fingerprint(image) == before


def test_little_is_read_for_a_fingerprint(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    assert fingerprint(path).size == 1 << 40


def test_no_file_has_no_fingerprint(tmp_path: Path) -> None:
    with pytest.raises(RasterError, match="expected an image, found none"):
        fingerprint(tmp_path / "gone.tif")


SWAPS: list[Callable[[Path], object]] = [
    lambda image: (image.parent / "tiles" / "a.tif").unlink(),
    lambda image: image.unlink(),
    lambda image: image.write_text(image.read_text() + " "),
    lambda image: later(image.parent / "tiles" / "a.tif"),
    lambda image: (image.parent / "photo.vrt.aux.xml").rename(image.parent / "photo.vrt.aux.xml.old"),
]


@pytest.mark.parametrize("swap", SWAPS)
def test_a_change_while_the_image_is_open_is_noticed(image: Path, swap: Callable[[Path], object]) -> None:
    with open_raster(image, SPEC, None) as source:
        source.check_unchanged()
        swap(image)
        with pytest.raises(RasterError, match="as it was when the image was opened, found") as caught:
            source.check_unchanged()
    assert "\n" not in str(caught.value)
