from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fctl.runtime import Segmenter
from fctl.runtime.bundle.store import Bundle, read_bundle
from fctl.runtime.engines import base
from fctl.runtime.errors import BundleError, EngineError, InputError, RasterError
from fctl.runtime.evaluate import labels
from fctl.runtime.evaluate.datasets import Dataset, open_dataset
from fctl.runtime.evaluate.document import document
from fctl.runtime.evaluate.evaluation import evaluate, mask_file
from fctl.runtime.evaluate.labels import MaskReader, open_ids
from fctl.runtime.evaluate.metrics import Confusion
from fctl.runtime.evaluate.report import write_report
from fctl.runtime.evaluate.results import Evaluation, Pick
from fctl.runtime.evaluate.runs import plan_runs
from fctl.runtime.evaluate.selection import select
from fctl.runtime.evaluate.tables import summary, tables
from tests.runtime import labelled, naive, tiny

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

CPU: dict[str, Any] = {"backends": ("onnxruntime",)}


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return read_bundle(tiny.TINY)


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    """Three images of the general form."""
    labelled.write_folder(tmp_path / "data")
    return open_dataset(tmp_path / "data")


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    folder = tmp_path / "kept"
    folder.mkdir()
    return folder


def predicted(bundle: Bundle, dataset: Dataset, index: int, **options: Any) -> labelled.Array:
    """What a segmenter makes of one image of the general form."""
    with Segmenter(bundle, backend="onnxruntime", **options) as segmenter:
        return segmenter.segment(np.asarray(Image.open(dataset.samples[index].image))).ids


def truths(dataset: Dataset) -> list[labelled.Array]:
    sizes = [Image.open(sample.image).size for sample in dataset.samples]
    return [labelled.truth_of(height, width, 3, index) for index, (width, height) in enumerate(sizes)]


def flat(arrays: list[labelled.Array]) -> labelled.Array:
    return np.concatenate([array.ravel() for array in arrays])


def assert_scores(confusion: Confusion, expected: dict[str, float], counted: tuple[int, ...]) -> None:
    found = {
        "miou": confusion.miou(counted), "f1": confusion.mean_f1(counted), "accuracy": confusion.accuracy()
    }  # fmt: skip
    assert found == pytest.approx(expected)


# Scores


def test_scores_are_those_of_whole_arrays(data: Dataset, bundle: Bundle, kept: Path) -> None:
    found = evaluate(data, plan_runs([bundle], **CPU), kept).results[0]
    masks = [predicted(bundle, data, index) for index in range(3)]
    assert_scores(found.confusion, labelled.naive_scores(flat(truths(data)), flat(masks), (0, 1, 2)), (0, 1, 2))
    for image, truth, mask in zip(found.images, truths(data), masks, strict=True):
        assert_scores(image.confusion, labelled.naive_scores(truth.ravel(), mask.ravel(), (0, 1, 2)), (0, 1, 2))
        assert (image.height, image.width, image.nodata) == (*truth.shape, 0)
    assert list(kept.iterdir()) == []


def test_classes_come_in_the_data_sets_order(tmp_path: Path, bundle: Bundle, kept: Path) -> None:
    labelled.write_folder(tmp_path / "data")
    classes = labelled.description()["classes"][::-1]
    classes[0]["counted"] = False  # blue
    labelled.write_description(tmp_path / "data" / "dataset.json", classes=classes)
    dataset = open_dataset(tmp_path / "data")
    found = evaluate(dataset, plan_runs([bundle], **CPU), kept).results[0].confusion
    masks = flat([predicted(bundle, dataset, index) for index in range(3)])
    known = flat(truths(dataset)) != 255
    for row, column in np.ndindex(3, 3):
        both = (flat(truths(dataset)) == 2 - row) & (masks == 2 - column) & known
        assert found.counts[row, column] == both.sum()
    assert_scores(found, labelled.naive_scores(flat(truths(dataset)), masks, (0, 1)), dataset.description.counted)


