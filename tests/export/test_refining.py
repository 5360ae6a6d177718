"""CascadePSP from its checkpoint to refined masks, against a plain loop over the raster."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("torch")

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray
from PIL import Image
from rasterio.transform import from_origin
from torch.nn import functional as F

from fctl.calib.choose import choose_patches, cut_patches
from fctl.calib.sample import sample_patches, shipped_images
from fctl.export.card import ExportOptions
from fctl.export.cli.command import app
from fctl.export.pipeline import export_bundle
from fctl.export.precision.add import PrecisionOptions, add_precision
from fctl.model.backbones import resnet50
from fctl.model.cascadepsp import CascadePsp
from fctl.runtime.bundle.store import read_bundle
from fctl.runtime.cli.refine import coarse_place
from fctl.runtime.cli.run import run_app
from fctl.runtime.errors import InputError, ParityError, RasterError
from fctl.runtime.segment.batches import PatchBatch, on_host
from fctl.runtime.segment.opening import open_network
from fctl.runtime.segment.results import Paths
from fctl.runtime.segment.segmenter import Segmenter
from fctl.runtime.segment.shards.folder import RunFolder

from ..conftest import InProcess, write_geotiff
from ..model.refiners import CLASSES, OVERLAP, PATCH, save_refiner
from . import builds

HEIGHT, WIDTH = 190, 250
TINY = Path(__file__).parents[1] / "data" / "tiny.fctl"

Ids = NDArray[np.uint8]
Scores = NDArray[np.float32]


@dataclass(frozen=True, repr=False)
class Case:
    """A network, its bundle, an image and a coarse mask of it, in memory and as files."""

    network: CascadePsp
    bundle: Path
    image: Path
    mask: Path
    pixels: Ids
    ids: Ids


@pytest.fixture(scope="module")
def shallow_resnet() -> Iterator[None]:
    """ResNet-50 with one block a stage: a bundle holds it five times over, and tracing takes long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resnet50, "_BLOCKS", (1, 1, 1, 1))
        yield


