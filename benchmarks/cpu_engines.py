"""What each choice of the CPU's engines brings: python -m benchmarks.cpu_engines [BUNDLE] [--backend openvino].

One image is segmented again and again, by the pipeline with its reader, each time with one setting of the engine
changed. Rounds alternate between the settings, because the machine's speed drifts. Printed are the medians of seconds
on the clock and of processor seconds for each patch, both with the ratio to the engine as fctl runs it, and the share
of pixels that get the same class.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime as ort
import openvino as ov
from numpy.typing import NDArray

from fctl.calib.sample import shipped_images
from fctl.runtime.bundle.manifest import BATCH, GraphSpec
from fctl.runtime.bundle.store import Bundle, read_bundle
from fctl.runtime.engines.base import Arrays, HostEngine, Request, RunPrecision, Session
from fctl.runtime.engines.choose import choose_engine
from fctl.runtime.engines.processor import cores
from fctl.runtime.segment.batches import grid_of
from fctl.runtime.segment.fastest import USUAL_BATCH
from fctl.runtime.segment.host import HostNetwork
from fctl.runtime.tiling.resampling import Pixels

from .parts.networks import mask_of, mosaic
from .parts.timing import Timed

Options = Mapping[str, object]
Mask = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How an engine is set.

    Attributes:
        options: Properties of OpenVINO, or attributes and configuration entries of a session of ONNX Runtime, beside
            those that follow from `parts`.
        batch: Patches at once.
        parts: Into how many parts a batch is divided, which run at the same time; None leaves threads to the library.
        flights: How many parts of the image run at the same time, each in a network of its own.
    """

    options: Options = field(default_factory=dict)
    batch: int = 4
    parts: int | None = 1
    flights: int = 1


_CORES = cores()
_SPIN, _THREADS = "session.intra_op.allow_spinning", "intra_op_num_threads"