def test_inria_counts_buildings_alone(tmp_path: Path, kept: Path) -> None:
    def rename(manifest: dict[str, Any]) -> None:
        manifest["classes"][0]["name"], manifest["classes"][1]["name"] = "building", "background"

    bundle = read_bundle(tiny.variant(tiny.TINY_PLAIN, tmp_path, rename))
    image = naive.image_of(37, 50, 4, "uint16")
    truth = (labelled.truth_of(37, 50, 2) == 1).astype(np.uint8)
    labelled.save_tif(tmp_path / "inria" / "images" / "austin1.tif", image)
    labelled.save_tif(tmp_path / "inria" / "gt" / "austin1.tif", 255 * truth[:, :, None])
    evaluation = evaluate(open_dataset(tmp_path / "inria"), plan_runs([bundle], **CPU), kept, bands=(1, 2, 3, 4))
    with Segmenter(bundle, backend="onnxruntime") as segmenter:
        mask = 1 - segmenter.segment(image).ids
    expected = labelled.naive_scores(truth.ravel(), mask.ravel(), (1,))
    assert_scores(evaluation.results[0].confusion, expected, (1,))
    assert tables(evaluation)[0].header[1:4] == ("IoU of building", "F1 of building", "accuracy")
    assert tables(evaluation)[1].rows[0][0] == "(background)"
    assert "means over building" in summary(evaluation)


def test_pixels_without_data_count_for_nothing(tmp_path: Path, bundle: Bundle, kept: Path) -> None:
    image, truth = labelled.image_of(30, 40), labelled.truth_of(30, 40, 3)
    image[:, :12] = 0
    labelled.write_description(tmp_path / "dataset.json", images="i/*.tif", masks="m/*.png")
    (tmp_path / "i").mkdir()
    labelled.write_geotiff(tmp_path / "i" / "a.tif", image, nodata=0)
    labelled.save(tmp_path / "m" / "a.png", labelled.coloured(truth, labelled.COLOURS))
    found = evaluate(open_dataset(tmp_path), plan_runs([bundle], **CPU), kept).results[0].images[0]
    with Segmenter(bundle, backend="onnxruntime") as segmenter:
        mask = segmenter.segment(image).ids
    mask[:, :12] = 255
    assert_scores(found.confusion, labelled.naive_scores(truth.ravel(), mask.ravel(), (0, 1, 2)), (0, 1, 2))
    assert found.nodata == int((truth[:, :12] != 255).sum())
    assert found.compared == 30 * 28


def test_absent_classes_are_left_out_of_means(tmp_path: Path) -> None:
    confusion = Confusion(np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]]))
    assert np.isnan(confusion.iou()[2])
    assert confusion.miou() == pytest.approx((3 / 4 + 4 / 5) / 2)
    assert np.isnan(confusion.miou((2,)))
    assert np.isnan(Confusion.empty(3).accuracy())
    np.testing.assert_allclose(confusion.precision(), [1, 4 / 5, np.nan])
    np.testing.assert_allclose(confusion.recall(), [3 / 4, 1, np.nan])


# Runs


def test_every_combination_is_a_run(bundle: Bundle) -> None:
    runs = plan_runs([bundle], **CPU, tta=(False, True), contexts=("all", "none", "each"))
    assert [run.label.removeprefix("tiny, onnxruntime fp32") for run in runs] == [
        "", ", no contexts", ", without medium", ", without large",
        ", TTA", ", TTA, no contexts", ", TTA, without medium", ", TTA, without large",
    ]  # fmt: skip
    assert [run.black for run in runs[:4]] == [(), ("medium", "large"), ("medium",), ("large",)]


def test_context_modes_of_bundles_with_few() -> None:
    modes = ("all", "none", "each")
    one = plan_runs([read_bundle(tiny.TINY_GLOBAL)], **CPU, contexts=modes)
    assert [run.black for run in one] == [(), ("global",)]
    assert [run.black for run in plan_runs([read_bundle(tiny.TINY_PLAIN)], **CPU, contexts=modes)] == [()]