@pytest.fixture(scope="module")
def case(shallow_resnet: None, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Everything, made once."""
    folder = tmp_path_factory.mktemp("refiner")
    network = save_refiner(folder / "net.pt")
    export_bundle(folder / "net.pt", folder / "refiner.fctl", ExportOptions())
    pixels = np.asarray(Image.open(shipped_images()[0]))[:HEIGHT, :WIDTH].copy()
    ids = np.zeros((HEIGHT, WIDTH), np.uint8)  # the upper left of it has no border
    ids[100:150, 120:220], ids[140:, 60:150] = 1, 2
    ids[:20, 240:] = 255  # unknown
    image = write_geotiff(folder / "image.tif", pixels)
    mask = write_geotiff(folder / "mask.tif", ids[:, :, None], nodata=255)
    return Case(network, folder / "refiner.fctl", image, mask, pixels, ids)


@pytest.fixture(scope="module")
def segmenter(case: Case) -> Iterator[Segmenter]:
    """The bundle in ONNX Runtime."""
    with Segmenter(case.bundle, backend="onnxruntime", batch=3) as opened:
        yield opened


def refined(network: CascadePsp, image: torch.Tensor, mask: torch.Tensor, levels: int) -> torch.Tensor:
    """The logits (P, P) of one class, from scaled pixels (1, 3, P, P) and its mask (P, P) from 0 to 1."""
    coarse = 2 * mask[None, None] - 1
    inputs = [coarse, coarse, coarse]
    for stride in (8, 4, 1)[-levels:]:
        features = network.encoder.backbone(torch.cat([image, *inputs], 1))
        scores = network.decoder(features, image, stride)
        inputs = [coarse, 2 * torch.sigmoid(scores[0]) - 1, 2 * torch.sigmoid(scores[-1]) - 1]
    return scores[-1][0, 0]


def starts(side: int) -> list[int]:
    """First pixels of the tiles along a side: at a fixed stride, the last one flush with the end."""
    return [*range(0, side - PATCH, PATCH - OVERLAP), side - PATCH]


def shrunk(band: Ids) -> torch.Tensor:
    """A band of the whole image as the global step sees it."""
    return torch.from_numpy(np.asarray(Image.fromarray(band).resize((PATCH, PATCH), Image.Resampling.BOX)).copy())


def plain(network: CascadePsp, pixels: Ids, ids: Ids) -> tuple[Scores, NDArray[np.bool_]]:
    """Probabilities (classes, H, W) of a mask refined as described, and which pixels were looked at."""
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (network.config.mean, network.config.std))
    whole = (torch.stack([shrunk(pixels[:, :, band]) for band in range(3)])[None].float() - mean) / std
    masks = [shrunk(np.where(ids == index, 255, 0).astype(np.uint8)).float() / 255 for index in range(CLASSES)]
    first = torch.stack([torch.sigmoid(refined(network, whole, mask, 3)) for mask in masks])
    height, width = ids.shape
    sums, counts = np.zeros((CLASSES, height, width), np.float32), np.zeros((height, width), np.float32)
    for y in starts(height):
        for x in starts(width):
            here = np.s_[y : y + PATCH, x : x + PATCH]
            if len(set(ids[here].ravel().tolist()) - {255}) < 2:
                continue
            rows = (torch.arange(y, y + PATCH) + 0.5) / height * 2 - 1  # as grid_sample has them
            columns = (torch.arange(x, x + PATCH) + 0.5) / width * 2 - 1
            grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij")[::-1], dim=-1)[None]
            cropped = F.grid_sample(first[None], grid, padding_mode="border", align_corners=False)[0]
            patch = (torch.from_numpy(pixels[here]).movedim(-1, 0)[None].float() - mean) / std
            logits = torch.stack([refined(network, patch, mask, 2) for mask in cropped])
            odds = (logits - torch.linspace(0, 0.01, CLASSES).reshape(-1, 1, 1)).exp()
            sums[(slice(None), *here)] += (odds / odds.sum(0)).numpy()
            counts[here] += 1
    means: Scores = sums / np.maximum(counts, 1)
    return means, counts > 0


@pytest.fixture(scope="module")
def expected(case: Case) -> tuple[Scores, NDArray[np.bool_]]:
    """What the plain loop gives."""
    with torch.inference_mode():
        return plain(case.network, case.pixels, case.ids)


def test_a_refiner_says_what_it_takes(case: Case) -> None:
    manifest = read_bundle(case.bundle).manifest
    assert manifest.refines is not None
    assert (manifest.refines.bands, manifest.input.bands, manifest.scores) == (3, 3 + CLASSES, "probabilities")
    (effect,) = manifest.parity[0].contexts
    assert effect.change > 0.01
    assert all(verdict.passed for verdict in manifest.engines)


def test_an_array_is_refined_as_described(
    case: Case, segmenter: Segmenter, expected: tuple[Scores, NDArray[np.bool_]]
) -> None:
    probabilities, seen = expected
    found = segmenter.segment(case.pixels, probabilities=True, coarse=case.ids)
    unknown = case.ids == 255
    assert 0.2 < seen.mean() < 0.9
    assert found.probabilities is not None
    np.testing.assert_allclose(found.probabilities[:, seen & ~unknown], probabilities[:, seen & ~unknown], atol=2e-3)
    wanted = np.where(seen, probabilities.argmax(0), case.ids)
    wanted[unknown] = 255
    assert (found.ids == wanted).mean() > 0.999
    assert (found.ids != case.ids).mean() > 0.05  # it does something
    kept = ~seen & ~unknown
    np.testing.assert_array_equal(found.ids[kept], case.ids[kept])
    np.testing.assert_array_equal(found.probabilities[:, kept].argmax(0), case.ids[kept])
    assert set(np.unique(found.probabilities[:, kept])) == {0, 1}
    assert np.isnan(found.probabilities[:, unknown]).all()


def test_a_file_is_refined_as_the_array_is(
    case: Case, segmenter: Segmenter, in_process: InProcess, tmp_path: Path
) -> None:
    result = in_process(
        run_app, case.image, "--bundle", case.bundle, "--coarse", case.mask, "--backend", "onnxruntime", "--batch", 3,
        "-o", tmp_path, "--probabilities", "float32", "--confidence",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "without a border skipped" in result.stdout + result.stderr
    found = segmenter.segment(case.pixels, probabilities=True, coarse=case.ids)
    with rasterio.open(tmp_path / "image_mask.tif") as mask:
        np.testing.assert_array_equal(mask.read(1), found.ids)
        assert mask.tags()["FCTL_BUNDLE"] == "refiner"
        assert len(mask.tags()["FCTL_COARSE"]) == 64  # of a file that says nothing of itself
    with rasterio.open(tmp_path / "image_prob.tif") as probabilities:
        np.testing.assert_array_equal(probabilities.read(), found.probabilities)


def test_tiles_without_borders_are_not_inferred(case: Case, segmenter: Segmenter, tmp_path: Path) -> None:
    tiles = [np.s_[y : y + PATCH, x : x + PATCH] for y in starts(HEIGHT) for x in starts(WIDTH)]
    bordered = [tile for tile in tiles if len(set(case.ids[tile].ravel().tolist()) - {255}) > 1]
    report = segmenter.segment_file(case.image, Paths(mask=tmp_path / "mask.tif"), coarse=case.mask)
    assert (report.computed, report.skipped) == (len(bordered), len(tiles) - len(bordered))
    flat = np.full_like(case.ids, 2)
    np.testing.assert_array_equal(segmenter.segment(case.pixels, coarse=flat).ids, flat)


def test_parts_of_a_refined_mask_make_the_whole(
    case: Case, segmenter: Segmenter, in_process: InProcess, tmp_path: Path
) -> None:
    arguments = (case.image, "--bundle", case.bundle, "--coarse", case.mask, "-o", tmp_path, "--no-preview")
    for part in ("1/2", "2/2"):
        made = in_process(run_app, *arguments, "--backend", "onnxruntime", "--batch", 3, "--part", part)
        assert made.returncode == 0, made.stderr
    assert in_process(run_app, *arguments, "--assemble").returncode == 0
    with rasterio.open(tmp_path / "image_mask.tif") as mask:
        np.testing.assert_array_equal(mask.read(1), segmenter.segment(case.pixels, coarse=case.ids).ids)
    again = in_process(run_app, *arguments, "--skip-existing")
    assert again.returncode == 4, again.stderr  # all are there
    case.mask.touch()  # newer than what was made of it
    assert in_process(run_app, *arguments, "--skip-existing", "--overwrite", "--dry-run").returncode == 0


def test_turned_patches_are_refined_too(case: Case) -> None:
    side = 4 * PATCH  # whose tiles lie alike from all sides, and which shrinks by whole pixels
    pixels, ids = np.asarray(Image.open(shipped_images()[0]))[:side, :side].copy(), np.zeros((side, side), np.uint8)
    ids[100:150, 120:220], ids[140:, 60:150] = 1, 2
    with Segmenter(case.bundle, backend="onnxruntime", tta=True) as segmenter:
        upright = segmenter.segment(pixels, coarse=ids).ids
        turned = segmenter.segment(np.rot90(pixels).copy(), coarse=np.rot90(ids).copy()).ids
        flipped = segmenter.segment(pixels[::-1].copy(), coarse=ids[::-1].copy()).ids
    np.testing.assert_array_equal(upright[::-1], flipped)
    assert (np.rot90(upright) == turned).mean() > 0.95  # pixels are rounded when they are shrunk along each side
    with Segmenter(case.bundle, backend="onnxruntime") as segmenter:
        assert (segmenter.segment(pixels, coarse=ids).ids != upright).any()


def test_the_builder_of_tensorrt_rtx_takes_its_graphs(case: Case, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    bundle = read_bundle(case.bundle)
    for found, dtype in ((bundle, "fp32"), (builds.halved(bundle, tmp_path), "fp16")):
        layers = builds.layers_of(found, dtype)  # type: ignore[arg-type]
        assert set(layers) == {"encoder", "segmenter"}
        assert all(set(kinds) <= {{"fp32": "Float", "fp16": "Half"}[dtype]} for kinds in layers.values())
    layers = builds.layers_of(builds.quantised(bundle, tmp_path), "int8")
    assert all(len(kinds["Int8"]) > len(kinds["Float"]) > 0 for kinds in layers.values())  # some are faster in fp32


def test_the_gate_of_fp16_judges_a_refiner_by_its_classes(case: Case, tmp_path: Path) -> None:
    """They are steep at borders: with random weights borders are everywhere, and too many pixels change their class."""
    with pytest.raises(ParityError, match="pixels of the same class") as caught:
        add_precision(read_bundle(case.bundle), tmp_path / "half.fctl", PrecisionOptions(precision="fp16"))
    assert "max" not in str(caught.value)
    assert not (tmp_path / "half.fctl").exists()


class TestPatchesOfOtherPrecisions:
    """fp16 and int8 are judged, and int8 is calibrated, on the masks of a folder: stand-ins are like no mask."""

    @pytest.fixture
    def masks(self, case: Case, tmp_path: Path) -> Path:
        """The folder."""
        shutil.copy(case.mask, tmp_path / "image_mask.tif")
        return tmp_path

    def is_at(self, case: Case, batch: PatchBatch) -> bool:
        """Whether a patch has the mask of its place."""
        tile = batch.tiles[0]
        ids = case.ids[tile.y : tile.bottom, tile.x : tile.right]
        return np.array_equal(on_host(batch.patch)[0, 3:].argmax(0)[ids != 255], ids[ids != 255])

    def test_they_have_masks_with_borders(self, case: Case, masks: Path) -> None:
        manifest, images = read_bundle(case.bundle).manifest, (case.image,)
        batches = sample_patches(manifest, images, 4, 0, masks)
        assert len(batches) == 4 and all(self.is_at(case, batch) for batch in batches)
        assert not all(self.is_at(case, batch) for batch in sample_patches(manifest, images, 4, 0))
        with closing(open_network(read_bundle(case.bundle), "onnxruntime", "fp32", 2, False)) as network:
            chosen = choose_patches(network, images, 4, 0, masks=masks)
        cut = list(cut_patches(manifest, chosen))
        assert len(cut) == 4 and all(self.is_at(case, batch) for batch in cut)
        assert all(on_host(batch.patch)[0, 3:].any((1, 2)).sum() > 1 for batch in cut)  # what it never sees is left out

    def test_masks_without_borders_are_told(self, case: Case, masks: Path) -> None:
        write_geotiff(masks / "image_mask.tif", np.ones_like(case.ids)[:, :, None])
        with (
            closing(open_network(read_bundle(case.bundle), "onnxruntime", "fp32", 2, False)) as network,
            pytest.raises(InputError, match=r"a border in their coarse mask, found none in .*image\.tif"),
        ):
            choose_patches(network, [case.image], 4, 0, masks=masks)

    def test_a_mask_that_is_missing_is_told(self, case: Case, in_process: InProcess, tmp_path: Path) -> None:
        for precision, images in (("fp16", "--patches"), ("int8", "--calib")):
            arguments = (case.bundle, "--precision", precision, images, case.image, "--out", tmp_path / "x.fctl")
            done = in_process(app, *arguments, "--coarse", tmp_path)
            assert done.returncode == 1 and not (tmp_path / "x.fctl").exists()
            line = done.stderr.splitlines()[-1]
            assert f"--coarse: {tmp_path}: expected the mask of image: image_mask.tif or image.tif or image.png" in line

    def test_only_refiners_take_masks(self, case: Case, in_process: InProcess, tmp_path: Path) -> None:
        arguments = ("--precision", "fp16", "--coarse", tmp_path, "--out", tmp_path / "x.fctl")
        done = in_process(app, TINY, *arguments)
        assert done.returncode == 1 and "--coarse: bundle tiny makes masks itself, and refines none" in done.stderr
        done = in_process(app, TINY, "--fmt", "trt", "--coarse", tmp_path)
        assert done.returncode == 2 and "--coarse is for --precision fp16 and int8" in " ".join(done.stderr.split())


class TestAfterAnotherBundle:
    """`--bundle coarse.fctl --refine refiner.fctl`."""

    @pytest.fixture
    def arguments(self, case: Case, tmp_path: Path) -> tuple[object, ...]:
        """Of the command."""
        return (
            case.image, "--bundle", TINY, "--refine", case.bundle, "--backend", "onnxruntime", "--batch", 3,
            "-o", tmp_path, "--no-preview",
        )  # fmt: skip

    @pytest.fixture
    def both(self, case: Case, segmenter: Segmenter) -> Ids:
        """What both bundles give, one after the other."""
        with Segmenter(TINY, backend="onnxruntime") as first:
            return segmenter.segment(case.pixels, coarse=first.segment(case.pixels).ids).ids

    def test_its_mask_is_refined(
        self, both: Ids, in_process: InProcess, tmp_path: Path, arguments: tuple[object, ...]
    ) -> None:
        result = in_process(run_app, *arguments)
        assert result.returncode == 0, result.stderr
        with rasterio.open(tmp_path / "image_mask.tif") as mask:
            np.testing.assert_array_equal(mask.read(1), both)
            assert mask.tags()["FCTL_BUNDLE"] == "refiner"
            assert json.loads(mask.tags()["FCTL_COARSE"])["FCTL_BUNDLE"] == "tiny"
        assert not list(tmp_path.glob("*coarse*"))
        assert in_process(run_app, *arguments, "--skip-existing").returncode == 4
        assert in_process(run_app, *arguments, "--tta", "--skip-existing").returncode == 1  # exists, made otherwise

    def test_it_goes_on_with_the_coarse_mask(
        self, both: Ids, in_process: InProcess, tmp_path: Path, arguments: tuple[object, ...]
    ) -> None:
        (tmp_path / "image_mask.tif").mkdir()  # so that what is refined has no place
        assert in_process(run_app, *arguments, "--resume").returncode == 1
        (tmp_path / "image_mask.tif").rmdir()
        with Segmenter(TINY, backend="onnxruntime", batch=3) as first:
            first.segment_file(arguments[0], Paths(mask=coarse_place(tmp_path / "image_mask.tif")))  # type: ignore[arg-type]
        before = coarse_place(tmp_path / "image_mask.tif").stat().st_ino
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(RunFolder, "commit", _ended)
            assert in_process(run_app, *arguments, "--resume").returncode == 1
        assert coarse_place(tmp_path / "image_mask.tif").stat().st_ino == before  # not made once more
        assert in_process(run_app, *arguments, "--resume").returncode == 0
        with rasterio.open(tmp_path / "image_mask.tif") as mask:
            np.testing.assert_array_equal(mask.read(1), both)
        assert not list(tmp_path.glob("*coarse*"))

    def test_a_part_of_the_image_is_that_of_the_whole(
        self, both: Ids, in_process: InProcess, tmp_path: Path, arguments: tuple[object, ...]
    ) -> None:
        result = in_process(run_app, *arguments, "--window", "60,50,120,90")
        assert result.returncode == 0, result.stderr
        with rasterio.open(tmp_path / "image_mask.tif") as mask:
            np.testing.assert_array_equal(mask.read(1), both[50:140, 60:180])

    @pytest.mark.parametrize("more", [("--part", "1/2"), ("--workers", 2), ("--assemble",), ("--dry-run",)])
    def test_what_two_bundles_cannot_do(
        self, in_process: InProcess, arguments: tuple[object, ...], more: tuple[object, ...]
    ) -> None:
        result = in_process(run_app, *arguments, *more)
        assert result.returncode == 1
        assert result.stderr.count("\n") == 1
        assert "--coarse" in result.stderr


def _ended(*_: object) -> None:
    raise OSError("the disk is full")


class TestBadInput:
    def refused(self, in_process: InProcess, out: Path, *arguments: object) -> str:
        """The one line with which fctl-run ends, having left nothing."""
        result = in_process(run_app, *arguments, "--backend", "onnxruntime", "-o", out)
        assert result.returncode == 1
        lines = [line for line in result.stderr.splitlines() if not line.startswith("bundle ")]
        assert len(lines) == 1, result.stderr
        assert not out.exists() or not list(out.iterdir())
        return lines[0]

    def test_a_refiner_needs_a_mask(
        self, case: Case, segmenter: Segmenter, in_process: InProcess, tmp_path: Path
    ) -> None:
        with pytest.raises(InputError, match="bundle refiner refines the mask"):
            segmenter.segment(case.pixels)
        with pytest.raises(InputError, match="refines the mask"):
            segmenter.segment_file(case.image, Paths(mask=tmp_path / "mask.tif"))
        line = self.refused(in_process, tmp_path / "out", case.image, "--bundle", case.bundle)
        assert "give that mask with --coarse, or name this bundle with --refine" in line

    def test_another_bundle_takes_none(self, case: Case, in_process: InProcess, tmp_path: Path) -> None:
        out = tmp_path / "out"
        assert "bundle tiny makes masks itself" in self.refused(
            in_process, out, case.image, "--bundle", TINY, "--coarse", case.mask
        )
        line = self.refused(in_process, out, case.image, "--bundle", TINY, "--refine", TINY)
        assert "--refine: bundle tiny makes masks itself" in line
        line = self.refused(in_process, out, case.image, "--bundle", case.bundle, "--refine", case.bundle)
        assert "--bundle: bundle refiner refines masks, and makes none" in line

    def test_classes_must_be_the_same(self, case: Case, in_process: InProcess, tmp_path: Path) -> None:
        line = self.refused(in_process, tmp_path / "out", case.image, "--bundle", "default", "--refine", case.bundle)
        assert "expected the classes of bundle" in line
        assert "found red, green, blue" in line

    def test_one_mask_is_for_one_image(self, case: Case, in_process: InProcess, tmp_path: Path) -> None:
        other = write_geotiff(tmp_path / "other.tif", case.pixels)
        line = self.refused(
            in_process, tmp_path / "out", case.image, other, "--bundle", case.bundle, "--coarse", case.mask
        )
        assert "--coarse: expected one image, whose mask it is, found 2 images" in line
        line = self.refused(
            in_process, tmp_path / "out", case.image, "--bundle", TINY, "--refine", case.bundle, "--coarse", case.mask
        )
        assert "give one of them" in line

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda ids: ids[:-1], "expected a mask of 190 x 250 pixels"),
            (lambda ids: np.where(ids == 2, 7, ids).astype(np.uint8), "expected class ids up to 2, or 255, found 7"),
            (lambda ids: ids.astype(np.uint16), "expected a mask: one band of class ids in uint8"),
            (lambda ids: ids.repeat(2, axis=2), "found 2 of uint8"),
        ],
    )
    def test_a_mask_must_fit(
        self, case: Case, in_process: InProcess, tmp_path: Path, change: Callable[[Ids], Ids], said: str
    ) -> None:
        mask = write_geotiff(tmp_path / "mask.tif", change(case.ids[:, :, None]))
        line = self.refused(in_process, tmp_path / "out", case.image, "--bundle", case.bundle, "--coarse", mask)
        assert said in line

    def test_a_mask_must_lie_on_its_image(self, case: Case, in_process: InProcess, tmp_path: Path) -> None:
        moved = write_geotiff(
            tmp_path / "m.tif", case.ids[:, :, None], transform=from_origin(300001, 2780000, 0.5, 0.5)
        )
        line = self.refused(in_process, tmp_path / "out", case.image, "--bundle", case.bundle, "--coarse", moved)
        assert "the place on the ground" in line

    def test_a_mask_that_names_other_classes(self, case: Case, in_process: InProcess, tmp_path: Path) -> None:
        mask = write_geotiff(tmp_path / "mask.tif", case.ids[:, :, None])
        with rasterio.open(mask, "r+") as dataset:
            dataset.update_tags(FCTL_CLASSES=json.dumps(dict(enumerate(("red", "blue", "green")))))
        line = self.refused(in_process, tmp_path / "out", case.image, "--bundle", case.bundle, "--coarse", mask)
        assert "expected a mask of the classes red, green, blue, found red, blue, green" in line
        with rasterio.open(mask, "r+") as dataset:
            dataset.update_tags(FCTL_CLASSES='{"1": "red", "2": "green", "3": "blue"}')
        line = self.refused(in_process, tmp_path / "out", case.image, "--bundle", case.bundle, "--coarse", mask)
        assert 'found FCTL_CLASSES={"1": "red"' in line

    def test_what_means_nothing_to_a_refiner(self, case: Case, in_process: InProcess, tmp_path: Path) -> None:
        arguments = (case.image, "--bundle", case.bundle, "--coarse", case.mask)
        assert "--resolution" in self.refused(in_process, tmp_path / "out", *arguments, "--resolution", "1")
        line = self.refused(in_process, tmp_path / "out", *arguments, "--confidence", "agreement")
        assert "--confidence-type" in line

    def test_arrays_are_checked(self, case: Case, segmenter: Segmenter) -> None:
        with pytest.raises(RasterError, match="190, 250"):
            segmenter.segment(case.pixels, coarse=case.ids[1:])
        with pytest.raises(RasterError, match="up to 2, or 255, found 9"):
            segmenter.segment(case.pixels, coarse=np.full_like(case.ids, 9))
        with pytest.raises(RasterError, match="image \\(height, width, 3\\)"):
            segmenter.segment(case.pixels[:, :, :2], coarse=case.ids)
