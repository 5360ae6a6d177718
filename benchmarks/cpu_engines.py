"""What each choice of the CPU's engines brings: python -m benchmarks.cpu_engines [BUNDLE] [--backend openvino].

One image is segmented again and again, by the pipeline with its reader, each time with one setting of the engine
changed. Rounds alternate between the settings, because the machine's speed drifts. Printed are the medians of seconds
on the clock and of processor seconds for each patch, both with the ratio to the engine as fctl runs it, and the share
of pixels that get the same class.
"""

from __future__ import annotations

import argparse
import statistics
import time
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
from fctl.runtime.segment.batches import grid_of
from fctl.runtime.segment.host import HostNetwork
from fctl.runtime.tiling.resampling import Pixels

from .parts.networks import mask_of, mosaic

Options = Mapping[str, object]
Mask = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How an engine is set.

    Attributes:
        options: Properties of OpenVINO, or attributes and configuration entries of a session of ONNX Runtime.
        batch: Patches at once.
        parts: Into how many parts a batch is divided, which run at the same time.
        halves: How many parts of the image run at the same time, each in a network of its own.
    """

    options: Options = field(default_factory=dict)
    batch: int = 4
    parts: int = 1
    halves: int = 1


ONNX_RUNTIME: dict[str, Setting] = {
    "1 thread": Setting(options={"intra_op_num_threads": 1}),
    "a thread more than cores": Setting(options={"intra_op_num_threads": 3}),
    "threads do not spin": Setting(options={"session.intra_op.allow_spinning": "0"}),
    "no arena": Setting(options={"enable_cpu_mem_arena": False}),
    "no memory pattern": Setting(options={"enable_mem_pattern": False}),
    "parallel execution": Setting(
        options={"execution_mode": ort.ExecutionMode.ORT_PARALLEL, "inter_op_num_threads": 2}
    ),
    "basic optimisation": Setting(options={"graph_optimization_level": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC}),
    "extended optimisation": Setting(
        options={"graph_optimization_level": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED}
    ),
    "denormals are zero": Setting(options={"session.set_denormal_as_zero": "1"}),
    **{f"batch {batch}": Setting(batch=batch) for batch in (1, 2, 8, 16)},
    **{
        f"batch {batch} in 2 parts of 1 thread": Setting(batch=batch, parts=2, options={"intra_op_num_threads": 1})
        for batch in (2, 4, 8)
    },
    "2 batches in flight, 1 thread each": Setting(halves=2, options={"intra_op_num_threads": 1}),
    "2 batches in flight, 2 threads each": Setting(halves=2),
    "2 batches in flight, 2 threads each that do not spin": Setting(
        halves=2, options={"session.intra_op.allow_spinning": "0"}
    ),
}
"""Settings of ONNX Runtime, by name."""

OPENVINO: dict[str, Setting] = {
    "1 thread": Setting(options={"INFERENCE_NUM_THREADS": 1}),
    "hint LATENCY": Setting(options={"PERFORMANCE_HINT": "LATENCY"}),
    "hint THROUGHPUT": Setting(options={"PERFORMANCE_HINT": "THROUGHPUT"}),
    "threads pinned": Setting(options={"ENABLE_CPU_PINNING": True}),
    "threads not pinned": Setting(options={"ENABLE_CPU_PINNING": False}),
    "no hyper-threading": Setting(options={"ENABLE_HYPER_THREADING": False}),
    "denormals are zero": Setting(options={"CPU_DENORMALS_OPTIMIZATION": True}),
    **{f"batch {batch}": Setting(batch=batch) for batch in (1, 2, 8, 16)},
    **{
        f"batch {batch} in {parts} parts, {parts} streams": Setting(
            batch=batch, parts=parts, options={"NUM_STREAMS": parts}
        )
        for batch, parts in ((2, 2), (4, 2), (8, 2), (3, 3), (6, 3))
    },
    "2 batches in flight, 1 thread each": Setting(halves=2, options={"INFERENCE_NUM_THREADS": 1}),
    "2 batches in flight, 2 threads each": Setting(halves=2),
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
        parts = self._setting.parts if batch % self._setting.parts == 0 else 1
        make = self._openvino if self.name == "openvino" else self._onnxruntime
        return Parts(graph, batch, make(path, graph, batch // parts, parts))

    def _onnxruntime(self, path: Path, graph: GraphSpec, batch: int, parts: int) -> list[Callable[[Arrays], Arrays]]:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        for name, value in self._setting.options.items():
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
        options = {"INFERENCE_PRECISION_HINT": kind, **self._setting.options}
        compiled = self._core.compile_model(model, "CPU", options)
        names = [spec.name for spec in graph.outputs]

        def part() -> Callable[[Arrays], Arrays]:
            request = compiled.create_infer_request()

            def run(inputs: Arrays) -> Arrays:
                results = request.infer({name: np.ascontiguousarray(array) for name, array in inputs.items()})
                return {name: results[name].copy() for name in names}

            return run

        return [part() for _ in range(parts)]


@dataclass(frozen=True, kw_only=True)
class Timed:
    """A setting, what runs it, and how long that took in each round.

    Attributes:
        run: Makes the mask.
        clock: Seconds by the clock.
        processor: Seconds of all cores.
    """

    run: Callable[[], Mask]
    clock: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    def once(self) -> Mask:
        """Run, and note how long it took."""
        clock, processor = time.perf_counter(), time.process_time()
        mask = self.run()
        self.clock.append(time.perf_counter() - clock)
        self.processor.append(time.process_time() - processor)
        return mask


def main() -> None:
    """Time every setting and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", nargs="?", default="default")
    parser.add_argument("--backend", choices=("openvino", "onnxruntime"), default="openvino")
    parser.add_argument("--precision", choices=("fp32", "bf16", "int8"), default="fp32")
    parser.add_argument("--contexts", choices=("exact", "shared"), default="exact")
    parser.add_argument("--only", default="", help="settings whose names hold this text")
    parser.add_argument("--side", type=int, default=1216, help="of the image in pixels")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    bundle = read_bundle(arguments.bundle)
    image = mosaic(bundle.manifest, shipped_images(), arguments.side, arguments.side)
    known = OPENVINO if arguments.backend == "openvino" else ONNX_RUNTIME
    settings = {name: setting for name, setting in known.items() if arguments.only in name}
    once = arguments.contexts == "shared"
    engine = choose_engine(arguments.backend, arguments.precision)
    base = HostNetwork(bundle, engine, 4, once=once)  # type: ignore[arg-type]
    timed = {"as fctl runs it, batch 4": Timed(run=lambda: mask_of(base, image))}
    for name, setting in settings.items():
        timed[name] = Timed(run=_runner(bundle, arguments.backend, arguments.precision, setting, once, image))
    _report(timed, arguments.rounds, len(grid_of(bundle.manifest, *image.shape[:2])))


def _runner(
    bundle: Bundle, backend: str, precision: RunPrecision, setting: Setting, once: bool, image: Pixels
) -> Callable[[], Mask]:
    networks = [
        HostNetwork(bundle, Tuned(backend, precision, setting), setting.batch, once=once) for _ in range(setting.halves)
    ]
    if len(networks) == 1:
        return lambda: mask_of(networks[0], image)
    pool = ThreadPoolExecutor(len(networks))
    pieces = np.array_split(image, len(networks))
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
