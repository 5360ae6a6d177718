"""Real plans of TensorRT-RTX through fctl's own engine, on the simulated GPU.

Only what runs a plan needs a real one: `Runtime` here finds the graph that a plan was built from and computes that,
with ONNX Runtime and when the stream's turn comes. It has no method that the real classes lack, and is as strict.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorrt_rtx")

import tensorrt_rtx as trt

from fctl.runtime import Segmenter
from fctl.runtime.bundle.manifest import GraphSpec
from fctl.runtime.bundle.store import read_bundle, sha256
from fctl.runtime.engines.choose import choose_engine
from fctl.runtime.engines.onnxruntime import OnnxRuntimeDeviceSession
from fctl.runtime.engines.tensorrt import engine as tensorrt
from fctl.runtime.engines.tensorrt.plans import read_record
from fctl.runtime.errors import DeviceMemoryError, EngineError
from tests.runtime import tiny
from tests.runtime.cuda import simulated

from .network import assert_same, expected_of, image_of, on_device, on_host

BUNDLES = [tiny.TINY, tiny.TINY_GLOBAL, tiny.TINY_FUSED, tiny.TINY_GLOBAL_FUSED]


class Runtime:
    """Knows the plans that lie beside the graphs."""

    folder: Path
    refuse = ""
    contexts = 0
    largest = 1000  # batch that there is memory for

    def __init__(self, logger: Any) -> None:
        self.logger = logger
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
        if Runtime.refuse == "load":
            self.logger.log(trt.ILogger.ERROR, "the plan was serialized\nby another version")
            return None
        return Engine(self, plan)


class Engine:
    def __init__(self, runtime: Runtime, plan: bytes) -> None:
        self._runtime = runtime
        path = next(p for p in (Runtime.folder / "engines").glob("*.engine") if p.read_bytes() == plan)
        self._record = read_record(path.with_suffix(".json"))
        self._path, self._graph = read_bundle(Runtime.folder).graph(self._record.role, "fp32")
        self._names = [spec.name for spec in (*self._graph.inputs, *self._graph.outputs)]

    @property
    def num_io_tensors(self) -> int:
        return len(self._names)

    def get_tensor_name(self, index: int) -> str:
        return self._names[index]

    def create_execution_context(self, strategy: Any) -> Context | None:
        assert strategy == trt.ExecutionContextAllocationStrategy.ON_PROFILE_CHANGE
        Runtime.contexts += 1
        return Context(self, self._path, self._graph, self._record.profiles)


class Context:
    def __init__(self, engine: Engine, path: Path, graph: GraphSpec, profiles: tuple[int, ...]) -> None:
        self._engine, self._path, self._graph, self._profiles = engine, path, graph, profiles
        self._profile: int | None = None
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._session: Any = None

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        assert 0 <= profile < len(self._profiles) and stream
        if self._profiles[profile] > Runtime.largest:  # as TensorRT says it, the useful words first
            log = self._engine._runtime.logger.log
            log(trt.ILogger.ERROR, "[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)")
            log(
                trt.ILogger.ERROR,
                "[executionContext.cpp::init::495] Error Code 2: OutOfMemory (no further information)",
            )
            return False
        self._profile = profile
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self._profile is not None
        batch = self._profiles[self._profile]
        spec = next(spec for spec in self._graph.inputs if spec.name == name)
        self._shapes[name] = tuple(shape)
        return tuple(shape) == tuple(batch if isinstance(side, str) else side for side in spec.shape)

    def infer_shapes(self) -> list[str]:
        return [spec.name for spec in self._graph.inputs if spec.name not in self._shapes]

    def set_tensor_address(self, name: str, pointer: int) -> bool:
        assert pointer
        self._addresses[name] = pointer
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert set(self._addresses) == {spec.name for spec in (*self._graph.inputs, *self._graph.outputs)}
        if Runtime.refuse == "run":
            return False
        assert self._profile is not None
        if self._session is None:
            batch = self._profiles[self._profile]
            self._session = OnnxRuntimeDeviceSession(self._path, self._graph, batch, [("CPUExecutionProvider", {})])
        addresses, session = dict(self._addresses), self._session
        simulated.enqueue(stream, lambda: session.enqueue(addresses))
        return True


@pytest.mark.parametrize(
    ("mine", "real"), [(Runtime, trt.Runtime), (Engine, trt.ICudaEngine), (Context, trt.IExecutionContext)]
)
def test_the_stand_in_has_nothing_that_tensorrt_has_not(mine: type, real: type) -> None:
    own = {"folder", "refuse", "contexts", "largest"}
    assert {name for name in vars(mine) if not name.startswith("_")} - own <= set(dir(real))


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = SimpleNamespace(
        Runtime=Runtime, ILogger=trt.ILogger, __version__=trt.__version__,
        ExecutionContextAllocationStrategy=trt.ExecutionContextAllocationStrategy,
    )  # fmt: skip
    monkeypatch.setattr(tensorrt, "load_flavour", lambda flavour: module)
    monkeypatch.setenv("FCTL_CACHE", str(tmp_path / "cache"))
    Runtime.refuse, Runtime.contexts, Runtime.largest = "", 0, 1000


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Path]:
    """Every bundle with engines, by fctl-export in a process that has no GPU at all."""
    folder = tmp_path_factory.mktemp("built")
    found = {bundle: folder / bundle.name for bundle in BUNDLES}
    options = ["--fmt", "trt", "--flavour", "tensorrt-rtx", "--compute-capability", "86", "--batch", "1,3"]
    code = (
        "import sys\n"
        "from fctl.export.cli.command import app\n"
        "for bundle in sys.argv[2:]:\n"
        "    out = sys.argv[1] + '/' + bundle.rpartition('/')[2]\n"
        f"    assert not app([bundle, '--out', out, *{options}], standalone_mode=False)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    subprocess.run([sys.executable, "-c", code, folder, *BUNDLES], env=environment, check=True, capture_output=True)
    return found


@pytest.fixture
def tiny_built(built: dict[Path, Path]) -> Path:
    Runtime.folder = built[tiny.TINY]
    return built[tiny.TINY]


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda bundle: bundle.stem)
def test_plans_run_as_the_graphs_that_they_were_built_from(bundle: Path, built: dict[Path, Path]) -> None:
    Runtime.folder, image = built[bundle], image_of(bundle)
    with Segmenter(built[bundle], backend="tensorrt-rtx", batch=3) as segmenter:
        found = segmenter.segment(image, probabilities=True)
        ids = on_host(segmenter, segmenter.segment_device(on_device(segmenter, image)).ids)
    assert_same(found, expected_of(bundle, image, batch=3))
    np.testing.assert_array_equal(ids, found.ids)
    assert {
        name: count for name, count in simulated.report().items() if name not in ("launches", "contexts") and count
    } == {}


def test_what_ran_is_told(tiny_built: Path) -> None:
    with Segmenter(tiny_built, backend="tensorrt-rtx", batch=1) as segmenter:
        engine = segmenter.engine
        assert (engine.name, engine.device, engine.precision) == ("tensorrt-rtx", "Simulated GPU", "fp32")


def test_auto_takes_plans_that_are_ready(tiny_built: Path) -> None:
    engine = choose_engine("auto", "fp32", read_bundle(tiny_built), batch=3)
    assert engine.name == "tensorrt-rtx"
    engine.close()


def test_auto_goes_on_where_none_is_ready(tiny_built: Path) -> None:
    engine = choose_engine("auto", "fp32", read_bundle(tiny_built), batch=7)
    assert engine.name in ("openvino", "onnxruntime")


def test_a_batch_that_was_not_built_is_refused_with_the_command(tiny_built: Path) -> None:
    with pytest.raises(EngineError, match=r"runs batches of 1 and 3; build it here: fctl-export .* --batch 8"):
        Segmenter(tiny_built, backend="tensorrt-rtx", batch=8)
    assert simulated.report()["memory"] == 0


@pytest.mark.parametrize(
    ("refuse", "told"),
    [
        ("load", "cannot load this engine: the plan was serialized by another version; build it again"),
        ("run", "segmenter: the engine failed"),
    ],
)
def test_what_tensorrt_says_comes_as_one_line(tiny_built: Path, refuse: str, told: str) -> None:
    Runtime.refuse = refuse
    with pytest.raises(EngineError, match=told if refuse == "load" else "the engine failed") as caught:
        Segmenter(tiny_built, backend="tensorrt-rtx", batch=3)
    assert "\n" not in str(caught.value)
    assert simulated.report()["memory"] == 0


def test_no_memory_for_a_context_is_told_from_other_failures(tiny_built: Path) -> None:
    Runtime.largest = 0
    with pytest.raises(DeviceMemoryError, match=r"no context for batch 1: .*\(out of memory\); try a smaller batch"):
        Segmenter(tiny_built, backend="tensorrt-rtx", batch=1)
    assert simulated.report()["memory"] == 0


def test_an_old_complaint_is_not_taken_for_a_new_one(tiny_built: Path) -> None:
    Runtime.largest = 0
    with pytest.raises(DeviceMemoryError):
        Segmenter(tiny_built, backend="tensorrt-rtx", batch=1)
    Runtime.largest, Runtime.refuse = 1000, "run"
    with pytest.raises(EngineError, match="it does not say why") as caught:
        Segmenter(tiny_built, backend="tensorrt-rtx", batch=1)
    assert not isinstance(caught.value, DeviceMemoryError)


def test_too_large_a_batch_is_halved_on_the_same_engine(
    built: dict[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Plans are there for 1 and 3: of 3, the half is 1."""
    Runtime.folder, Runtime.largest = built[tiny.TINY], 1
    image = image_of(tiny.TINY)
    with caplog.at_level(logging.WARNING), Segmenter(built[tiny.TINY], batch=3) as segmenter:
        assert segmenter.engine.name == "tensorrt-rtx"
        found = segmenter.segment(image, probabilities=True)
    assert "out of memory at batch 3, trying 1" in caplog.text
    assert_same(found, expected_of(tiny.TINY, image))