def test_bundles_of_one_name_are_told_by_their_folders(bundle: Bundle) -> None:
    found = [run.label for run in plan_runs([bundle, bundle], **CPU)]
    assert found[0].startswith(str(tiny.TINY))


def test_what_cannot_run_is_told_before_anything_runs(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="no fp16 graph"):
        plan_runs([bundle], **CPU, precisions=("fp32", "fp16"))
    with pytest.raises(EngineError, match="no engine for bf16"):
        plan_runs([bundle], **CPU, precisions=("bf16",))
    with pytest.raises(InputError, match="unknown contexts 'some'"):
        plan_runs([bundle], **CPU, contexts=("some",))


def black_tile(*black: str) -> naive.Tile:
    """tiny.fctl with black contexts."""

    def tile(image: labelled.Array, y: int, x: int, turning: naive.Turning, scene: int | None) -> labelled.Array:
        medium = naive.around(image, y, x, 32).reshape(16, 2, 16, 2, 3).mean(axis=(1, 3))
        large = naive.shrunk(naive.around(image, y, x, 64), Image.Resampling.BILINEAR)
        windows = (naive.around(image, y, x, 16), medium * ("medium" not in black), large * ("large" not in black))
        return tiny.tiny_logits(*(naive.batched(turning.there(window)) for window in windows))[0]

    return tile


@pytest.mark.parametrize("path", [tiny.TINY, tiny.TINY_FUSED], ids=["staged", "fused"])
@pytest.mark.parametrize("tta", [False, True], ids=["upright", "turned"])
def test_black_contexts_and_agreement(tmp_path: Path, kept: Path, path: Path, tta: bool) -> None:
    image, truth = naive.image_of(37, 50), labelled.truth_of(37, 50, 3)
    labelled.write_description(tmp_path / "dataset.json")
    labelled.save(tmp_path / "images" / "a.png", image.astype(np.uint8))
    labelled.save(tmp_path / "masks" / "a.png", labelled.coloured(truth, labelled.COLOURS))
    dataset, bundle = open_dataset(tmp_path), read_bundle(path)
    runs = plan_runs([bundle], **CPU, tta=(tta,), contexts=("all", "none", "each"))
    results = evaluate(dataset, runs, kept, pick=Pick(count=1, order="first")).results
    turnings = naive.TURNINGS if tta else (naive.UPRIGHT,)
    starts = {"stride": naive.stride_starts, "even": naive.even_starts}[bundle.manifest.plan.kind]
    first: labelled.Array | None = None
    for index, (run, result) in enumerate(zip(runs, results, strict=True)):
        scores = naive.whole_array_scores(black_tile(*run.black), image, bundle.manifest.merge, starts, turnings)
        with open_ids(mask_file(kept, index, 0), 3) as mask:
            ids = mask.read(0, 37)
        runner_up, best = np.partition(scores, -2, axis=0)[-2:]
        decided = best - runner_up > 1e-3
        assert decided.mean() > 0.9
        np.testing.assert_array_equal(ids[decided], scores.argmax(axis=0)[decided])
        first = ids if first is None else first
        assert result.agreement == pytest.approx(float((ids == first).mean()))
    assert results[0].agreement == 1
    assert all(result.agreement < 1 for result in results[1:])


def test_a_global_context_may_be_black(tmp_path: Path, kept: Path) -> None:
    labelled.write_folder(tmp_path / "data", [(37, 50)])
    runs = plan_runs([read_bundle(tiny.TINY_GLOBAL)], **CPU, contexts=("all", "none"))
    results = evaluate(open_dataset(tmp_path / "data"), runs, kept).results
    assert results[1].agreement < 1


def test_turns_are_those_of_the_segmenter(data: Dataset, bundle: Bundle, kept: Path) -> None:
    found = evaluate(data, plan_runs([bundle], **CPU, tta=(False, True)), kept).results
    for result, tta in zip(found, (False, True), strict=True):
        masks = flat([predicted(bundle, data, index, tta=tta) for index in range(3)])
        expected = labelled.naive_scores(flat(truths(data)), masks, (0, 1, 2))
        assert_scores(result.confusion, expected, (0, 1, 2))


