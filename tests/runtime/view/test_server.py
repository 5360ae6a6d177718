"""What the server answers: tiles that are the raster's pixels, places, areas, and refusals."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from PIL import Image
from rasterio.transform import Affine, from_origin
from rasterio.warp import transform

for package in ("rio_tiler", "starlette", "shapely", "pyogrio", "httpx"):
    pytest.importorskip(package)

from starlette.testclient import TestClient  # noqa: E402

from fctl.runtime.errors import FctlError, RasterError  # noqa: E402
from fctl.runtime.view import page  # noqa: E402
from fctl.runtime.view.app import Exhibit, app_of  # noqa: E402
from fctl.runtime.view.cache import ByteCache  # noqa: E402
from fctl.runtime.view.export import export_page  # noqa: E402
from fctl.runtime.view.gates import is_ours  # noqa: E402
from fctl.runtime.view.layers import open_view  # noqa: E402
from tests.conftest import write_geotiff  # noqa: E402
from tests.runtime.view.conftest import HEIGHT, WIDTH, Run, degrees  # noqa: E402

WORLD = 2 * math.pi * 6_378_137.0


@contextmanager
def serving(files: Mapping[str, Path], host: str = "127.0.0.1") -> Iterator[TestClient]:
    with TestClient(app_of(Exhibit(open_view(files)), host), base_url="http://127.0.0.1:8790") as client:
        yield client


@pytest.fixture(scope="module")
def client(run: Run) -> Iterator[TestClient]:
    with serving(run.files("image", "other", "confidence", "probabilities") | {"labels": run.other}) as found:
        yield found


def values(client: TestClient, layer: str, zoom: int, x: int, y: int) -> NDArray[Any]:
    answer = client.get(f"/tiles/{layer}/{zoom}/{x}/{y}")
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def read(path: Path) -> NDArray[Any]:
    with rasterio.open(path) as dataset:
        pixels: NDArray[Any] = dataset.read()
    return pixels


def pattern(height: int = 300, width: int = 280) -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 5, (height, width, 1), np.uint8)


# Tiles


def test_a_tile_of_a_raster_without_a_place_is_its_pixels(tmp_path: Path) -> None:
    pixels = pattern()
    path = write_geotiff(tmp_path / "mask.tif", pixels, crs=None, transform=None, nodata=255)
    with serving({"mask": path}) as client:
        view = client.get("/view.json").json()
        assert (view["placed"], view["system"]) == (False, "pixels")
        zoom = view["layers"][0]["maxzoom"]
        west, _, _, north = view["bounds"]
        x = round((west + 180) / 360 * 2**zoom)
        y = round((1 - math.asinh(math.tan(math.radians(north))) / math.pi) / 2 * 2**zoom)
        found = np.block([[values(client, "mask", zoom, x + i, y + j) for i in (0, 1)] for j in (0, 1)])
    expected = np.full((512, 512), 255, np.uint8)
    expected[:300, :280] = pixels[:, :, 0]
    np.testing.assert_array_equal(found, expected)


def test_a_tile_of_a_raster_on_the_grid_of_tiles_is_its_pixels(tmp_path: Path) -> None:
    zoom, x, y = 17, 70_000, 50_000
    step = WORLD / 256 / 2**zoom
    place = from_origin(x * 256 * step - WORLD / 2, WORLD / 2 - y * 256 * step, step, step)
    pixels = pattern()
    path = write_geotiff(tmp_path / "mask.tif", pixels, crs="EPSG:3857", transform=place, nodata=255)
    with serving({"mask": path}) as client:
        assert client.get("/view.json").json()["layers"][0]["maxzoom"] == zoom
        np.testing.assert_array_equal(values(client, "mask", zoom, x, y), pixels[:256, :256, 0])


def places_of(zoom: int, x: int, y: int) -> tuple[list[float], list[float]]:
    """Longitudes and latitudes of the middles of a tile's pixels."""
    across = (x + (np.arange(256) + 0.5) / 256) / 2**zoom
    down = (y + (np.arange(256) + 0.5) / 256) / 2**zoom
    latitudes = np.degrees(np.arctan(np.sinh(np.pi * (1 - 2 * down))))
    grid = np.meshgrid(across * 360 - 180, latitudes)
    return grid[0].ravel().tolist(), grid[1].ravel().tolist()


