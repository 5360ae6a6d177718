"""Images on a server that fails: the right pixels or one error, and never blank ones."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from fctl.runtime import Paths, Segmenter
from fctl.runtime.bundle.manifest import InputSpec
from fctl.runtime.errors import OutputError, RasterError
from fctl.runtime.raster.fingerprint import fingerprint
from fctl.runtime.raster.source import Access, open_raster
from fctl.runtime.tiling.windows import Window
from tests.conftest import write_geotiff
from tests.runtime import tiny

Array = NDArray[Any]
SIDE = 300
SPEC = InputSpec(bands=3, dtype="uint8", scaling=None, ground_sample_distance=None)
ANY = Access(sources="any")


@pytest.fixture(scope="module")
def image() -> Array:
    return np.random.default_rng(0).integers(1, 200, (SIDE, SIDE, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, image: Array) -> Path:
    """A GeoTIFF, packed and not, that has no pixel of 0."""
    folder = tmp_path_factory.mktemp("served")
    for name, compress in (("plain.tif", "none"), ("packed.tif", "deflate")):
        write_geotiff(
            folder / name, image, tiled=True, blockxsize=64, blockysize=64, compress=compress, photometric="RGB"
        )
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    script = Path(__file__).with_name("bad_server.py")
    with subprocess.Popen([sys.executable, str(script), str(folder)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.kill()


@pytest.fixture(autouse=True, params=[None, "2"], ids=["one thread", "two threads"])
def threads(request: pytest.FixtureRequest, set_in_environment: Callable[[str, str], None]) -> None:
    """GDAL reads with several threads where the environment says so."""
    set_in_environment("GDAL_HTTP_RETRY_DELAY", "0.01")
    if request.param:
        set_in_environment("GDAL_NUM_THREADS", request.param)


@pytest.fixture
def new(tmp_path: Path) -> str:
    """The end of an address that GDAL does not know yet, so that it must ask the server."""
    return f"?{tmp_path.name}"


def read(name: str) -> Array:
    with open_raster(name, SPEC, None, access=ANY) as source:
        return source.read(Window(0, 0, SIDE, SIDE))


@pytest.mark.parametrize("name", ["plain.tif", "packed.tif"])
@pytest.mark.parametrize("way", ["well", "flaky"])
def test_an_image_on_a_server_is_read(server: str, new: str, image: Array, way: str, name: str) -> None:
    np.testing.assert_array_equal(read(f"{server}/{way}/{name}{new}"), image)


@pytest.mark.parametrize("name", ["plain.tif", "packed.tif"])
@pytest.mark.parametrize("way", ["500", "short", "drop"])
def test_a_server_that_fails_midway_is_one_error(server: str, new: str, way: str, name: str) -> None:
    address = f"{server}/{way}/{name}{new}"
    with pytest.raises(
        RasterError, match=r"cannot read rows .*the server does not send all of it.*try again"
    ) as caught:
        read(address)
    assert str(caught.value).startswith(f"{address}: ")
    assert "\n" not in str(caught.value)


def test_a_server_that_is_down_is_one_error(server: str, new: str) -> None:
    with pytest.raises(RasterError, match=r"down/plain\.tif.*: expected an image that GDAL reads, found none .*500"):
        read(f"{server}/down/plain.tif{new}")
    with pytest.raises(RasterError, match=r"gone\.tif.*: expected an image that GDAL reads"):
        read(f"{server}/well/gone.tif")


@pytest.mark.parametrize("way", ["500", "short", "drop"])
def test_a_vrt_that_points_to_a_server_that_fails_is_one_error(
    tmp_path: Path, server: str, new: str, image: Array, way: str
) -> None:
    def vrt(way: str) -> str:
        bands = "".join(
            f'<VRTRasterBand dataType="Byte" band="{band}"><SimpleSource><SourceFilename>/vsicurl/{server}/{way}/plain'
            f".tif{new}</SourceFilename><SourceBand>{band}</SourceBand></SimpleSource></VRTRasterBand>"
            for band in (1, 2, 3)
        )
        (tmp_path / "a.vrt").write_text(f'<VRTDataset rasterXSize="{SIDE}" rasterYSize="{SIDE}">{bands}</VRTDataset>')
        return str(tmp_path / "a.vrt")

    np.testing.assert_array_equal(read(vrt("well")), image)
    with open_raster(vrt(way), SPEC, None, access=ANY) as source, ThreadPoolExecutor(1) as reader:
        for submit in (reader.submit, _at_once):  # as the pipeline reads, and as samples are read
            with pytest.raises(RasterError, match="cannot read rows"):
                submit(source.read, Window(0, 0, SIDE, SIDE)).result()


def _at_once(read: Any, window: Window) -> Future[Array]:
    done: Future[Array] = Future()
    done.set_result(read(window))
    return done


def test_a_run_over_a_server(tmp_path: Path, server: str, new: str, image: Array, folder: Path) -> None:
    """What failed midway leaves no mask. An image that was exchanged has another fingerprint."""
    with Segmenter(tiny.TINY_WIDE, backend="onnxruntime", sources="any") as segmenter:
        with pytest.raises(RasterError, match="the server does not send all of it"):
            segmenter.segment_file(f"{server}/500/plain.tif{new}", Paths(mask=tmp_path / "m.tif"))
        assert not (tmp_path / "m.tif").exists()
        segmenter.segment_file(f"{server}/well/plain.tif{new}", Paths(mask=tmp_path / "n.tif"))
        with rasterio.open(tmp_path / "n.tif") as mask, rasterio.open(folder / "plain.tif") as source:
            np.testing.assert_array_equal(mask.read(1), segmenter.segment(image).ids)
            assert (mask.crs, mask.transform) == (source.crs, source.transform)
        with pytest.raises(OutputError, match="exists"):
            segmenter.segment_file(f"{server}/well/plain.tif{new}", Paths(mask=tmp_path / "n.tif"))
    states = [fingerprint(f"{server}/well/{name}") for name in ("plain.tif", "plain.tif", "packed.tif")]
    assert states[0] == states[1] != states[2]


def test_nothing_is_asked_of_a_server_unless_that_is_allowed(server: str) -> None:
    with (
        pytest.raises(RasterError, match=r"remote images are not read by default.*`sources`"),
        open_raster(f"{server}/well/plain.tif", SPEC, None),
    ):
        pass
