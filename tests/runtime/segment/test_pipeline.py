from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fctl.runtime import Segmenter
from fctl.runtime.bundle.store import read_bundle
from fctl.runtime.engines.base import Session
from fctl.runtime.engines.choose import choose_engine
from fctl.runtime.segment.host import HostNetwork
from fctl.runtime.segment.pipeline import Block, segment_rows
from fctl.runtime.tiling.sources import ArraySource, Source
from fctl.runtime.tiling.windows import Window
from tests.runtime import tiny
from tests.runtime.naive import (
    HoleSource,
    RecordingSource,
    assert_segmented,
    even_starts,
    image_of,
    softmax,
    stride_starts,
    tiny_global_tile,
    tiny_plain_tile,
    tiny_tile,
    whole_array_scores,
)

SIZES = [(1, 1), (3, 40), (16, 16), (40, 9), (33, 50), (61, 47)]


@pytest.mark.parametrize("size", SIZES)
def test_contexts_and_merge_equal_a_whole_array_computation(size: tuple[int, int]) -> None:
    image = image_of(*size)
    assert_segmented(tiny.TINY, image, softmax(whole_array_scores(tiny_tile, image, "cosine", stride_starts)))


@pytest.mark.parametrize("size", SIZES)
def test_a_global_context_equals_a_whole_array_computation(size: tuple[int, int]) -> None:
    image = image_of(*size)
    scores = whole_array_scores(tiny_global_tile, image, "uniform", stride_starts)
    assert_segmented(tiny.TINY_GLOBAL, image, softmax(scores))


@pytest.mark.parametrize("size", SIZES)
def test_four_bands_of_uint16_equal_a_whole_array_computation(size: tuple[int, int]) -> None:
    image = image_of(*size, bands=4, dtype="uint16") * np.uint16(9)
    assert_segmented(
        tiny.TINY_PLAIN, image, softmax(whole_array_scores(tiny_plain_tile, image, "uniform", even_starts))
    )


@pytest.mark.parametrize(("kind", "starts"), [("stride", stride_starts), ("even", even_starts)])
@pytest.mark.parametrize("rule", ["uniform", "cosine"])
def test_plan_and_merge_are_those_of_the_manifest(tmp_path: Path, kind: str, starts: Any, rule: str) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["plan"]["kind"] = kind
        manifest["merge"] = rule

    image = image_of(45, 30)
    bundle = tiny.variant(tiny.TINY, tmp_path, change)
    assert_segmented(bundle, image, softmax(whole_array_scores(tiny_tile, image, rule, starts)))


@pytest.mark.parametrize("bundle", [tiny.TINY, tiny.TINY_GLOBAL])
def test_the_batch_does_not_change_the_ids(bundle: Path) -> None:
    image = image_of(61, 47)
    found = []
    for batch in (1, 3, 4, 7):
        with Segmenter(bundle, backend="onnxruntime", batch=batch) as segmenter:
            found.append(segmenter.segment(image).ids)
    for ids in found[1:]:
        np.testing.assert_array_equal(ids, found[0])


def rows_of(bundle: Path, source: Source, batch: int = 2) -> Iterator[Block]:
    return segment_rows(HostNetwork(read_bundle(bundle), choose_engine("onnxruntime", "fp32"), batch), source)


@pytest.mark.parametrize("broken_below", [0, 40, 60])
def test_an_error_of_the_reading_thread_is_the_error(broken_below: int) -> None:
    source = RecordingSource(image_of(61, 47), broken_below)
    with pytest.raises(ZeroDivisionError, match="the disk is gone"):
        list(rows_of(tiny.TINY, source))


def test_no_thread_is_left_after_an_error() -> None:
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        list(rows_of(tiny.TINY, RecordingSource(image_of(61, 47), 40)))
    assert threading.active_count() == before


def test_the_global_context_is_read_once() -> None:
    source = RecordingSource(image_of(61, 47))
    list(rows_of(tiny.TINY_GLOBAL, source))
    assert source.windows.count(Window(0, 0, 61, 47)) == 1


@pytest.mark.parametrize("bundle", [tiny.TINY, tiny.TINY_GLOBAL])
def test_only_one_thread_touches_the_source(bundle: Path) -> None:
    source = RecordingSource(image_of(61, 47))
    list(rows_of(bundle, source))
    assert len(source.threads) == 1
    assert source.threads != {threading.get_ident()}


def test_pixels_without_data_are_255_and_nan() -> None:
    network = HostNetwork(read_bundle(tiny.TINY), choose_engine("onnxruntime", "fp32"), 2)
    rows = list(segment_rows(network, HoleSource(image_of(40, 20)), probabilities=True))
    ids = np.concatenate([part.ids for part in rows])
    shares = np.concatenate([part.probabilities for part in rows if part.probabilities is not None], axis=1)
    assert (ids[:, 0] == 255).all()
    assert (ids[:, 1:] < 3).all()
    assert np.isnan(shares[:, :, 0]).all()
    np.testing.assert_allclose(shares[:, :, 1:].sum(axis=0), 1, rtol=1e-5)


def test_probabilities_are_made_only_when_asked_for() -> None:
    assert all(rows.probabilities is None for rows in rows_of(tiny.TINY, ArraySource(image_of(20, 20))))


@pytest.mark.parametrize("batch", [1, 4])
def test_progress_counts_every_tile(batch: int) -> None:
    network = HostNetwork(read_bundle(tiny.TINY), choose_engine("onnxruntime", "fp32"), batch)
    steps: list[tuple[int, int]] = []
    for _ in segment_rows(
        network, ArraySource(image_of(40, 30)), progress=lambda done, total: steps.append((done, total))
    ):
        pass
    tiles = len(stride_starts(40)) * len(stride_starts(30))
    assert steps == [(min(done, tiles), tiles) for done in range(batch, tiles + batch, batch)]


@pytest.mark.parametrize(("isolate", "thread"), [(False, "fctl-engine_0"), (True, "MainThread")])
def test_the_engine_runs_beside_the_merger_unless_an_interrupt_must_end_it(
    monkeypatch: pytest.MonkeyPatch, isolate: bool, thread: str
) -> None:
    threads, run = set[str](), Session.run

    def noted(session: Session, inputs: Any) -> Any:
        threads.add(threading.current_thread().name)
        return run(session, inputs)

    with Segmenter(tiny.TINY, backend="onnxruntime", isolate=isolate, batch=1) as segmenter:  # which has no parts
        monkeypatch.setattr(Session, "run", noted)
        segmenter.segment(image_of(61, 47))
    assert threads == {thread}


@pytest.mark.parametrize("bundle", [tiny.TINY, tiny.TINY_GLOBAL])
def test_a_network_that_stays_in_its_thread_gives_the_same(bundle: Path) -> None:
    source = ArraySource(image_of(61, 47))

    def blocks(*, in_any_thread: bool) -> list[Block]:
        network = HostNetwork(read_bundle(bundle), choose_engine("onnxruntime", "fp32"), 2)
        network.in_any_thread = in_any_thread
        try:
            return list(segment_rows(network, source, probabilities=True))
        finally:
            network.close()

    for one, other in zip(blocks(in_any_thread=True), blocks(in_any_thread=False), strict=True):
        assert (one.y, one.x) == (other.y, other.x)
        np.testing.assert_array_equal(one.ids, other.ids)
        np.testing.assert_array_equal(one.probabilities, other.probabilities)