def test_a_tile_of_a_raster_elsewhere_has_the_class_of_each_place(client: TestClient, run: Run) -> None:
    view = client.get("/view.json").json()
    zoom = view["layers"][1]["maxzoom"]
    west, south, east, north = view["bounds"]
    x, y = tile_at((west + east) / 2, (south + north) / 2, zoom)
    found = values(client, "mask", zoom, x, y)
    with rasterio.open(run.mask) as dataset:
        ids = dataset.read(1)
        xs, ys = transform("EPSG:4326", dataset.crs, *places_of(zoom, x, y))
        columns, rows = ~dataset.transform * (np.array(xs), np.array(ys))
    inside = (rows >= 0) & (rows < HEIGHT) & (columns >= 0) & (columns < WIDTH)
    expected = np.where(inside, ids[rows.astype(int) % HEIGHT, columns.astype(int) % WIDTH], 255).reshape(256, 256)
    assert inside.any()
    assert np.mean(found == expected) > 0.97  # GDAL places pixels to an eighth of one


def tile_at(longitude: float, latitude: float, zoom: int) -> tuple[int, int]:
    down = (1 - math.asinh(math.tan(math.radians(latitude))) / math.pi) / 2
    return int((longitude + 180) / 360 * 2**zoom), int(down * 2**zoom)


def aligned(tmp_path: Path, name: str, pixels: NDArray[Any], **profile: object) -> tuple[Path, int, int, int]:
    """An image of a tile's size on a tile."""
    zoom, x, y = 16, 40_000, 30_000
    step = WORLD / 256 / 2**zoom
    place = from_origin(x * 256 * step - WORLD / 2, WORLD / 2 - y * 256 * step, step, step)
    return write_geotiff(tmp_path / name, pixels, crs="EPSG:3857", transform=place, **profile), zoom, x, y


def slopes(dtype: type[np.generic], top: int) -> NDArray[Any]:
    across, down = np.meshgrid(np.linspace(0, top, 256), np.linspace(0, top, 256))
    return np.stack([across, down, (across + down) / 2], axis=2).astype(dtype)


def test_bytes_of_an_image_are_shown_as_they_are(tmp_path: Path) -> None:
    mask, *_ = aligned(tmp_path, "mask.tif", np.zeros((256, 256, 1), np.uint8))
    image, zoom, x, y = aligned(tmp_path, "image.tif", slopes(np.uint8, 200))
    with serving({"mask": mask, "image": image}) as client:
        found = values(client, "image", zoom, x, y)[:, :, :3].astype(int)
    assert np.abs(found - slopes(np.uint8, 200)).max() <= 6  # JPEG


def test_other_depths_are_stretched_between_percentiles_of_the_whole_image(tmp_path: Path) -> None:
    mask, *_ = aligned(tmp_path, "mask.tif", np.zeros((256, 256, 1), np.uint8))
    pixels = slopes(np.uint16, 9000)
    image, zoom, x, y = aligned(tmp_path, "image.tif", pixels)
    with serving({"mask": mask, "image": image}) as client:
        found = values(client, "image", zoom, x, y)[:, :, :3].astype(float)
    low, high = np.percentile(pixels, (2, 98), axis=(0, 1))
    expected = np.clip((pixels - low) / (high - low), 0, 1) * 255
    assert np.abs(found - expected).max() <= 7


def test_what_an_image_lacks_is_transparent(client: TestClient) -> None:
    west, _, _, north = client.get("/view.json").json()["bounds"]
    tile = values(client, "image", 15, *tile_at(west, north, 15))
    assert tile.shape == (256, 256, 4)
    assert {0, 255} <= set(np.unique(tile[:, :, 3]).tolist())


@pytest.mark.parametrize("layer", ["differences", "errors"])
def test_differences_are_where_two_masks_differ(client: TestClient, layer: str) -> None:
    view = client.get("/view.json").json()
    west, south, east, north = view["bounds"]
    place = (18, *tile_at((west + east) / 2, (south + north) / 2, 18))
    ids, others = values(client, "mask", *place), values(client, "other", *place)
    expected = np.where(ids == others, 0, 1)
    expected[(ids == 255) | (others == 255)] = 255
    assert {0, 1} <= set(np.unique(expected).tolist())
    np.testing.assert_array_equal(values(client, layer, *place), expected)


