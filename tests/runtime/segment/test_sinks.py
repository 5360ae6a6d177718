"""Outputs behind one protocol: those that come with fctl, and one that is added as a user would."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fctl.runtime import Paths, Segmenter
from fctl.runtime.errors import InputError
from fctl.runtime.raster.source import read_thumbnail
from fctl.runtime.segment.picture import PictureScale
from fctl.runtime.segment.pipeline import Block
from fctl.runtime.segment.sinks import SINKS, BlockWriter, MaskedRaster
from fctl.runtime.segment.sinks.preview import draw_preview
from tests.conftest import write_geotiff
from tests.runtime.naive import slope_of


class CountSink:
    """A text file with the pixels of each class."""

    name = "counts"
    suffix = "_counts.txt"
    needs_probabilities = False
    needs_picture = False

    def disk(self, height: int, width: int, classes: int) -> int:
        return 20 * classes

    def memory(self, width: int) -> int:
        return 10_000_000 * width

    @contextmanager
    def open(self, path: Path, raster: MaskedRaster) -> Iterator[BlockWriter]:
        counts = np.zeros(256, np.int64)

        def write(block: Block) -> None:
            counts[:] += np.bincount(block.ids.ravel(), minlength=256)

        yield write
        path.write_text("\n".join(f"{info.name} {counts[index]}" for index, info in enumerate(raster.classes)))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return write_geotiff(tmp_path / "image.tif", slope_of(100, 70))


def test_every_sink_is_registered_under_its_own_name_and_suffix() -> None:
    assert {name: sink.name for name, sink in SINKS.items()} == {name: name for name in SINKS}
    assert len({sink.suffix for sink in SINKS.values()}) == len(SINKS)
    assert {"mask", "probabilities", "preview"} <= SINKS.keys()


def test_a_sink_of_ones_own_takes_the_blocks_and_counts_for_the_estimate(
    tmp_path: Path, image: Path, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SINKS, "counts", CountSink())
    paths = Paths(mask=tmp_path / "mask.tif", others={"counts": tmp_path / "counts.txt"})
    report = segmenter.segment_file(image, paths)
    assert (tmp_path / "counts.txt").read_text() == "\n".join(f"{name} {n}" for name, n in report.pixels.items())
    estimate = segmenter.estimate(image, paths, overwrite=True)
    assert estimate.disk == 100 * 70 + 20 * 3
    assert 700_000_000 < estimate.memory < 900_000_000  # 10 MB a column, and the slack


def test_an_output_that_nobody_knows_is_refused_before_anything_is_written(
    tmp_path: Path, image: Path, segmenter: Segmenter
) -> None:
    paths = Paths(mask=tmp_path / "mask.tif", others={"vectors": tmp_path / "vectors.gpkg"})
    with pytest.raises(InputError, match=r"outputs: expected .*mask.*, found vectors"):
        segmenter.segment_file(image, paths)
    assert not (tmp_path / "mask.tif").exists()


@pytest.mark.parametrize("size", [(1, 1), (100, 70), (1700, 40), (30, 2300)])
def test_the_preview_shows_the_mask_as_gdal_shrinks_it(
    tmp_path: Path, segmenter: Segmenter, size: tuple[int, int]
) -> None:
    """The mask in the preview is sampled from blocks that come by; GDAL samples the finished file."""
    image = write_geotiff(tmp_path / "image.tif", slope_of(*size))
    paths = Paths(mask=tmp_path / "mask.tif", preview=tmp_path / "preview.png")
    segmenter.segment_file(image, paths)
    small = PictureScale(*size).size
    with Image.open(tmp_path / "preview.png") as found:
        pixels = np.asarray(found)[: small[0], : small[1]]
    ids = read_thumbnail(paths.mask, *small)
    ground = np.asarray(Image.fromarray(slope_of(*size)).resize(small[::-1], Image.Resampling.BOX))
    if small == size:  # the ground as it is: the picture follows from image and mask
        drawn = np.asarray(draw_preview(slope_of(*size), ids, segmenter.manifest.classes))
        np.testing.assert_array_equal(pixels, drawn[: small[0], : small[1]])
    else:  # GDAL's averages are not Pillow's: the colour of the class is nearer than that of any other
        colours = np.array([info.colour for info in segmenter.manifest.classes], np.float64)
        over = pixels[:, :, None] - (0.55 * ground[:, :, None] + 0.45 * colours)
        nearest = np.abs(over).sum(axis=3).argmin(axis=2)
        assert (nearest == ids).mean() > 0.99
