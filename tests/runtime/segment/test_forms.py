"""Forms that networks of others come in: one graph, a fixed batch, probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fctl.runtime import Segmentation, Segmenter
from fctl.runtime.bundle.store import read_bundle
from fctl.runtime.engines.choose import choose_engine
from fctl.runtime.segment.host import HostNetwork
from fctl.runtime.segment.pipeline import segment_rows
from fctl.runtime.tiling.sources import ArraySource
from tests.runtime import naive, tiny
from tests.runtime.naive import Array, HoleSource, assert_segmented, slope_of, whole_array_scores

SIZES = [(1, 1), (3, 40), (33, 50), (100, 70)]


def segmented(bundle: Path, image: Array, **options: Any) -> Segmentation:
    with Segmenter(bundle, backend="onnxruntime", **{"batch": 3, **options}) as segmenter:
        return segmenter.segment(image, probabilities=True)


def assert_equal(found: Segmentation, expected: Segmentation) -> None:
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.probabilities, expected.probabilities)


# One graph


@pytest.mark.parametrize("tta", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_a_network_in_one_graph_gives_what_its_stages_give(size: tuple[int, int], tta: bool) -> None:
    image = slope_of(*size)
    assert_equal(segmented(tiny.TINY_FUSED, image, tta=tta), segmented(tiny.TINY, image, tta=tta))


@pytest.mark.parametrize("options", [{}, {"scene_size": 40}, {"tta": True}, {"scene_size": 40, "tta": True}], ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_so_does_one_with_positions(size: tuple[int, int], options: dict[str, Any]) -> None:
    image = slope_of(*size)
    assert_equal(segmented(tiny.TINY_GLOBAL_FUSED, image, **options), segmented(tiny.TINY_GLOBAL, image, **options))


@pytest.mark.parametrize("batch", [1, 4])
def test_the_batch_does_not_change_the_mask(batch: int) -> None:
    image = slope_of(33, 50)
    expected = segmented(tiny.TINY, image)
    np.testing.assert_array_equal(segmented(tiny.TINY_FUSED, image, batch=batch).ids, expected.ids)


@pytest.mark.parametrize("bundle", [tiny.TINY_FUSED, tiny.TINY_GLOBAL_FUSED])
def test_one_graph_it_is(bundle: Path) -> None:
    manifest = read_bundle(bundle).manifest
    assert [graph.role for graph in manifest.graphs] == ["segmenter"]
    assert [context.encoder for context in manifest.contexts] == [None] * len(manifest.contexts)


# A fixed batch


@pytest.mark.parametrize("batch", [1, 2, 3, 5])
@pytest.mark.parametrize("size", SIZES)
def test_a_fixed_batch_gives_what_any_other_does(size: tuple[int, int], batch: int) -> None:
    image = slope_of(*size, bands=4, dtype="uint16")
    assert_equal(segmented(tiny.TINY_FIXED, image, batch=batch), segmented(tiny.TINY_PLAIN, image, batch=4))


def test_a_fixed_batch_is_the_one_that_runs() -> None:
    bundle = read_bundle(tiny.TINY_FIXED)
    assert (bundle.manifest.fixed_batch, read_bundle(tiny.TINY_PLAIN).manifest.fixed_batch) == (3, None)
    network = HostNetwork(bundle, choose_engine("onnxruntime", "fp32"), 5)
    steps: list[int] = []
    source = ArraySource(slope_of(33, 50, bands=4, dtype="uint16"))
    for _ in segment_rows(network, source, progress=lambda done, total: steps.append(done)):
        pass
    assert steps == [3, 6, 9, 12]


# Probabilities


@pytest.mark.parametrize("size", SIZES)
def test_probabilities_are_averaged_as_they_are(size: tuple[int, int]) -> None:
    image = slope_of(*size, bands=4, dtype="uint16")
    shares = whole_array_scores(naive.tiny_shares_tile, image, "uniform", naive.even_starts)
    assert_segmented(tiny.TINY_SHARES, image, shares)


def test_probabilities_add_up_to_one_and_differ_from_those_of_averaged_logits() -> None:
    image = slope_of(33, 50, bands=4, dtype="uint16")
    found, logits = segmented(tiny.TINY_SHARES, image), segmented(tiny.TINY_PLAIN, image)
    assert found.probabilities is not None
    assert logits.probabilities is not None
    np.testing.assert_allclose(found.probabilities.sum(axis=0), 1, rtol=1e-5)
    assert np.abs(found.probabilities - logits.probabilities).max() > 0.01


def test_probabilities_without_data_are_nan() -> None:
    image = slope_of(33, 50, bands=4, dtype="uint16")
    network = HostNetwork(read_bundle(tiny.TINY_SHARES), choose_engine("onnxruntime", "fp32"), 3)
    rows = list(segment_rows(network, HoleSource(image), probabilities=True))
    ids = np.concatenate([part.ids for part in rows])
    shares = np.concatenate([part.probabilities for part in rows if part.probabilities is not None], axis=1)
    expected = segmented(tiny.TINY_SHARES, image)
    assert expected.probabilities is not None
    assert (ids[:, 0] == 255).all()
    assert np.isnan(shares[:, :, 0]).all()
    np.testing.assert_array_equal(ids[:, 1:], expected.ids[:, 1:])
    np.testing.assert_array_equal(shares[:, :, 1:], expected.probabilities[:, :, 1:])
