"""Images of strangers: none of them makes GDAL read, write or open anything but the image's own folder."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from fctl.runtime.bundle.manifest import InputSpec
from fctl.runtime.errors import InputError, RasterError
from fctl.runtime.raster.access import LOCAL_DRIVERS, Access
from fctl.runtime.raster.source import OnBadBlock, open_any, open_raster
from fctl.runtime.tiling.windows import Window
from tests.conftest import write_geotiff

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

Array = NDArray[Any]
SECRET = b"S3CR"


def raw(secret: Path, side: int = 32) -> str:
    """A VRT that shows the bytes of a file as pixels."""
    return (
        f'<VRTDataset rasterXSize="{side}" rasterYSize="{side}"><VRTRasterBand dataType="Byte" band="1" '
        f'subClass="VRTRawRasterBand"><SourceFilename relativeToVRT="0">{secret}</SourceFilename><ImageOffset>0'
        f"</ImageOffset><PixelOffset>1</PixelOffset><LineOffset>{side}</LineOffset></VRTRasterBand></VRTDataset>"
    )


def simple(source: object, relative: int = 1, extra: str = "", kind: str = "SimpleSource") -> str:
    """A VRT of one band of a file."""
    return (
        '<VRTDataset rasterXSize="64" rasterYSize="64"><VRTRasterBand dataType="Byte" band="1">'
        f'<{kind}><SourceFilename relativeToVRT="{relative}">{source}</SourceFilename>{extra}<SourceBand>1'
        f"</SourceBand></{kind}></VRTRasterBand></VRTDataset>"
    )


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "private" / "secret"
    path.parent.mkdir()
    path.write_bytes(SECRET * 2000)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "uploads"
    path.mkdir()
    return path


@pytest.fixture
def pixels(rng: np.random.Generator) -> Array:
    return rng.integers(128, 256, (64, 64, 3)).astype(np.uint8)  # no letter of the secret


def shown(path: Path | str, access: Access | None = None) -> bytes:
    """Everything that is ever read of an image: its pixels, masks, and its overviews."""
    with open_any(path, access or Access()) as dataset:
        small = dataset.read(1, out_shape=(dataset.height // 2, dataset.width // 2))
        masks = dataset.read_masks()
        return bytes(np.concatenate([dataset.read().ravel(), small.ravel(), masks.ravel()]).tobytes())


# What an image is


@pytest.mark.parametrize("name", ["photo.tif", "photo.png", "photo.vrt", "photo"])
def test_a_raw_band_shows_no_file_of_the_server(folder: Path, secret: Path, name: str) -> None:
    path = folder / name
    path.write_text(raw(secret))
    assert SECRET in shown(path, Access(sources="any")), "the attack works where all is allowed"
    with pytest.raises(RasterError, match="`sources`") as caught:
        shown(path)
    assert "\n" not in str(caught.value)


@contextmanager
def listening() -> Iterator[tuple[int, list[bytes]]]:
    """A server that answers nothing; its port, and the requests that it saw."""
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client:
                    seen.append(client.recv(200))
                    if b"STOP" in seen[-1]:
                        return
                    client.sendall(b"HTTP/1.0 404 gone\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        port = server.getsockname()[1]
        try:
            yield port, seen
        finally:
            with socket.create_connection(("127.0.0.1", port)) as last:
                last.sendall(b"STOP")
            thread.join()


SERVICES = {
    "WMS": '<GDAL_WMS><Service name="TMS"><ServerUrl>http://127.0.0.1:{port}/${{z}}/${{x}}/${{y}}.png</ServerUrl></Service>'
    "<DataWindow><UpperLeftX>0</UpperLeftX><UpperLeftY>9</UpperLeftY><LowerRightX>9</LowerRightX><LowerRightY>0"
    "</LowerRightY><SizeX>64</SizeX><SizeY>64</SizeY><TileLevel>0</TileLevel></DataWindow><BandsCount>3</BandsCount>"
    "<BlockSizeX>64</BlockSizeX><BlockSizeY>64</BlockSizeY></GDAL_WMS>",
    "WCS": "<WCS_GDAL><ServiceURL>http://127.0.0.1:{port}/?</ServiceURL><CoverageName>a</CoverageName></WCS_GDAL>",
    "WMTS": "<GDAL_WMTS><GetCapabilitiesUrl>http://127.0.0.1:{port}/wmts</GetCapabilitiesUrl></GDAL_WMTS>",
    "a source of a VRT": simple("/vsicurl/http://127.0.0.1:{port}/a.tif", 0),
}


@pytest.mark.parametrize("service", SERVICES)
def test_a_description_of_a_service_opens_no_address(
    folder: Path, service: str, monkeypatch: pytest.MonkeyPatch, set_in_environment: Callable[[str, str], None]
) -> None:
    set_in_environment("GDAL_HTTP_TIMEOUT", "5")
    monkeypatch.delenv("http_proxy", raising=False)
    path = folder / "photo.tif"
    with listening() as (port, seen):
        path.write_text(SERVICES[service].format(port=port))
        with pytest.raises(RasterError):
            shown(path)
        assert seen == []
        with pytest.raises((RasterError, rasterio.errors.RasterioError)):
            shown(path, Access(sources="any"))
        assert seen, "the attack works where all is allowed"


def test_a_cache_of_tiles_is_not_written_to(folder: Path, pixels: Array) -> None:
    """MRF copies what it reads from its source into a file that it names."""
    write_geotiff(folder / "source.tif", pixels)
    (victim := folder / "victim").write_bytes(b"line\n")
    description = (
        f"<MRF_META><CachedSource><Source>{folder}/source.tif</Source></CachedSource><Raster>"
        f"<Size x='64' y='64' c='3'/><PageSize x='64' y='64' c='3'/><Compression>NONE</Compression>"
        f"<DataFile>{folder}/victim</DataFile>"
        f"<IndexFile>{folder}/index</IndexFile></Raster></MRF_META>"
    )
    (folder / "photo.tif").write_text(description)
    with pytest.raises(RasterError, match="an image that GDAL reads"):
        shown(folder / "photo.tif")
    assert victim.read_bytes() == b"line\n"
    assert not (folder / "index").exists()
    shown(folder / "photo.tif", Access(sources="any"))
    assert victim.stat().st_size > 5, "the attack works where all is allowed"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_is_refused_at_once(folder: Path) -> None:
    os.mkfifo(folder / "photo.tif")
    for sources in ("local", "any"):
        with pytest.raises(RasterError, match="expected an image, found a device or a pipe"):
            shown(folder / "photo.tif", Access(sources=sources))


def test_a_file_named_like_a_connection_is_a_file(folder: Path, pixels: Array, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    write_geotiff(folder / "plain.tif", pixels)
    (folder / "plain.tif").rename(folder / "GTIFF_DIR:1:other.tif")
    write_geotiff(folder / "other.tif", pixels // 2)
    with open_any(Path("GTIFF_DIR:1:other.tif")) as dataset:
        np.testing.assert_array_equal(dataset.read(), pixels.transpose(2, 0, 1))


WRITTEN = {
    "GTiff": "tif",
    "PNG": "png",
    "JPEG": "jpg",
    "JP2OpenJPEG": "jp2",
    "WEBP": "webp",
    "BMP": "bmp",
    "ENVI": "dat",
}
WRITTEN |= {"HFA": "img", "GPKG": "gpkg", "netCDF": "nc"}


def test_every_driver_that_is_allowed_is_tried() -> None:
    assert set(WRITTEN) == {*LOCAL_DRIVERS, "netCDF"}


@pytest.fixture(params=WRITTEN)
def written(request: pytest.FixtureRequest, tmp_path: Path, folder: Path, pixels: Array) -> Path:
    """The pixels in each format that is read by default."""
    path = folder / f"photo.{WRITTEN[request.param]}"
    original = write_geotiff(tmp_path / "original.tif", pixels)
    options: dict[str, str] = {"FORMAT": "NC"} if request.param == "netCDF" else {}
    rasterio.shutil.copy(original, path, driver=request.param, **options)
    return path


def name_of(path: Path) -> Path | str:
    return f"NETCDF:{path}:Band1" if path.suffix == ".nc" else path


def test_each_local_format_is_opened(written: Path) -> None:
    with open_any(name_of(written)) as dataset:
        assert (dataset.height, dataset.width) == (64, 64) or written.suffix == ".gpkg"
        assert dataset.read(1).any()


# Files beside an image


@pytest.mark.parametrize("ending", [".ovr", ".msk", ".OVR", ".MsK"])
def test_a_sidecar_that_is_a_description_is_not_followed(written: Path, secret: Path, ending: str) -> None:
    written.with_name(written.name + ending).write_text(raw(secret))
    with pytest.raises(RasterError, match=r"which is no GeoTIFF.*`sources`"):
        shown(name_of(written))


def test_overviews_that_metadata_beside_the_image_name_are_not_followed(written: Path, secret: Path) -> None:
    evil = written.parent / "evil.vrt"
    evil.write_text(raw(secret))
    written.with_name(written.name + ".aux.xml").write_text(
        f'<PAMDataset><Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">{evil}</MDI></Metadata></PAMDataset>'
    )
    if written.suffix not in (".gpkg", ".nc"):
        assert SECRET in shown(written, Access(sources="any")), "the attack works where all is allowed"
    if written.suffix != ".nc":  # where GDAL does not read the metadata of the file for its parts
        with pytest.raises(RasterError, match=r"metadata that names the overviews"):
            shown(name_of(written))
    else:
        assert SECRET not in shown(name_of(written))


def test_overviews_that_metadata_inside_the_image_name_are_not_followed(
    folder: Path, pixels: Array, secret: Path
) -> None:
    evil = folder / "evil.vrt"
    evil.write_text(raw(secret))
    path = write_geotiff(folder / "photo.tif", pixels)
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(ns="OVERVIEWS", OVERVIEW_FILE="missing.vrt")
    written = path.read_bytes().replace(b"missing.vrt", b"/../ev/l.vrt"[:11])
    path.write_bytes(written)
    with pytest.raises(RasterError, match=r"metadata that names the overviews"):
        shown(path)


def test_sidecars_of_sidecars_are_looked_at_too(folder: Path, pixels: Array, secret: Path) -> None:
    path = write_geotiff(folder / "photo.tif", pixels)
    write_geotiff(folder / "half.tif", pixels[::2, ::2]).rename(folder / "photo.tif.ovr")
    assert len(shown(path)) > 0
    (folder / "photo.tif.ovr.msk").write_text(raw(secret))
    with pytest.raises(RasterError, match="which is no GeoTIFF"):
        shown(path)


@pytest.mark.parametrize("ending", [".msk", ".ovr", ".aux.xml"])
def test_links_out_of_the_folder_are_not_followed(folder: Path, tmp_path: Path, pixels: Array, ending: str) -> None:
    path = write_geotiff(folder / "photo.tif", pixels)
    other = write_geotiff(tmp_path / "other.tif", pixels[:, :, :1])
    path.with_name(path.name + ending).symlink_to(other)
    with pytest.raises(RasterError, match="a link to elsewhere"):
        shown(path)


def test_an_image_may_be_a_link_and_its_mask_beside_either_end(folder: Path, tmp_path: Path, pixels: Array) -> None:
    valid = np.ones((64, 64), np.bool_)
    valid[0, 0] = False
    real = write_geotiff(tmp_path / "real.tif", pixels)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(real, "r+") as dataset:
        dataset.write_mask(valid)
    (folder / "photo.tif").symlink_to(real)
    (folder / "photo.tif.msk").symlink_to(tmp_path / "real.tif.msk")
    with open_any(folder / "photo.tif") as dataset:
        assert np.argwhere(dataset.read_masks(1) == 0).tolist() == [[0, 0]]


def test_a_journal_beside_a_geopackage_is_not_played_back(tmp_path: Path, folder: Path, pixels: Array) -> None:
    path = folder / "photo.gpkg"
    rasterio.shutil.copy(write_geotiff(tmp_path / "a.tif", pixels), path, driver="GPKG")
    (folder / "photo.gpkg-journal").touch()
    with pytest.raises(RasterError, match="a journal of SQLite"):
        shown(path)


# VRTs


def test_a_vrt_of_files_in_its_own_folder_is_opened(folder: Path, pixels: Array) -> None:
    (folder / "tiles").mkdir()
    write_geotiff(folder / "tiles" / "a.tif", pixels)
    (folder / "tiles" / "inner.vrt").write_text(simple("a.tif"))
    for text in (simple("tiles/a.tif"), simple(folder / "tiles" / "a.tif", 0), simple("tiles/inner.vrt")):
        (folder / "photo.vrt").write_text(text)
        with open_any(folder / "photo.vrt") as dataset:
            np.testing.assert_array_equal(dataset.read(1), pixels[:, :, 0])


def test_vrts_as_gdal_writes_them_are_opened(folder: Path, pixels: Array) -> None:
    path = write_geotiff(folder / "a.tif", pixels, nodata=0)
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(SENSOR="x")
    rasterio.shutil.copy(path, folder / "copy.vrt", driver="VRT")
    with rasterio.open(path) as dataset, rasterio.vrt.WarpedVRT(dataset, crs="EPSG:4326") as warped:
        rasterio.shutil.copy(warped, folder / "warped.vrt", driver="VRT")
    for name in ("copy.vrt", "warped.vrt"):
        with open_any(folder / name) as dataset:
            assert dataset.read().max() >= 128


VIRTUAL: dict[str, Callable[[Path, Path], str]] = {
    "a path above": lambda folder, secret: simple("../private/a.tif"),
    "an absolute path": lambda folder, secret: simple(secret.parent / "a.tif", 0),
    "a link": lambda folder, secret: simple("link.tif"),
    "a description named as an image": lambda folder, secret: simple("evil.tif"),
    "a warped file": lambda folder, secret: (
        '<VRTDataset rasterXSize="64" rasterYSize="64" subClass="VRTWarpedDataset"><GDALWarpOptions>'
        f'<SourceDataset relativeToVRT="0">{secret.parent}/a.tif</SourceDataset></GDALWarpOptions></VRTDataset>'
    ),
    "options of the source": lambda folder, secret: simple(
        "a.tif", 1, '<OpenOptions><OOI key="X">y</OOI></OpenOptions>'
    ),
    "a connection": lambda folder, secret: simple("HDF5:a.h5://x"),
    "an archive": lambda folder, secret: simple("/vsitar/a.tar/a.tif", 0),
    "XML in XML": lambda folder, secret: simple("&lt;GDAL_WMS&gt;&lt;/GDAL_WMS&gt;", 0),
    "capitals": lambda folder, secret: simple("../private/a.tif").replace("SourceFilename", "SOURCEFILENAME"),
    "an attribute for an element": lambda folder, secret: simple("a.tif").replace(
        "<SimpleSource>", f'<SimpleSource SourceFilename="{secret}">'
    ),
    "an element for an attribute": lambda folder, secret: simple("<relativeToVRT>0</relativeToVRT>a.tif"),
    "a comment": lambda folder, secret: simple("a.tif<!-- x -->"),
    "an entity": lambda folder, secret: '<!DOCTYPE a [<!ENTITY b "../private/a.tif">]>' + simple("&b;"),
    "CDATA": lambda folder, secret: simple("<![CDATA[../private/a.tif]]>"),
    "itself": lambda folder, secret: simple("photo.vrt"),
    "python": lambda folder, secret: simple("a.tif").replace(
        '<VRTRasterBand dataType="Byte" band="1">',
        '<VRTRasterBand dataType="Byte" band="1" subClass="VRTDerivedRasterBand">'
        "<PixelFunctionType>f</PixelFunctionType><PixelFunctionLanguage>Python</PixelFunctionLanguage><PixelFunctionCode>x</PixelFunctionCode>",
    ),
    "a module": lambda folder, secret: simple("a.tif").replace(
        '<VRTRasterBand dataType="Byte" band="1">',
        '<VRTRasterBand dataType="Byte" band="1" subClass="VRTDerivedRasterBand">'
        "<PixelFunctionType>os.system</PixelFunctionType>",
    ),
    "an array": lambda folder, secret: (
        '<VRTDataset><Group name="/"><Array name="a"><DataType>Byte</DataType><Source><SourceFilename>a.tif'
        "</SourceFilename></Source></Array></Group></VRTDataset>"
    ),
    "a pansharpened one": lambda folder, secret: (
        '<VRTDataset subClass="VRTPansharpenedDataset"><PansharpeningOptions><PanchroBand><SourceFilename>a.tif'
        "</SourceFilename></PanchroBand></PansharpeningOptions></VRTDataset>"
    ),
    "damaged XML": lambda folder, secret: simple("a.tif")[:-5],
    "an option of warping": lambda folder, secret: (
        '<VRTDataset rasterXSize="64" rasterYSize="64" subClass="VRTWarpedDataset"><GDALWarpOptions>'
        '<SourceDataset relativeToVRT="1">a.tif</SourceDataset><Option name="INIT_DEST" key="RPC_DEM">x</Option>'
        "</GDALWarpOptions></VRTDataset>"
    ),
    "no file": lambda folder, secret: simple("gone.tif"),
    "a crs in a file": lambda folder, secret: simple("a.tif").replace(
        "<VRTRasterBand", f"<SRS>{secret}</SRS><VRTRasterBand", 1
    ),
}


@pytest.mark.parametrize("attack", VIRTUAL)
def test_a_vrt_that_names_more_than_files_of_its_folder_is_refused(
    folder: Path, secret: Path, pixels: Array, attack: str
) -> None:
    write_geotiff(folder / "a.tif", pixels)
    write_geotiff(secret.parent / "a.tif", pixels)
    (folder / "link.tif").symlink_to(secret.parent / "a.tif")
    (folder / "evil.tif").write_text(raw(secret))
    (folder / "photo.vrt").write_text(VIRTUAL[attack](folder, secret))
    with pytest.raises(RasterError) as caught:
        shown(folder / "photo.vrt")
    assert "\n" not in str(caught.value)


def test_the_sidecars_of_a_source_are_looked_at(folder: Path, secret: Path, pixels: Array) -> None:
    write_geotiff(folder / "a.tif", pixels)
    (folder / "a.tif.ovr").write_text(raw(secret))
    (folder / "photo.vrt").write_text(simple("a.tif"))
    assert SECRET in shown(folder / "photo.vrt", Access(sources="any"))
    with pytest.raises(RasterError, match="which is no GeoTIFF"):
        shown(folder / "photo.vrt")


# Limits


@pytest.mark.parametrize(
    ("shape", "profile", "limit"),
    [
        ((16, 16, 10_000), {}, "`max_bands`"),
        ((65_536, 65_536, 1), {"tiled": True, "blockxsize": 65_536, "blockysize": 65_536}, "`max_block`"),
        ((300_000, 300_000, 1), {"tiled": True}, "`max_pixels`"),
        ((100_000, 100_000, 5), {"tiled": True}, None),
        ((4_000, 4_000, 500), {"tiled": True}, None),
        ((20_000, 20_000, 3), {"tiled": True, "blockxsize": 20_000, "blockysize": 20_000}, None),
    ],
)
def test_what_is_too_large_by_its_header(
    folder: Path, shape: tuple[int, int, int], profile: dict[str, Any], limit: str | None
) -> None:
    path, (height, width, bands) = folder / "photo.tif", shape
    made = {"driver": "GTiff", "dtype": "uint8", "compress": "deflate", "sparse_ok": True, "bigtiff": "yes"}
    made["interleave"] = "pixel"
    with rasterio.open(path, "w", height=height, width=width, count=bands, **made, **profile):
        pass
    if limit is None:
        with open_any(path) as dataset:
            assert dataset.shape == (height, width)
        return
    with pytest.raises(RasterError, match=rf"expected at most \d+ .*, found \d+; allow more with {limit}") as caught:
        shown(path)
    assert "\n" not in str(caught.value)
    with open_any(path, Access(max_pixels=10**12, max_bands=10**5, max_block=10**10)) as dataset:
        assert dataset.count == bands


def test_a_vrt_of_too_many_bands_is_refused_before_it_is_opened(folder: Path, pixels: Array) -> None:
    write_geotiff(folder / "a.tif", pixels)
    band = '<VRTRasterBand dataType="Byte"/>'
    (folder / "photo.vrt").write_text(f'<VRTDataset rasterXSize="9" rasterYSize="9">{band * 1001}</VRTDataset>')
    with pytest.raises(RasterError, match="expected at most 1000 bands, found 1001; allow more with `max_bands`"):
        shown(folder / "photo.vrt")


def test_the_block_of_a_source_counts(folder: Path, pixels: Array) -> None:
    write_geotiff(folder / "a.tif", pixels, tiled=True, blockxsize=64, blockysize=64)
    (folder / "photo.vrt").write_text(simple("a.tif"))
    with pytest.raises(RasterError, match="`max_block`"):
        shown(folder / "photo.vrt", Access(max_block=64 * 64 * 3 - 1))
    shown(folder / "photo.vrt", Access(max_block=64 * 64 * 3))


@pytest.mark.parametrize(
    "limits", [{"sources": "some"}, {"max_pixels": 0}, {"max_bands": -1}, {"max_block": 0}], ids=str
)
def test_limits_that_do_not_fit(limits: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"`{next(iter(limits))}`: expected"):
        Access(**limits)


# Permissions


@contextmanager
def unprivileged() -> Iterator[None]:
    """As a user who may not do all; others than root are that already."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs permissions as POSIX has them")