def test_several_bundles(data: Dataset, bundle: Bundle, kept: Path, tmp_path: Path) -> None:
    def swap(manifest: dict[str, Any]) -> None:
        manifest["name"] = "swapped"
        manifest["classes"][0], manifest["classes"][2] = manifest["classes"][2], manifest["classes"][0]

    other = read_bundle(tiny.variant(tiny.TINY, tmp_path, swap))
    found = evaluate(data, plan_runs([bundle, other], **CPU), kept).results
    masks = [flat([predicted(bundle, data, index) for index in range(3)])]
    masks.append(2 - masks[0])
    for result, mask in zip(found, masks, strict=True):
        assert_scores(result.confusion, labelled.naive_scores(flat(truths(data)), mask, (0, 1, 2)), (0, 1, 2))
    assert found[1].agreement == pytest.approx(float((masks[0] == masks[1]).mean()))


def test_progress_ends_at_the_last_patch(data: Dataset, bundle: Bundle, kept: Path) -> None:
    seen: dict[str, list[tuple[int, int]]] = {}
    result = evaluate(
        data, plan_runs([bundle], **CPU), kept,
        progress=lambda name, done, total: seen.setdefault(name, []).append((done, total)),
    ).results[0]  # fmt: skip
    tiles = sum(image.tiles for image in result.images)
    assert seen["reading masks"] == [(1, 3), (2, 3), (3, 3)]
    assert seen[result.run.label][-1] == (tiles, tiles)
    assert seen[result.run.label] == sorted(seen[result.run.label])


# Bad data


def another_size(folder: Path) -> None:
    labelled.save(folder / "masks" / "1.png", labelled.coloured(labelled.truth_of(20, 31, 3), labelled.COLOURS))


def strange_colours(folder: Path) -> None:
    colours = labelled.coloured(labelled.truth_of(20, 30, 3), labelled.COLOURS)
    colours[0, :5], colours[1, :2], colours[2, 0], colours[3, 0] = (1, 2, 3), (4, 5, 6), (7, 8, 9), (9, 9, 9)
    labelled.save(folder / "masks" / "1.png", colours)


def no_mask_image(folder: Path) -> None:
    (folder / "masks" / "1.png").write_text("not an image")


def bad_image(folder: Path) -> None:
    (folder / "images" / "1.png").write_text("not an image")


def deep_image(folder: Path) -> None:
    labelled.save(folder / "images" / "1.png", np.zeros((20, 30), np.uint16))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (another_size, "masks/1.png: expected 20 x 30 pixels as .*images/1.png, found 20 x 31"),
        (strange_colours, r"masks/1.png: .* 9 pixels of others: \(1, 2, 3\) 5 x, \(4, 5, 6\) 2 x, .* and 1 more"),
        (no_mask_image, "masks/1.png: expected an image"),
        (bad_image, "images/1.png: expected an image"),
        (deep_image, "images/1.png: expected uint8 pixels, found uint16"),
    ],
)
def test_bad_data_is_one_line_before_anything_runs(
    tmp_path: Path, bundle: Bundle, kept: Path, spoil: Callable[[Path], None], told: str
) -> None:
    labelled.write_folder(tmp_path / "data")
    spoil(tmp_path / "data")
    seen = set[str]()
    with pytest.raises((InputError, RasterError), match=told) as error:
        evaluate(
            open_dataset(tmp_path / "data"), plan_runs([bundle], **CPU), kept,
            progress=lambda name, done, total: seen.add(name),
        )  # fmt: skip
    assert "\n" not in str(error.value)
    assert seen <= {"reading masks"}


def test_classes_that_do_not_match(data: Dataset, kept: Path, tmp_path: Path) -> None:
    def rename(manifest: dict[str, Any]) -> None:
        manifest["classes"][2]["name"] = "azure"

    runs = plan_runs([read_bundle(tiny.variant(tiny.TINY, tmp_path, rename))], **CPU)
    with pytest.raises(InputError, match=r"tiny\.fctl: expected the classes .*without a match: azure, blue"):
        evaluate(data, runs, kept)


