"""How long a patch takes in each precision, in the engines that are here."""

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
from fctl.runtime.segment.batches import PatchBatch
from fctl.runtime.segment.host import HostNetwork

from .watch import filled

ENGINES = ("openvino", "onnxruntime")
_PRECISIONS: tuple[RunPrecision, ...] = ("fp32", "bf16", "int8")
_ROUNDS = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Seconds that a patch takes with all of its contexts, by precision."""

    engine: str
    seconds: dict[RunPrecision, float]

    @property
    def gain(self) -> float:
        """How many times as fast int8 is as the fastest other precision."""
        return min(value for name, value in self.seconds.items() if name != "int8") / self.seconds["int8"]


def speeds(bundle: Bundle, batch: PatchBatch, engines: Sequence[str] = ENGINES) -> tuple[Speed, ...]:
    """Medians over rounds in which all precisions take turns, so that a busy machine slows all alike.

    bundle: with fp32 and int8 graphs. batch: one patch. Engines that are not here, or cannot run both, are left out.
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
    """What runs one patch, warm; None where the engine is not there or does not run the precision."""
    batch = filled(batch, bundle.manifest.fixed_batch)
    try:
        network = HostNetwork(bundle, choose_engine(engine, precision), 1)
        run = partial(_run, network, batch)
        run()
    except EngineError:
        return None
    return run


def _run(network: HostNetwork, batch: PatchBatch) -> None:
    features = {
        context.name: network.encode(context, batch.contexts[context.name]) for context in network.manifest.contexts
    }
    network.segment(batch.patch, features, batch.positions)
