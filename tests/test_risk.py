"""The bounds of docs/adaptive.md (experiments/risk.py) hold as often as they promise, and are not idle."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from experiments.risk import (
    Values,
    below,
    betting,
    calibrated,
    clopper_pearson,
    coverage_at,
    curve,
    hoeffding_bentkus,
    least_draws,
)

CONFIDENCE, LIMIT = 0.95, 0.005
BOUNDS = [betting, hoeffding_bentkus]


def draws(random: np.random.Generator, count: int) -> Values:
    """Losses as patches have them: most lose nothing, some a little, a few much; their mean is 0.02."""
    kind = random.choice(3, count, p=(0.7, 0.28, 0.02))
    losses: Values = np.select([kind == 1, kind == 2], [random.beta(1, 24, count), random.beta(2, 2.54545, count)])
    return losses


MEAN = 0.28 / 25 + 0.02 * 2 / 4.54545


def test_where_nothing_is_lost_the_bounds_have_a_closed_form() -> None:
    nothing = np.zeros(1000)
    assert math.isclose(hoeffding_bentkus(nothing, CONFIDENCE), 1 - 0.05 ** (1 / 1000), rel_tol=1e-6)
    assert math.isclose(clopper_pearson(0, 1000, CONFIDENCE), 1 - 0.05 ** (1 / 1000), rel_tol=1e-6)
    few = 0.05 ** (-1 / 6) - 1  # the first draws bet less than all while the variance is unknown; 6 draws bet all
    assert math.isclose(betting(np.zeros(6), CONFIDENCE), few, rel_tol=1e-6)


def test_clopper_pearson_is_that_of_the_tables() -> None:
    assert math.isclose(clopper_pearson(3, 20, 0.975), 0.3789, abs_tol=5e-5)  # upper end of the two-sided 95 %
    assert clopper_pearson(20, 20, CONFIDENCE) == 1


def test_a_limit_takes_as_many_draws_as_no_coin_could_hide_from() -> None:
    count = least_draws(LIMIT, CONFIDENCE)
    assert clopper_pearson(0, count, CONFIDENCE) <= LIMIT < clopper_pearson(0, count - 1, CONFIDENCE)
    assert not below(np.zeros(count - 1), LIMIT, CONFIDENCE)


@pytest.mark.parametrize("bound", BOUNDS)
def test_a_bound_fails_no_more_often_than_it_says(bound: Callable[[Values, float], float]) -> None:
    random = np.random.default_rng(0)
    found = np.array([bound(draws(random, 300), 0.8) for _ in range(300)])
    assert (found < MEAN).mean() <= 0.2 + 3 * math.sqrt(0.2 * 0.8 / 300)
    assert np.median(found) < 3 * MEAN, "a bound that says nothing would never fail"


def test_the_mean_of_the_draws_is_no_bound() -> None:
    random = np.random.default_rng(0)
    assert np.mean([draws(random, 300).mean() < MEAN for _ in range(300)]) > 0.4


def test_betting_tells_more_than_the_mean_does_where_losses_vary_little() -> None:
    losses = draws(np.random.default_rng(1), 2000)
    assert losses.mean() < betting(losses, CONFIDENCE) < hoeffding_bentkus(losses, CONFIDENCE)


@pytest.mark.parametrize("limit", [0.015, 0.03])
def test_below_agrees_with_the_bound(limit: float) -> None:
    random = np.random.default_rng(2)
    for _ in range(20):
        losses = draws(random, 500)
        assert below(losses, limit, CONFIDENCE) == (betting(losses, CONFIDENCE) <= limit)


def test_a_calibrated_gate_loses_too_much_no_more_often_than_it_says() -> None:
    random = np.random.default_rng(3)
    scores = random.random(4000)
    losses = np.minimum(draws(random, 4000) * 2 * (1 - scores), 1.0)  # the surer, the less is lost
    grid = [step / 50 for step in range(51)]
    failed, kept = 0, list[float]()
    for _ in range(200):
        drawn = random.integers(4000, size=800)
        rule = calibrated(scores[drawn], losses[drawn], 0.01, 0.8, grid)
        failed += np.where(scores >= rule.threshold, losses, 0).mean() > 0.01
        kept.append(rule.coverage)
        assert rule.bound <= 0.01
    assert failed / 200 <= 0.2 + 3 * math.sqrt(0.2 * 0.8 / 200)
    assert 0.1 < np.median(kept) < 0.9


def test_nothing_is_kept_where_too_little_was_drawn() -> None:
    rule = calibrated(np.linspace(0, 1, 100), np.zeros(100), LIMIT, CONFIDENCE, [0.0, 0.5])
    assert (rule.threshold, rule.coverage) == (math.inf, 0)


def test_risk_against_coverage() -> None:
    scores, losses = np.array([0.1, 0.9, 0.5, 0.7]), np.array([0.4, 0.0, 0.2, 0.1])
    coverage, risk = curve(scores, losses)
    assert np.allclose(coverage, [0, 0.25, 0.5, 0.75, 1])
    assert np.allclose(risk, [0, 0, 0.025, 0.075, 0.175])
    assert coverage_at(scores, losses, 0.08) == 0.75