@pytest.mark.parametrize("what", ["image", "folder", "sidecar", "source"])
def test_what_may_not_be_read_is_one_line(pixels: Array, what: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    base = tmp_path_factory.mktemp("open")
    folder = base / "folder"
    folder.mkdir()
    write_geotiff(folder / "a.tif", pixels)
    Image.fromarray(pixels).save(folder / "b.png")
    (folder / "b.png.aux.xml").write_text("<PAMDataset/>")
    (folder / "c.vrt").write_text(simple("a.tif"))
    image = folder / {"image": "a.tif", "folder": "a.tif", "sidecar": "b.png", "source": "c.vrt"}[what]
    parents = [base, *base.parents][:3]
    modes = {parent: parent.stat().st_mode for parent in parents if parent.owner() == base.owner()}
    closed = {"folder": folder, "sidecar": folder / "b.png.aux.xml"}.get(what, folder / "a.tif")
    try:
        for parent in modes:
            parent.chmod(0o755)
        closed.chmod(0)
        with unprivileged(), pytest.raises(RasterError, match="permission denied") as caught:
            shown(image)
    finally:
        closed.chmod(0o755)
        for parent, mode in modes.items():
            parent.chmod(mode)
    assert "\n" not in str(caught.value)


# What chance makes


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A small image in several formats, by ending."""
    folder = tmp_path_factory.mktemp("seeds")
    image = np.random.default_rng(0).integers(1, 256, (20, 20, 3), np.uint8)
    original = write_geotiff(folder / "a.tif", image, nodata=0)
    for driver, ending in (("VRT", "vrt"), ("PNG", "png"), ("HFA", "img")):
        rasterio.shutil.copy(original, folder / f"b.{ending}", driver=driver)
    return {path.suffix: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix != ".xml"}


@pytest.mark.once
@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_mutated_image_is_read_or_refused_in_one_line(
    tmp_path: Path, seeds: dict[str, bytes], data: st.DataObject
) -> None:
    ending = data.draw(st.sampled_from(sorted(seeds)))
    content = bytearray(seeds[ending])
    for at, byte in data.draw(st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), min_size=1, max_size=5)):
        content[at % len(content)] = byte
    path = tmp_path / f"photo{ending}"
    path.write_bytes(content)
    for on_bad_block in get_args(OnBadBlock):
        spec = InputSpec(bands=3, dtype="uint8", scaling=None, ground_sample_distance=None)
        try:
            with open_raster(path, spec, None, on_bad_block=on_bad_block) as source:
                window = Window(0, 0, min(50, source.height), min(50, source.width))
                assert source.read(window).shape == (window.height, window.width, 3)
        except RasterError as error:
            assert "\n" not in str(error)


def test_an_application_still_opens_what_it_likes(folder: Path, secret: Path) -> None:
    path = folder / "photo.tif"
    path.write_text(raw(secret))
    with pytest.raises(RasterError):
        shown(path)
    with rasterio.open(path) as dataset:
        assert dataset.driver == "VRT"
