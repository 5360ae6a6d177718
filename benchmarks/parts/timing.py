"""Timing by rounds in which steps take turns, because a machine's speed drifts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


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


@dataclass(frozen=True, kw_only=True)
class Timed:
    """What is run, and how long that took in each round.

    Attributes:
        run: Makes a mask (height, width) uint8.
        clock: Seconds by the clock.
        processor: Seconds of all cores.
    """

    run: Callable[[], NDArray[np.uint8]]
    clock: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    def once(self) -> NDArray[np.uint8]:
        """Run, and note how long it took."""
        clock, processor = time.perf_counter(), time.process_time()
        mask = self.run()
        self.clock.append(time.perf_counter() - clock)
        self.processor.append(time.process_time() - processor)
        return mask