def test_probabilities_are_shown_in_254ths(tmp_path: Path) -> None:
    mask, *_ = aligned(tmp_path, "mask.tif", np.zeros((256, 256, 1), np.uint8))
    shares = np.random.default_rng(1).random((256, 256, 2)).astype(np.float32)
    shares[:9, :9] = np.nan
    path, zoom, x, y = aligned(tmp_path, "prob.tif", shares, nodata=np.nan)
    with serving({"mask": mask, "probabilities": path}) as client:
        found = values(client, "probability-1", zoom, x, y)
    expected = np.rint(np.nan_to_num(shares[:, :, 1]) * 254).astype(np.uint8)
    expected[:9, :9] = 255
    np.testing.assert_array_equal(found, expected)


# Places and areas


def test_a_click_tells_what_the_rasters_hold(client: TestClient, run: Run) -> None:
    ids, others, shares, image = read(run.mask)[0], read(run.other)[0], read(run.probabilities), read(run.image)
    confidence = read(run.confidence)[0]
    rng = np.random.default_rng(2)
    rows, columns = rng.integers(0, HEIGHT, 30), rng.integers(0, WIDTH, 30)
    for row, column, (lng, lat) in zip(
        rows, columns, degrees(run.mask, (columns + 0.5).tolist(), (rows + 0.5).tolist()), strict=True
    ):
        found = client.get("/point", params={"lng": lng, "lat": lat}).json()
        assert (found["row"], found["column"]) == (row, column)
        assert (found["mask"], found["other"], found["labels"]) == (ids[row, column], *[others[row, column]] * 2)
        assert found["confidence"] == pytest.approx(confidence[row, column] / 254, abs=1e-4)
        assert found["probabilities"] == pytest.approx(shares[:, row, column] / 254, abs=1e-4)
        assert found["image"] == image[:, row, column].tolist()
        assert (found["x"], found["y"]) == pytest.approx(
            (300000 + (column + 0.5) / 2, 2780000 - (row + 0.5) / 2), abs=1e-3
        )


@pytest.mark.parametrize(
    ("crs", "place"),
    [
        ("EPSG:4326", Affine(1e-4, 0, 11.2, 0, -1e-4, 48.3)),
        ("EPSG:32640", Affine(0.4, 0.3, 300000, 0.3, -0.4, 2780000)),  # turned
        ("EPSG:32733", Affine(10, 0, 500000, 0, 10, 6200000)),  # upside down
        ("EPSG:3413", Affine(30, 0, -400000, 0, -30, -1200000)),  # around the pole
        ("EPSG:2056", Affine(0.1, 0, 2600000, 0, -0.1, 1200000)),
        ("EPSG:2263", Affine(3, 0, 980000, 0, -3, 200000)),  # in feet
    ],
)
def test_rasters_of_all_systems_lie_where_they_are_clicked(tmp_path: Path, crs: str, place: Affine) -> None:
    pixels = np.kron(pattern(10, 9)[:, :, 0], np.ones((20, 20), np.uint8))[:, :, None]
    path = write_geotiff(tmp_path / "mask.tif", pixels, crs=crs, transform=place, nodata=255)
    rows, columns = np.random.default_rng(6).integers(0, 180, (2, 20))
    places = degrees(path, (columns + 0.5).tolist(), (rows + 0.5).tolist())
    with serving({"mask": path}) as client:
        view = client.get("/view.json").json()
        assert (view["placed"], view["system"]) == (True, crs)
        zoom = view["layers"][0]["maxzoom"]
        for row, column, (lng, lat) in zip(rows.tolist(), columns.tolist(), places, strict=True):
            found = client.get("/point", params={"lng": lng, "lat": lat}).json()
            assert (found["row"], found["column"], found["mask"]) == (row, column, pixels[row, column, 0])
        row, column = 70, 90  # the middle of a block
        ((lng, lat),) = degrees(path, [column + 0.0], [row + 0.0])
        x, y = tile_at(lng, lat, zoom)
        down = (1 - math.asinh(math.tan(math.radians(lat))) / math.pi) / 2 * 2**zoom
        tile = values(client, "mask", zoom, x, y)
        assert tile[int((down - y) * 256), int(((lng + 180) / 360 * 2**zoom - x) * 256)] == pixels[row, column, 0]


