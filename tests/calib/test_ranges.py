"""Ranges of int8 activations, against brute force on samples and slow references."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fctl.calib import ranges
from fctl.calib.ranges import BINS, METHODS, Histogram, Method, amax, count
from fctl.runtime.errors import BundleError, InputError

Array = NDArray[Any]
SIZE = 200_000


def gaussian(rng: np.random.Generator) -> Array:
    return rng.normal(size=SIZE)


def outliers(rng: np.random.Generator) -> Array:
    return np.concatenate([rng.normal(size=SIZE), rng.uniform(10, 40, size=10) * rng.choice([-1, 1], 10)])


def laplace(rng: np.random.Generator) -> Array:
    return rng.laplace(size=SIZE)


def rectified(rng: np.random.Generator) -> Array:
    return np.maximum(rng.normal(size=SIZE), 0)


def uniform(rng: np.random.Generator) -> Array:
    return rng.uniform(-3, 3, size=SIZE)


DRAWN = (gaussian, outliers, laplace, rectified, uniform)
Draw = Callable[[np.random.Generator], Array]


def histogram(values: Array) -> Histogram:
    values = values.astype(np.float32)
    peak = float(np.abs(values).max())
    return Histogram(counts=count(values, peak), peak=peak)


def squared_error(values: Array, reach: float) -> float:
    """Of values that really went through int8."""
    scale = reach / 127
    return float(np.mean((np.clip(np.rint(values / scale), -127, 127) * scale - values) ** 2))


def slow_entropy(counts: list[int]) -> dict[int, float]:
    """Divergence by number of bins: one candidate, one level and one bin after the other."""
    counts = [counts[1], *counts[1:]]
    found = {}
    for bins in range(128, BINS + 1, 8):
        reference = [float(n) for n in counts[:bins]]
        quantised = [0.0] * bins
        filled: dict[int, list[int]] = {}
        for i in range(bins):
            if counts[i]:
                filled.setdefault(i * 128 // bins, []).append(i)
        for members in filled.values():
            mean = sum(counts[i] for i in members) / len(members)
            for i in members:
                quantised[i] = mean
        reference[-1] += sum(counts[bins:])
        inside, whole = sum(counts[:bins]), sum(counts)
        p = [0.9999 * n / whole + 1e-4 / bins for n in reference]
        q = [0.9999 * n / inside + 1e-4 / bins for n in quantised]
        found[bins] = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return found


def test_bins_are_those_of_the_definition(rng: np.random.Generator) -> None:
    values = rng.normal(size=10_000).astype(np.float32)
    values[:3000] = 0
    peak = float(np.abs(values).max())
    edges = peak * np.arange(BINS + 1) / BINS
    expected, _ = np.histogram(np.abs(values[values != 0]).astype(np.float64), edges)  # its last bin is closed
    np.testing.assert_array_equal(count(values, peak), expected)
    assert count(values, peak).sum() == 7000
    assert count(np.float32([0.5, -1, 0, -0.0, 3]), 1.0)[[0, BINS // 2, -1]].tolist() == [0, 1, 2]


@pytest.mark.parametrize("draw", DRAWN)
def test_minmax_is_the_peak(draw: Draw, rng: np.random.Generator) -> None:
    values = draw(rng)
    assert amax(histogram(values), "minmax") == np.abs(values.astype(np.float32)).max()


@pytest.mark.parametrize("draw", DRAWN)
@pytest.mark.parametrize("share", [50, 99, 99.9])
def test_percentiles_are_those_of_the_values_other_than_zero(
    draw: Draw, share: float, rng: np.random.Generator
) -> None:
    values = draw(rng)
    found = histogram(values)
    sizes = np.sort(np.abs(values[values != 0]))
    rank = share / 100 * len(sizes)
    before, after = sizes[math.floor(rank) - 1], sizes[math.ceil(rank)]
    assert before - found.peak / BINS <= amax(found, "percentile", share) <= after + found.peak / BINS
    assert amax(found, "percentile", 100) == found.peak


@pytest.mark.parametrize("draw", DRAWN)
def test_mse_is_the_best_of_all_ranges(draw: Draw, rng: np.random.Generator) -> None:
    values = draw(rng)
    found = histogram(values)
    tried = {reach: squared_error(values, reach) for reach in found.peak * np.arange(0.02, 1.005, 0.01)}
    chosen = amax(found, "mse")
    assert squared_error(values, chosen) <= 1.005 * min(tried.values())
    best = min(tried, key=lambda reach: tried[reach])
    assert abs(chosen - best) < 0.03 * best + 0.01 * found.peak


@pytest.mark.parametrize("draw", DRAWN)
@pytest.mark.parametrize("share", [1, 0.6, 0.2, 0.05])
def test_errors_are_those_of_values_that_went_through_int8(draw: Draw, share: float, rng: np.random.Generator) -> None:
    values = draw(rng)
    values = values[values != 0]
    found = histogram(values)
    bins = ranges._squared_error(found.counts, share * BINS / 127) / len(values)
    assert bins * (found.peak / BINS) ** 2 == pytest.approx(squared_error(values, share * found.peak), rel=0.01)


@pytest.mark.parametrize("draw", [outliers, rectified, laplace])
def test_entropy_is_that_of_a_slow_reference(draw: Draw, rng: np.random.Generator) -> None:
    found = histogram(draw(rng)[-20_000:])
    slow = slow_entropy(found.counts.tolist())
    chosen = amax(found, "entropy") / found.peak * BINS
    assert chosen == pytest.approx(round(chosen))
    assert slow[round(chosen)] == pytest.approx(min(slow.values()), rel=1e-9)
    assert max(slow.values()) > 1.5 * min(slow.values())


@pytest.mark.parametrize("method", ["percentile", "entropy", "mse"])
def test_outliers_are_clipped(method: Method, rng: np.random.Generator) -> None:
    values = outliers(rng)
    assert 2 < amax(histogram(values), method) < 0.8 * np.abs(values).max()


@pytest.mark.parametrize("method", METHODS)
def test_uniform_values_are_hardly_clipped(method: Method, rng: np.random.Generator) -> None:
    assert 0.98 * 3 < amax(histogram(uniform(rng)), method) <= 3


@pytest.mark.parametrize("method", METHODS)
def test_zeros_change_nothing(method: Method, rng: np.random.Generator) -> None:
    values = outliers(rng)
    padded = np.concatenate([values, np.zeros(9 * SIZE)])
    assert amax(histogram(padded), method) == amax(histogram(values), method)


@pytest.mark.parametrize("method", METHODS)
def test_ranges_scale_with_the_values_and_not_with_their_number(method: Method, rng: np.random.Generator) -> None:
    found = histogram(outliers(rng))
    more = Histogram(counts=3 * found.counts, peak=found.peak)
    larger = Histogram(counts=found.counts, peak=1000 * found.peak)
    assert amax(more, method) == pytest.approx(amax(found, method), rel=1e-9)
    assert amax(larger, method) == pytest.approx(1000 * amax(found, method), rel=1e-9)


def test_tiny_values_do_not_hide_the_others_from_entropy(rng: np.random.Generator) -> None:
    values = gaussian(rng)
    crowded = np.concatenate([values, rng.uniform(-1e-6, 1e-6, size=9 * SIZE)])
    assert amax(histogram(crowded), "entropy") == amax(histogram(values), "entropy")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("peak", [0.0, 1e-45, 1e-37, 1e-36, 3e38])
def test_scales_are_normal_numbers(method: Method, peak: float) -> None:
    counts = np.zeros(BINS, np.int64)
    counts[[5, -1]] = 1000, 1 if peak else 0
    found = amax(Histogram(counts=counts if peak else 0 * counts, peak=peak), method)
    assert np.finfo(np.float32).tiny <= np.float32(found / 127) < np.inf


@pytest.mark.parametrize("method", METHODS)
def test_nothing_to_scale_gets_one(method: Method) -> None:
    assert amax(histogram(np.zeros(10)), method) == 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bins", [[], [0], [BINS - 1]])
def test_the_peak_is_the_range_of_what_says_nothing_else(method: Method, bins: list[int]) -> None:
    """No value in the sample, tiny ones only under entropy, or one and the same everywhere."""
    counts = np.zeros(BINS, np.int64)
    counts[bins] = 100
    found = amax(Histogram(counts=counts, peak=2.0), method)
    if bins == [0] and method in ("percentile", "mse"):
        assert 0 < found < 0.1
    else:
        assert found == pytest.approx(2, rel=0.02)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("peak", [math.nan, math.inf])
def test_infinity_is_refused_by_name(method: Method, peak: float) -> None:
    with pytest.raises(BundleError, match=r"^layer/3: int8 needs a finite range, found (nan|inf)") as error:
        amax(Histogram(counts=np.ones(BINS, np.int64), peak=peak), method, name="layer/3")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("share", [0, -1, 100.1, math.nan])
def test_percentiles_out_of_range_are_refused(share: float, rng: np.random.Generator) -> None:
    with pytest.raises(InputError, match="expected a percentile above 0 and up to 100"):
        amax(histogram(gaussian(rng)), "percentile", share)
