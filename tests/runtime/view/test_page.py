"""The page in a real browser: Debian's Chromium, without a screen."""

from __future__ import annotations

import io
import json
import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import rasterio
from PIL import Image

for package in ("rio_tiler", "starlette", "uvicorn", "shapely", "playwright"):
    pytest.importorskip(package)
CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("needs Chromium: apt-get install chromium", allow_module_level=True)

import uvicorn  # noqa: E402
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright  # noqa: E402

from fctl.runtime.view.app import Exhibit, app_of  # noqa: E402
from fctl.runtime.view.counts import polygon_tables  # noqa: E402
from fctl.runtime.view.export import export_page  # noqa: E402
from fctl.runtime.view.layers import View, open_view  # noqa: E402
from tests.runtime.view.conftest import HEIGHT, WIDTH, Run, degrees  # noqa: E402

PATIENCE = 30_000  # milliseconds: the graphics are computed by a slow processor
WIDE, HIGH = 760, 440  # of the page: small, for the same reason
X, Y = WIDE // 2, HIGH // 2  # its middle, which links name
FLAGS = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist", "--no-sandbox"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def view(run: Run) -> View:
    return open_view(run.files("image", "other", "confidence", "probabilities"))


@contextmanager
def served(exhibit: Exhibit) -> Iterator[str]:
    """The address of a server."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app_of(exhibit, "127.0.0.1"), log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def address(view: View) -> Iterator[str]:
    with served(Exhibit(view)) as address:
        yield address


@contextmanager
def opened(browser: Browser, url: str, **settings: Any) -> Iterator[tuple[Page, list[str]]]:
    """The page once its tiles are there; what the console said of trouble; addresses that were asked for."""
    context: BrowserContext = browser.new_context(viewport={"width": WIDE, "height": HIGH}, **settings)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    trouble: list[str] = []

    def note(text: str) -> None:
        if "GPU stall" not in text and "ERR_ABORTED" not in text:  # slow graphics; tiles that are not wanted any more
            trouble.append(text)

    page.on("console", lambda message: note(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: note(str(error)))
    page.on("requestfailed", lambda request: note(f"{request.url} {request.failure}"))
    page.goto(url)
    page.wait_for_selector("body.ready")
    yield page, trouble
    context.close()


def until(page: Page, fits: Callable[[], bool]) -> None:
    """Wait; the page's policy forbids the code that Playwright would wait with."""
    for _ in range(PATIENCE // 100):
        if fits():
            return
        page.wait_for_timeout(100)
    raise AssertionError("it did not come")


def off_by(page: Page, x: int, y: int, colour: tuple[int, int, int]) -> int:
    """How far the colour on the screen at a place is from another one."""
    clip = {"x": x, "y": y, "width": 1, "height": 1}
    picture = Image.open(io.BytesIO(page.screenshot(clip=clip)))  # type: ignore[arg-type]
    return int(np.abs(np.asarray(picture.convert("RGB"))[0, 0].astype(int) - colour).max())


def ids(run: Run) -> Any:
    with rasterio.open(run.mask) as dataset:
        return dataset.read(1)


def plain(run: Run) -> tuple[int, int]:
    """The row and the column of a pixel whose neighbours all have its class."""
    found = ids(run)
    rows, columns = np.mgrid[30:300:7, 30:270:7]
    for row, column in zip(rows.ravel().tolist(), columns.ravel().tolist(), strict=True):
        if len(np.unique(found[row - 4 : row + 5, column - 4 : column + 5])) == 1:
            return row, column
    raise AssertionError("the mask has no plain place")


def link_to(run: Run, row: int, column: int, zoom: float = 20) -> str:
    ((lng, lat),) = degrees(run.mask, [column + 0.5], [row + 0.5])
    return f"#at={lat:.8f},{lng:.8f}&zoom={zoom}"


def test_the_page_shows_the_class_that_a_click_tells(browser: Browser, address: str, run: Run, view: View) -> None:
    row, column = plain(run)
    index = int(ids(run)[row, column])
    info = view.classes[index]
    with opened(browser, f"{address}{link_to(run, row, column)}&opacity=100&image=off") as (page, trouble):
        assert page.title() == "mask.tif"
        until(page, lambda: off_by(page, X, Y, info.colour) <= 2)
        page.mouse.click(X, Y)
        assert page.wait_for_selector(".told h3[data-id]").get_attribute("data-id") == str(index)
        text = page.inner_text(".told")
        assert info.name in text
        assert f"{row}, {column}" in text
        page.keyboard.press("Escape")
        page.wait_for_selector("#classes .figure")
        expected = [f"{row['share'] * 100:.1f} %" for row in json.loads(run.stats.read_text())["classes"]]
        assert page.locator("#classes .figure:nth-of-type(2)").all_inner_texts() == expected
        page.locator(f'#classes input[value="{index}"]').uncheck()
        until(page, lambda: off_by(page, X, Y, info.colour) > 20)
        assert f"off={index}" in page.url
        assert trouble == []


def test_the_divider_swipes_between_image_and_mask(browser: Browser, address: str, run: Run, view: View) -> None:
    row, column = plain(run)
    colour = view.classes[ids(run)[row, column]].colour
    link = f"{link_to(run, row, column)}&opacity=100&mode=swipe&left=image&show=mask&divider=46"
    with opened(browser, address + link) as (page, trouble):
        until(page, lambda: off_by(page, X, Y, colour) <= 2)
        page.mouse.move(0.46 * WIDE, 200)
        page.mouse.down()
        page.mouse.move(0.8 * WIDE, 200, steps=3)
        page.mouse.up()
        assert page.get_attribute("#divider", "aria-valuenow") == "80"
        until(page, lambda: off_by(page, X, Y, colour) > 20)
        page.keyboard.press("ArrowRight")
        assert page.get_attribute("#divider", "aria-valuenow") == "82"
        assert "divider=82" in page.url
        assert trouble == []


def test_a_drawn_polygon_has_the_areas_of_the_statistics(browser: Browser, address: str, view: View) -> None:
    with opened(browser, address) as (page, trouble):
        page.keyboard.press("p")
        for x, y in ((480, 110), (600, 150), (590, 320), (440, 290)):
            page.mouse.click(x, y)
        page.keyboard.press("Enter")
        page.wait_for_selector("#areas tr[data-id]")
        rows = page.locator("#areas tr[data-id]").all()
        found = {int(str(row.get_attribute("data-id"))): int(str(row.get_attribute("data-pixels"))) for row in rows}
        corners = re.search(r"area=([^&]+)", unquote(page.url))
        assert corners is not None
        ring = [(float(lng), float(lat)) for lng, lat in (corner.split(",") for corner in corners[1].split(";"))]
        assert len(ring) == 4
        assert trouble == []
    ((table,),) = polygon_tables(view, [ring]).values()  # type: ignore[misc]  # test_server.py compares it with a run's
    assert found == {row["id"]: row["pixels"] for row in table["classes"] if row["pixels"]}  # type: ignore[index]


def test_two_masks_lie_side_by_side_and_the_link_keeps_the_area(browser: Browser, address: str, run: Run) -> None:
    ring = ";".join(f"{lng:.9f},{lat:.9f}" for lng, lat in run.ring)
    link = f"{address}#mode=side&left=mask&show=differences&area={ring}"
    with opened(browser, link, color_scheme="dark") as (page, trouble):
        assert [page.inner_text("#tag-left"), page.inner_text("#tag-right")] == ["Mask", "Differences"]
        boxes = [page.locator(f"#{name} canvas").bounding_box() for name in ("left", "right")]
        assert boxes[0] is not None
        assert boxes[1] is not None
        assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"] + 1
        zoom = "Number(new URLSearchParams(location.hash.slice(1)).get('zoom'))"
        until(page, lambda: page.evaluate(zoom) > 0)  # the right map's
        before = page.evaluate(zoom)
        page.mouse.move(X - 20, Y)  # on the left one
        page.mouse.wheel(0, -300)
        until(page, lambda: page.evaluate(zoom) > before)
        page.wait_for_selector("#areas tr[data-id]")
        rows = page.locator("#areas tr[data-id]").all()
        expected = json.loads(run.stats_of_polygon.read_text())["polygons"][0]["classes"]
        assert [row.get_attribute("data-pixels") for row in rows] == [str(row["pixels"]) for row in expected]
        assert trouble == []


def test_the_page_is_readable_on_a_phone(browser: Browser, address: str) -> None:
    with opened(browser, address, has_touch=True) as (page, trouble):
        page.set_viewport_size({"width": 360, "height": 640})
        page.reload()
        page.wait_for_selector("body.ready")
        assert not page.is_visible("#body")
        page.tap("#fold")
        assert page.is_visible("#classes")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        small = page.evaluate("""[...document.querySelectorAll("#panel button, #classes label")].filter((one) =>
            one.offsetParent && !one.closest("h2") && one.getBoundingClientRect().height < 32).length""")
        assert small == 0
        assert trouble == []


def test_the_page_follows_a_run(browser: Browser, run: Run, view: View) -> None:
    told = {"done": 3, "total": 8, "speed": 2.5, "left": 200, "memory": 1_500_000_000, "over": False}
    other = View(
        layers={"mask": view.layers["other"]}, classes=view.classes, is_named=True, georeference=view.georeference
    )
    exhibit = Exhibit(other, lambda: told)
    with served(exhibit) as address, opened(browser, address) as (page, trouble):
        until(page, lambda: page.inner_text("#run") == "37 %\n2.5 patches/s · 1.5 GB · 3 min left")
        until(page, lambda: page.inner_text("#total").startswith("so far, "))
        told |= {"done": 8, "over": True}
        exhibit.show(view)
        until(page, lambda: page.inner_text("#run-share") == "done")
        until(page, lambda: page.inner_text("#total").startswith(f"{HEIGHT * WIDTH:,} px"))
        assert page.get_attribute("#run-bar", "aria-valuenow") == "100"
        assert trouble == []


def test_a_page_of_one_file_needs_nobody(browser: Browser, run: Run, tmp_path: Path) -> None:
    view = open_view(run.files("image"))
    export_page(view, tmp_path / "page.html")
    row, column = plain(run)
    url = f"{(tmp_path / 'page.html').as_uri()}{link_to(run, row, column)}&opacity=100"
    with opened(browser, url, offline=True) as (page, trouble):
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        info = view.classes[ids(run)[row, column]]
        until(page, lambda: off_by(page, X, Y, info.colour) <= 2)
        page.mouse.click(X, Y)
        assert page.wait_for_selector(".told h3[data-id]").inner_text() == info.name
        page.locator(f'#classes input[value="{ids(run)[row, column]}"]').uncheck()
        until(page, lambda: off_by(page, X, Y, info.colour) > 20)
        assert [name for name in asked if not name.startswith(("data:", "blob:"))] == []
        assert trouble == []