def test_a_click_on_a_raster_without_a_place_tells_its_pixel(tmp_path: Path) -> None:
    pixels = pattern()
    mask = write_geotiff(tmp_path / "mask.tif", pixels, crs=None, transform=None)
    image = write_geotiff(tmp_path / "image.tif", np.repeat(pixels * 40, 3, axis=2), crs=None, transform=None)
    with serving({"mask": mask, "image": image}) as client:
        west, south, east, north = client.get("/view.json").json()["bounds"]
        lng = west + (east - west) * 123.5 / 280
        plane = [math.asinh(math.tan(math.radians(edge))) for edge in (north, south)]
        lat = math.degrees(math.atan(math.sinh(plane[0] + (plane[1] - plane[0]) * 77.5 / 300)))
        found = client.get("/point", params={"lng": lng, "lat": lat}).json()
        ring = [[west, south], [east, south], [east, north], [west, north]]
        table = client.post("/areas", json={"polygons": [ring]}).json()["polygons"][0]
    assert (found["row"], found["column"], found["x"]) == (77, 123, None)
    assert found["mask"] == pixels[77, 123, 0]
    assert found["image"] == [pixels[77, 123, 0] * 40] * 3
    assert [row["pixels"] for row in table["classes"][:5]] == np.bincount(pixels.ravel()).tolist()
    assert {row["hectares"] for row in table["classes"]} == {None}


def test_a_damaged_raster_is_told_in_one_line(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "mask.tif"
    path.write_bytes(run.mask.read_bytes())
    with serving({"mask": path}) as client:
        west, south, east, north = client.get("/view.json").json()["bounds"]
        x, y = tile_at((west + east) / 2, (south + north) / 2, 18)
        path.write_bytes(run.mask.read_bytes()[:2000])
        for answer in (client.get(f"/tiles/mask/18/{x}/{y}"), client.get("/counts")):
            text = answer.json()["error"]
            assert text
            assert "\n" not in text
            assert "Traceback" not in text


def test_names_of_strangers_end_no_element(tmp_path: Path) -> None:
    name = "</script><script>alert(1)</script>"
    path = write_geotiff(tmp_path / "mask.tif", np.zeros((9, 9, 1), np.uint8))
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(FCTL_CLASSES=json.dumps({"0": name}))
    export_page(open_view({"mask": path}), tmp_path / "page.html", zoom=3)
    text = (tmp_path / "page.html").read_text("utf-8")
    assert name not in text
    assert "\\u003c/script>\\u003cscript>alert(1)" in text


def test_a_click_beside_the_mask_tells_nothing(client: TestClient) -> None:
    found = client.get("/point", params={"lng": 10.0, "lat": 50.0}).json()
    assert (found["row"], found["mask"], found["image"]) == (None, None, None)


def test_all_of_a_mask_is_counted_as_its_statistics_are(client: TestClient, run: Run) -> None:
    found = client.get("/counts").json()
    expected = json.loads(run.stats.read_text())
    assert {name: found[name] for name in ("classes", "nodata")} == expected
    different = int((read(run.mask) != read(run.other)).sum())
    assert found["other"] == {"pixels": HEIGHT * WIDTH, "different": different}
    assert found["labels"]["accuracy"] == pytest.approx(1 - different / (HEIGHT * WIDTH), abs=1e-6)


def test_areas_in_a_polygon_are_those_of_its_statistics(client: TestClient, run: Run) -> None:
    answer = client.post("/areas", json={"polygons": [run.ring]})
    assert answer.json()["polygons"] == json.loads(run.stats_of_polygon.read_text())["polygons"]


@pytest.mark.parametrize(
    "polygons", [[], [[[0, 0], [1, 1]]], [[[0, 0], [1, 1], ["x", 2]]], [[[0, 0], [1, 1], [1, float("inf")]]], 7, None]
)
def test_what_is_no_polygon_is_refused(client: TestClient, polygons: object) -> None:
    answer = client.post("/areas", content=json.dumps({"polygons": polygons}))
    assert answer.status_code == 400
    assert "\n" not in answer.json()["error"]


def test_a_polygon_beside_the_mask_is_refused(client: TestClient) -> None:
    answer = client.post("/areas", json={"polygons": [[[1, 1], [2, 1], [2, 2]]]})
    assert (answer.status_code, answer.json()["error"]) == (
        400,
        "expected polygons on the image, found 1 polygon, beside it",
    )


def test_a_body_that_is_too_large_is_refused(client: TestClient) -> None:
    assert client.post("/areas", content=b"[" * (1 << 21)).status_code == 413


# Who may ask, and for what


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"}, {"host": "evil.example:8790"}, {"host": "127.0.0.1.evil.example"}, {"host": ""},
        {"origin": "http://evil.example"}, {"origin": "null"}, {"origin": "http://127.0.0.1:1"},
        {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"},
    ],
)  # fmt: skip
def test_other_hosts_and_pages_are_refused(client: TestClient, headers: dict[str, str]) -> None:
    for path in ("/view.json", "/tiles/mask/0/0/0", "/point?lng=0&lat=0"):
        assert client.get(path, headers=headers).status_code == 403


