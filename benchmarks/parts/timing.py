"""Timing by rounds in which steps take turns, because a machine's speed drifts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping


def in_turn(steps: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Time several steps in alternating rounds, after each has run once.

    Args:
        steps: The steps, by name.
        rounds: How many times each is timed.

    Returns:
        By name, how many seconds the step took in each round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    for _ in range(rounds):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - started)
    return seconds