def test_large_masks_are_read_in_strips(
    tmp_path: Path, bundle: Bundle, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labelled.write_folder(tmp_path / "data", [(400, 40)])
    rows = list[int]()
    read = MaskReader._raw

    def record(self: MaskReader, **options: Any) -> labelled.Array:
        raw = read(self, **options)
        rows.append(raw.shape[1])
        return raw

    monkeypatch.setattr(MaskReader, "_raw", record)
    monkeypatch.setattr(labels, "_PIXELS", 1000)
    evaluate(open_dataset(tmp_path / "data"), plan_runs([bundle], **CPU, contexts=("all", "none")), kept)
    assert max(rows) == 25  # 1000 pixels; the tiles' rows are fewer
    assert sum(rows) == 4 * 400  # looked through, read along twice, compared with the first run once


# Reports


@pytest.fixture
def reported(data: Dataset, bundle: Bundle, kept: Path, tmp_path: Path) -> tuple[Evaluation, Path]:
    """Two runs with pictures of the two worst images."""
    runs = plan_runs([bundle], **CPU, contexts=("all", "none"))
    evaluation = evaluate(data, runs, kept, split="*", pick=Pick(count=2, order="worst"))
    write_report(evaluation, kept, tmp_path / "report")
    return evaluation, tmp_path / "report"


def test_the_report_in_json(reported: tuple[Evaluation, Path]) -> None:
    evaluation, folder = reported
    found = json.loads((folder / "report.json").read_text("utf-8"))
    assert found == document(evaluation)
    assert found["data"]["classes"][0]["name"] == "red"
    assert (found["data"]["split"], found["data"]["images"], len(found["runs"])) == ("*", 3, 2)
    for run, result in zip(found["runs"], evaluation.results, strict=True):
        assert run["confusion"] == result.confusion.counts.tolist()
        assert run["miou"] == pytest.approx(result.confusion.miou())
        assert run["classes"]["blue"]["iou"] == pytest.approx(result.confusion.iou()[2])
        assert [image["name"] for image in run["images"]] == ["0", "1", "2"]
        assert run["images"][1]["miou"] == pytest.approx(result.images[1].confusion.miou())
    assert found["runs"][1]["black_contexts"] == ["medium", "large"]
    assert found["runs"][1]["same_as_first"] == pytest.approx(evaluation.results[1].agreement)


def test_the_report_in_markdown_shows_every_file(reported: tuple[Evaluation, Path]) -> None:
    evaluation, folder = reported
    text = (folder / "report.md").read_text("utf-8")
    pictures = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    assert [name.partition("_")[0] for name in pictures] == ["confusion", "confusion", "pictures/001", "pictures/002"]
    assert [name for name in pictures if f"]({name})" not in text] == []
    assert all(run.label in text for run in (result.run for result in evaluation.results))
    for path in folder.rglob("*.png"):
        assert Image.open(path).convert("RGB").getextrema() != ((255, 255),) * 3


@pytest.mark.parametrize("exact", [False, True])
def test_what_the_engine_has_to_say_is_in_the_report(
    data: Dataset, bundle: Bundle, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exact: bool
) -> None:
    """Graphs in int8 are slow where the processor has no VNNI; these are the fp32 ones under another name."""
    monkeypatch.setattr(base, "adds_int8_exactly", lambda: exact)
    graphs = tuple(replace(graph, precision="int8") for graph in bundle.manifest.graphs)
    both = replace(bundle, manifest=replace(bundle.manifest, graphs=(*bundle.manifest.graphs, *graphs)))
    evaluation = evaluate(data, plan_runs([both], **CPU, precisions=("fp32", "int8")), kept)
    write_report(evaluation, kept, tmp_path / "report")
    found = [result.notes for result in evaluation.results]
    assert [len(notes) for notes in found] == [0, 0 if exact else 1]
    assert [run["notes"] for run in json.loads((tmp_path / "report" / "report.json").read_text("utf-8"))["runs"]] == [
        list(notes) for notes in found
    ]
    what_ran = (tmp_path / "report" / "report.md").read_text("utf-8").partition("## What ran")[2]
    assert ("\n  - without VNNI this processor would overflow in int8" in what_ran) != exact


@pytest.mark.parametrize("order", ["worst", "best", "first"])
def test_which_images_are_drawn(data: Dataset, bundle: Bundle, kept: Path, order: Any) -> None:
    found = evaluate(data, plan_runs([bundle], **CPU), kept, pick=Pick(count=2, order=order))
    scores = [image.confusion.miou() for image in found.results[0].images]
    expected = {"worst": np.argsort(scores), "best": np.argsort(scores)[::-1], "first": np.arange(3)}[order]
    assert found.pictured == tuple(expected[:2])


def test_a_score_without_meaning_is_null_and_a_dash(tmp_path: Path, bundle: Bundle, kept: Path) -> None:
    labelled.write_folder(tmp_path / "data", [(16, 16), (16, 20)])
    for index, width in enumerate((16, 20)):
        nothing = labelled.coloured(np.full((16, width), 255, np.uint8), labelled.COLOURS)
        labelled.save(tmp_path / "data" / "masks" / f"{index}.png", nothing)
    runs = plan_runs([bundle], **CPU)
    evaluation = evaluate(open_dataset(tmp_path / "data"), runs, kept, pick=Pick(count=1, order="worst"))
    assert document(evaluation)["runs"][0]["miou"] is None
    assert tables(evaluation)[0].rows[0][1:4] == ("-", "-", "-")
    write_report(evaluation, kept, tmp_path / "report")


# Real imagery


@pytest.mark.once
def test_a_part_of_dubai_on_its_own(shared: Path, kept: Path) -> None:
    """As `experiments.dubai` defines it."""
    described = Path(__file__).parents[3] / "docs" / "dubai.json"
    if not described.is_file():
        pytest.skip("needs the source tree")
    dataset = select(open_dataset(shared / "dubai", description=described), "2/007")
    bundle = read_bundle("default")
    found = evaluate(dataset, plan_runs([bundle], **CPU), kept).results[0].confusion
    pixels = np.asarray(Image.open(dataset.samples[0].image).convert("RGB"))
    colours = np.asarray(Image.open(dataset.samples[0].mask).convert("RGB"))
    truth = np.full(colours.shape[:2], 255, np.uint8)
    for index, info in enumerate(dataset.description.classes):
        truth[(colours == info.values[0]).all(axis=2)] = index
    with Segmenter("default", backend="onnxruntime") as segmenter:
        mask = segmenter.segment(pixels).ids
    expected = labelled.naive_scores(truth.ravel(), mask.ravel(), tuple(range(5)))
    assert found.miou() == pytest.approx(
        expected["miou"], abs=2e-3
    )  # GDAL and Pillow upsample JPEG colours differently
    assert found.pixels == int((truth != 255).sum())


def test_images_of_another_depth_score_as_those_they_are_scaled_to(tmp_path: Path, bundle: Bundle, kept: Path) -> None:
    labelled.write_folder(tmp_path / "data")
    runs = plan_runs([bundle], **CPU)
    expected = evaluate(open_dataset(tmp_path / "data"), runs, kept).results[0].confusion
    images = sorted((tmp_path / "data" / "images").iterdir())
    for path in images:
        pixels = np.asarray(Image.open(path), np.uint16)
        path.unlink()
        labelled.save_tif(path, pixels * 10)  # the content counts, not the name
    found = evaluate(
        open_dataset(tmp_path / "data"), runs, kept, scale_range="0,2550", pick=Pick(count=1, order="first")
    )  # fmt: skip
    np.testing.assert_array_equal(found.results[0].confusion.counts, expected.counts)
    write_report(found, kept, tmp_path / "report", scale_range="0,2550")
    assert len(list((tmp_path / "report" / "pictures").iterdir())) == 1