@pytest.mark.parametrize("host", ["localhost", "localhost:9000", "127.0.0.1:8790", "[::1]:8790", "LOCALHOST."])
def test_this_host_may_be_named_through_a_tunnel(client: TestClient, host: str) -> None:
    assert client.get("/view.json", headers={"host": host, "origin": f"http://{host}"}).status_code == 200


def test_a_server_for_all_answers_to_addresses_and_not_to_names() -> None:
    assert is_ours("192.168.1.4:8790", "0.0.0.0")
    assert not is_ours("192.168.1.4:8790", "127.0.0.1")
    assert not is_ours("evil.example", "0.0.0.0")


def test_a_link_from_elsewhere_opens_the_page_alone(client: TestClient) -> None:
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert client.get("/", headers=headers).status_code == 200
    assert client.get("/view.json", headers=headers).status_code == 403


@pytest.mark.parametrize(
    "path",
    [
        "/static/../layers.py", "/static/..%2flayers.py", "/static/%2e%2e/layers.py", "/static/vendor/maplibre-gl.js",
        "/static/page.html", "/../../etc/passwd", "/tiles/..%2f..%2fetc/0/0/0", "/tiles/image.tif/0/0/0", "/run",
    ],
)  # fmt: skip
def test_nothing_else_is_given_out(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


@pytest.mark.parametrize("tile", ["1/2/0", "0/0/1", "27/0/0", "99/0/0"])
def test_tiles_beyond_the_world_are_refused(client: TestClient, tile: str) -> None:
    assert client.get(f"/tiles/mask/{tile}").status_code == 400


def test_the_page_may_load_its_own_files_alone(client: TestClient) -> None:
    answer = client.get("/")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy
    assert "unsafe" not in policy
    assert "//" not in answer.text.replace("http://www.w3.org", "")
    for name in page.files():
        assert client.get(f"/static/{name}").status_code == 200


def test_a_page_without_its_library_says_so(monkeypatch: pytest.MonkeyPatch, run: Run, tmp_path: Path) -> None:
    monkeypatch.setattr(page, "STATIC", tmp_path)
    with pytest.raises(FctlError, match=r"^MapLibre GL is missing .*; install fctl again"):
        app_of(Exhibit(open_view(run.files())), "127.0.0.1")


# Rasters that do not fit


@pytest.mark.parametrize(
    ("role", "make", "message"),
    [
        ("mask", lambda p: write_geotiff(p, pattern().astype(np.int16)), "class ids in one band of uint8"),
        ("other", lambda p: write_geotiff(p, np.zeros((9, 9, 3), np.uint8)), "class ids in one band of uint8"),
        ("image", lambda p: write_geotiff(p, np.zeros((9, 9, 3), np.uint8), crs=None), "300 x 330 pixels as in"),
        ("probabilities", lambda p: write_geotiff(p, np.zeros((9, 9, 5), np.uint8)), "3 bands, one for each class"),
        ("confidence", lambda p: write_geotiff(p, np.zeros((9, 9, 1), np.int16)), "probabilities as fctl writes them"),
    ],
)
def test_rasters_that_do_not_fit_are_refused(
    run: Run, tmp_path: Path, role: str, make: Callable[[Path], Path], message: str
) -> None:
    with pytest.raises(RasterError, match=message):
        open_view(run.files() | {role: make(tmp_path / "odd.tif")})


def test_a_mask_of_others_has_a_class_for_every_id(tmp_path: Path) -> None:
    with serving({"mask": write_geotiff(tmp_path / "mask.tif", pattern())}) as client:
        view, counts = client.get("/view.json").json(), client.get("/counts").json()
    assert not view["named"]
    assert [row["class"] for row in counts["classes"] if row["pixels"]] == [f"class {index}" for index in range(5)]
    assert len({tuple(info["colour"]) for info in view["classes"][:30]}) == 30


def test_tiles_are_kept_within_their_bytes() -> None:
    cache = ByteCache(1000)
    for number in range(50):
        cache.put(number, bytes(90))
        cache.get(0)
    assert cache.size <= 1000
    assert cache.get(0) is not None
    assert cache.get(1) is None
    cache.put("large", bytes(1001))
    assert cache.get("large") is None