def test_a_broken_library_does_not_keep_auto_from_going_on(tiny_built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(flavour: str) -> None:
        raise EngineError(f"{flavour} is installed but cannot be imported (libnvdla_compiler.so)")

    monkeypatch.setattr(tensorrt, "load_flavour", broken)
    monkeypatch.setattr("fctl.runtime.engines.tensorrt.machines.load_flavour", broken)
    engine = choose_engine("auto", "fp32", read_bundle(tiny_built), batch=3)
    assert engine.name in ("openvino", "onnxruntime")
    (note,) = (note for note in engine.notes if note.startswith("the GPU is not used: "))
    assert "libnvdla_compiler.so" in note
    with pytest.raises(EngineError, match=r"libnvdla_compiler\.so"):
        choose_engine("tensorrt-rtx", "fp32", read_bundle(tiny_built), batch=3)


def test_the_plan_of_another_gpu_is_refused(built: dict[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(built[tiny.TINY], tmp_path / "other.fctl")
    for record in (tmp_path / "other.fctl" / "engines").glob("*.json"):
        record.write_text(record.read_text().replace('"compute_capability": 86', '"compute_capability": 89'))
    with pytest.raises(EngineError, match=r"is for compute capability 8.9, this machine has Simulated GPU"):
        Segmenter(tmp_path / "other.fctl", backend="tensorrt-rtx", batch=3)


def test_a_plan_is_loaded_once_for_all_its_batches(built: dict[Path, Path]) -> None:
    Runtime.folder = built[tiny.TINY_GLOBAL]
    with Segmenter(built[tiny.TINY_GLOBAL], backend="tensorrt-rtx", batch=3) as segmenter:
        plans = segmenter.engine._plans  # type: ignore[attr-defined]
        assert len(plans) == len(read_bundle(built[tiny.TINY_GLOBAL]).manifest.graphs) == Runtime.contexts
    assert sha256(next(iter(plans), Path(__file__)))
