"""The time that a patch takes in each precision, in the engines that are installed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from fctl.runtime.bundle.store import Bundle
from fctl.runtime.engines.base import RunPrecision
from fctl.runtime.engines.choose import choose_engine
from fctl.runtime.errors import EngineError
from fctl.runtime.segment.batches import PatchBatch, joined
from fctl.runtime.segment.opening import load_network

ENGINES = ("openvino", "onnxruntime")
"""The engines that are timed, where they are installed."""

_PRECISIONS: tuple[RunPrecision, ...] = ("fp32", "bf16", "int8")
_ROUNDS = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How fast an engine is.

    Attributes:
        engine: Its name.
        seconds: The seconds that a patch takes with all of its contexts, by precision.
    """

    engine: str
    seconds: dict[RunPrecision, float]

    @property
    def gain(self) -> float:
        """How many times as fast as the fastest other precision int8 is."""
        return min(value for name, value in self.seconds.items() if name != "int8") / self.seconds["int8"]


def speeds(bundle: Bundle, batch: PatchBatch, engines: Sequence[str] = ENGINES) -> tuple[Speed, ...]:
    """Time a patch: medians over rounds in which all precisions take turns, so that a busy machine slows all alike.

    Args:
        bundle: A bundle with fp32 and int8 graphs.
        batch: A batch of one patch.
        engines: The engines, by name.

    Returns:
        What each engine took; those that are not installed, or cannot run both precisions, are left out.
    """
    found = []
    for engine in engines:
        runs = {precision: run for precision in _PRECISIONS if (run := _runner(bundle, engine, precision, batch))}
        if "int8" not in runs or "fp32" not in runs:
            continue
        taken: dict[RunPrecision, list[float]] = {precision: [] for precision in runs}
        for _ in range(_ROUNDS):
            for precision, run in runs.items():
                started = time.perf_counter()
                run()
                taken[precision].append(time.perf_counter() - started)
        seconds = {precision: statistics.median(values) for precision, values in taken.items()}
        found.append(Speed(engine=engine, seconds=seconds))
    return tuple(found)


def _runner(bundle: Bundle, engine: str, precision: RunPrecision, batch: PatchBatch) -> Callable[[], object] | None:
    """A function that runs the patch and has run it once; None where the engine is missing or lacks the precision."""
    try:
        network = load_network(bundle, choose_engine(engine, precision), 1)
        run = partial(network.run, joined([batch], network.batch))
        run()
    except EngineError:
        return None
    return run