ONNX_RUNTIME: dict[str, Setting] = {
    "its defaults: all threads on one patch, spinning": Setting(parts=None),
    "1 thread": Setting(parts=None, options={_THREADS: 1}),
    "all threads on one patch, not spinning": Setting(),
    "all threads on one patch, one more than cores": Setting(options={_THREADS: _CORES + 1}),
    "in parts": Setting(parts=_CORES),
    "in parts, spinning": Setting(parts=_CORES, options={_SPIN: "1"}),
    "in parts, no arena": Setting(parts=_CORES, options={"enable_cpu_mem_arena": False}),
    "in parts, no memory pattern": Setting(parts=_CORES, options={"enable_mem_pattern": False}),
    "in parts, parallel execution": Setting(
        parts=_CORES, options={"execution_mode": ort.ExecutionMode.ORT_PARALLEL, "inter_op_num_threads": _CORES}
    ),
    "in parts, basic optimisation": Setting(
        parts=_CORES, options={"graph_optimization_level": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC}
    ),
    "in parts, extended optimisation": Setting(
        parts=_CORES, options={"graph_optimization_level": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED}
    ),
    "in parts, denormals are zero": Setting(parts=_CORES, options={"session.set_denormal_as_zero": "1"}),
    "batch 1": Setting(batch=1),
    **{f"batch {batch} in parts": Setting(batch=batch, parts=_CORES) for batch in (2, 8, 16)},
    "2 batches in flight, half of the threads each": Setting(flights=2, options={_THREADS: max(1, _CORES // 2)}),
    "2 batches in flight, all threads each": Setting(flights=2),
}
"""Settings of ONNX Runtime, by name."""

OPENVINO: dict[str, Setting] = {
    "its defaults: all threads on one patch": Setting(parts=None),
    "1 thread": Setting(parts=None, options={"INFERENCE_NUM_THREADS": 1}),
    "hint LATENCY": Setting(parts=None, options={"PERFORMANCE_HINT": "LATENCY"}),
    "hint THROUGHPUT": Setting(parts=None, options={"PERFORMANCE_HINT": "THROUGHPUT"}),
    "all threads on one patch, not pinned": Setting(options={"ENABLE_CPU_PINNING": False}),
    "in parts": Setting(parts=_CORES),
    "in parts, pinned": Setting(parts=_CORES, options={"ENABLE_CPU_PINNING": True}),
    "in parts, not pinned": Setting(parts=_CORES, options={"ENABLE_CPU_PINNING": False}),
    "in parts, no hyper-threading": Setting(parts=_CORES, options={"ENABLE_HYPER_THREADING": False}),
    "in parts, denormals are zero": Setting(parts=_CORES, options={"CPU_DENORMALS_OPTIMIZATION": True}),
    "batch 1": Setting(batch=1),
    **{f"batch {batch} in parts": Setting(batch=batch, parts=_CORES) for batch in (2, 8, 16)},
    "batch 3 in 3 parts": Setting(batch=3, parts=3),
    "2 batches in flight, half of the threads each": Setting(
        flights=2, options={"INFERENCE_NUM_THREADS": max(1, _CORES // 2)}
    ),
    "2 batches in flight, all threads each": Setting(flights=2),
}
"""Settings of OpenVINO, by name."""


class Parts(Session):
    """A graph whose batches run in parts at the same time."""

    def __init__(self, graph: GraphSpec, batch: int, parts: Sequence[Callable[[Arrays], Arrays]]) -> None:
        super().__init__(graph, batch)
        self._parts, self._pool = parts, ThreadPoolExecutor(len(parts)) if len(parts) > 1 else None

    def _run(self, inputs: Mapping[str, NDArray[np.generic]]) -> Arrays:
        if self._pool is None:
            return self._parts[0](dict(inputs))
        cut = {name: np.split(array, len(self._parts)) for name, array in inputs.items()}
        jobs = [
            self._pool.submit(part, {name: pieces[i] for name, pieces in cut.items()})
            for i, part in enumerate(self._parts)
        ]
        found = [job.result() for job in jobs]
        return {name: np.concatenate([one[name] for one in found]) for name in found[0]}


class Tuned(HostEngine):
    """An engine with a setting of its own."""

    def __init__(self, name: str, precision: RunPrecision, setting: Setting) -> None:
        super().__init__(Request(precision=precision))
        self.name, self._setting, self._core = name, setting, ov.Core()

    @property
    def device(self) -> str:
        """The CPU."""
        return "CPU"

    @classmethod
    def precisions(cls) -> tuple[RunPrecision, ...]:
        """All."""
        return ("fp32", "bf16", "int8")

    def session(self, path: Path, graph: GraphSpec, batch: int) -> Session:
        """Load one graph; what is run one by one is not divided."""
        parts = math.gcd(self._setting.parts or 1, batch)
        make = self._openvino if self.name == "openvino" else self._onnxruntime
        return Parts(graph, batch, make(path, graph, batch // parts, parts))

    def _onnxruntime(self, path: Path, graph: GraphSpec, batch: int, parts: int) -> list[Callable[[Arrays], Arrays]]:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        own: Options = {} if self._setting.parts is None else {_THREADS: _CORES - parts + 1, _SPIN: "0"}
        for name, value in {**own, **self._setting.options}.items():
            if "." in name:
                options.add_session_config_entry(name, str(value))
            else:
                setattr(options, name, value)
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        names = [spec.name for spec in graph.outputs]
        return [lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))] * parts

    def _openvino(self, path: Path, graph: GraphSpec, batch: int, parts: int) -> list[Callable[[Arrays], Arrays]]:
        model = self._core.read_model(path)
        model.reshape({spec.name: [batch if n == BATCH else n for n in spec.shape] for spec in graph.inputs})
        kind = ov.Type.bf16 if self.precision == "bf16" else ov.Type.f32
        own: Options = {} if self._setting.parts is None else {"NUM_STREAMS": parts, "INFERENCE_NUM_THREADS": _CORES}
        options = {"INFERENCE_PRECISION_HINT": kind, **own, **self._setting.options}
        compiled = self._core.compile_model(model, "CPU", options)
        names = [spec.name for spec in graph.outputs]

        def part() -> Callable[[Arrays], Arrays]:
            request = compiled.create_infer_request()

            def run(inputs: Arrays) -> Arrays:
                results = request.infer({name: np.ascontiguousarray(array) for name, array in inputs.items()})
                return {name: results[name].copy() for name in names}

            return run

        return [part() for _ in range(parts)]


def main() -> None:
    """Time every setting and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", nargs="?", default="default")
    parser.add_argument("--backend", choices=("openvino", "onnxruntime"), default="openvino")
    parser.add_argument("--precision", choices=("fp32", "bf16", "int8"), default="fp32")
    parser.add_argument("--contexts", choices=("exact", "shared"), default="exact")
    parser.add_argument("--only", default="", help="settings whose names hold this text")
    parser.add_argument("--side", type=int, default=832, help="of the image in pixels; 832 has 16 patches of default")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    bundle = read_bundle(arguments.bundle)
    image = mosaic(bundle.manifest, shipped_images(), arguments.side, arguments.side)
    known = OPENVINO if arguments.backend == "openvino" else ONNX_RUNTIME
    once, engine = arguments.contexts == "shared", choose_engine(arguments.backend, arguments.precision)
    assert isinstance(engine, HostEngine)
    ours = HostNetwork(bundle, engine, USUAL_BATCH, once=once)
    timed = {"as fctl runs it": Timed(run=lambda: mask_of(ours, image))}
    for name, setting in known.items():
        if arguments.only in name:
            timed[name] = Timed(run=_runner(bundle, engine, setting, once, image))
    _report(timed, arguments.rounds, len(grid_of(bundle.manifest, *image.shape[:2])))


def _runner(bundle: Bundle, engine: HostEngine, setting: Setting, once: bool, image: Pixels) -> Callable[[], Mask]:
    """What makes the mask of an image with a setting."""
    networks = [
        HostNetwork(bundle, Tuned(engine.name, engine.precision, setting), setting.batch, once=once)
        for _ in range(setting.flights)
    ]
    pool, pieces = ThreadPoolExecutor(len(networks)), np.array_split(image, len(networks))
    return lambda: np.concatenate(list(pool.map(mask_of, networks, pieces)))


def _report(timed: Mapping[str, Timed], rounds: int, patches: int) -> None:
    masks = {name: one.run() for name, one in timed.items()}
    for _ in range(rounds):
        for one in timed.values():
            one.once()
    first = next(iter(timed))
    print("| setting | ms a patch | ratio | processor ms a patch | ratio | same class |\n|---|---|---|---|---|---|")
    for name, one in timed.items():
        clock, processor = statistics.median(one.clock), statistics.median(one.processor)
        print(
            f"| {name} | {1000 * clock / patches:.1f} | {clock / statistics.median(timed[first].clock):.2f} "
            f"| {1000 * processor / patches:.1f} | {processor / statistics.median(timed[first].processor):.2f} "
            f"| {(masks[name] == masks[first]).mean():.4%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
