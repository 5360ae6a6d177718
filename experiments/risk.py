"""How large a loss is to be expected at most, told from draws, whatever the distribution (docs/adaptive.md).

A loss is the share of a patch's pixels that change: a number from 0 to 1, not a coin. Draws must be independent and of
one distribution, in the order in which they were drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

_STEPS = 40  # halvings of an interval of 0 to 1


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What a gate keeps.

    Attributes:
        threshold: The lowest score that is kept; infinity where nothing may be.
        coverage: The share of the draws that are kept.
        risk: Their mean loss, where those that are not kept lose nothing.
        bound: The upper bound of that mean; NaN where nothing is kept.
    """

    threshold: float
    coverage: float
    risk: float
    bound: float


def betting(losses: Values, confidence: float) -> float:
    """The upper bound of Waudby-Smith and Ramdas (2024), as risk-controlling prediction sets use it.

    Somebody bets against the claim that the mean is R, draw by draw, and never more than is at hand. If the claim is
    true, their capital comes to 1 / (1 - confidence) times its start with a probability of at most 1 - confidence. So
    the claims that let it grow so far are refuted. The variance decides how much is bet.

    Args:
        losses: Losses (n,) from 0 to 1, in the order of the draws.
        confidence: The probability with which the bound holds, from 0 to 1.

    Returns:
        The bound of the mean; 1 where the draws refute nothing.
    """
    bets = _bets(losses, confidence)
    return _highest(lambda mean: _capital(losses, bets, mean) < -math.log(1 - confidence))


def below(losses: Values, limit: float, confidence: float) -> bool:
    """Whether `betting` is at most `limit`, at a fraction of the work."""
    return _capital(losses, _bets(losses, confidence), limit) >= -math.log(1 - confidence)


def hoeffding_bentkus(losses: Values, confidence: float) -> float:
    """The bound of Hoeffding and Bentkus (Bates et al. 2021), which knows the mean of the draws alone.

    Args:
        losses: Losses (n,) from 0 to 1.
        confidence: As in `betting`.

    Returns:
        The bound of the mean.
    """
    count, mean = len(losses), float(losses.mean())
    hits = math.ceil(count * mean - 1e-9)

    def likely(claim: float) -> bool:
        hoeffding = math.exp(-count * _divergence(min(mean, claim), claim))
        return min(hoeffding, math.e * _binomial(hits, count, claim)) > 1 - confidence

    return _highest(likely)


def clopper_pearson(hits: int, count: int, confidence: float) -> float:
    """The exact bound of a share, for coins: one random pixel of every patch.

    Args:
        hits: How many of the pixels changed.
        count: How many were drawn.
        confidence: As in `betting`.

    Returns:
        The bound.
    """
    return _highest(lambda claim: _binomial(hits, count, claim) > 1 - confidence)


def least_draws(limit: float, confidence: float) -> int:
    """How many draws it takes at least until a mean of `limit` is refuted, if no draw loses anything.

    Any bound that holds for all losses from 0 to 1 needs as many: they might come from a coin that falls on 1 with
    probability `limit`, and nobody would have seen it.
    """
    return math.ceil(math.log(1 - confidence) / math.log1p(-limit))


def calibrated(
    scores: Values,
    losses: Values,
    limit: float,
    confidence: float,
    grid: Sequence[float],
    passes: Callable[[Values, float, float], bool] = below,
) -> Rule:
    """Choose the threshold with which a mean loss of at most `limit` is sure enough.

    The mean loss falls as the threshold rises, so thresholds are tried from the highest down to the first that fails,
    and none of the tries costs confidence (Bates et al. 2021).

    Args:
        scores: How sure the cheaper prediction is of each draw, (n,).
        losses: What it loses, (n,), in the order of the draws.
        limit: The highest mean loss.
        confidence: The probability with which it holds.
        grid: The thresholds to try, chosen before the draws were seen.
        passes: Whether the mean of some losses is at most a limit, with a confidence.

    Returns:
        The rule, with the bound of `betting`.
    """
    threshold = math.inf
    for value in sorted(grid, reverse=True):
        if not passes(np.where(scores >= value, losses, 0.0), limit, confidence):
            break
        threshold = value
    kept = scores >= threshold
    lost = np.where(kept, losses, 0.0)
    bound = betting(lost, confidence) if threshold < math.inf else math.nan
    return Rule(threshold=threshold, coverage=float(kept.mean()), risk=float(lost.mean()), bound=bound)


def curve(scores: Values, losses: Values) -> tuple[Values, Values]:
    """Risk against coverage: the mean loss of all if the surest are kept.

    Args:
        scores: How sure the cheaper prediction is, (n,).
        losses: What it loses, (n,).

    Returns:
        Coverage and mean loss (n + 1,), from nothing kept to everything.
    """
    order = np.argsort(-scores, kind="stable")
    return np.arange(len(scores) + 1) / len(scores), np.concatenate([[0.0], losses[order].cumsum()]) / len(scores)


def coverage_at(scores: Values, losses: Values, limit: float) -> float:
    """How many may be kept, the surest first, until the mean loss of all exceeds `limit`, if losses were known."""
    coverage, risk = curve(scores, losses)
    return float(coverage[risk <= limit][-1])


def _bets(losses: Values, confidence: float) -> Values:
    """What is bet on each draw, from the draws before it: at most everything."""
    count = len(losses)
    number = np.arange(1, count + 1)
    means = (0.5 + losses.cumsum()) / (1 + number)
    variances = (0.25 + np.square(losses - means).cumsum()) / (1 + number)
    before = np.concatenate([[0.25], variances[:-1]])
    bets: Values = np.minimum(1.0, np.sqrt(-2 * math.log(1 - confidence) / (count * before)))
    return bets


def _capital(losses: Values, bets: Values, mean: float) -> float:
    """The logarithm of the highest capital of somebody who bets that the mean is below `mean`."""
    with np.errstate(divide="ignore"):  # a loss of 1 takes everything where everything was bet, and the mean is 0
        return float(np.log1p(-bets * (losses - mean)).cumsum().max())


def _highest(possible: Callable[[float], bool]) -> float:
    """The highest value from 0 to 1 up to which a claim is possible."""
    low, high = 0.0, 1.0
    if possible(high):
        return high
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if possible(middle) else (low, middle)
    return high


def _divergence(found: float, claim: float) -> float:
    """How far a coin of probability `found` is from one of probability `claim` (Kullback and Leibler), in nats."""
    return sum(
        one * math.log(one / other) if one > 0 and other > 0 else (math.inf if one > 0 else 0.0)
        for one, other in ((found, claim), (1 - found, 1 - claim))
    )


def _binomial(hits: int, count: int, claim: float) -> float:
    """The probability of at most `hits` of `count` coins of probability `claim`."""
    if claim <= 0 or hits >= count:
        return 1.0
    if claim >= 1:
        return 0.0
    every = math.lgamma(count + 1)
    ways = (every - math.lgamma(k + 1) - math.lgamma(count - k + 1) for k in range(hits + 1))
    yes, no = math.log(claim), math.log1p(-claim)
    return math.fsum(math.exp(way + k * yes + (count - k) * no) for k, way in enumerate(ways))
