"""Engines in a process of their own: the same numbers, and an error where the engine would have ended this process."""

from __future__ import annotations

import gc
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from fctl.runtime.bundle.manifest import SEGMENTER
from fctl.runtime.bundle.store import read_bundle
from fctl.runtime.cuda import driver
from fctl.runtime.engines.base import Session
from fctl.runtime.engines.choose import choose_engine
from fctl.runtime.engines.isolated import Isolated
from fctl.runtime.engines.messages import receive, send
from fctl.runtime.errors import EngineError, InputError
from fctl.runtime.segment.opening import open_network
from fctl.runtime.segment.selfcheck import check_batch
from tests.runtime import tiny

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals")

_PATIENCE = 10.0  # seconds that a thread may take to end
PATCH = {"patch": np.arange(2 * 4 * 16 * 16, dtype=np.uint16).reshape(2, 4, 16, 16)}


def children() -> set[int]:
    """The processes that this one started and that are there, dead or alive."""
    tasks = Path("/proc/self/task")
    if not tasks.exists():
        pytest.skip("needs Linux's /proc")
    return {int(pid) for task in tasks.iterdir() for pid in (task / "children").read_text().split()}


@pytest.fixture(params=["openvino", "onnxruntime"])
def engine(request: pytest.FixtureRequest) -> Iterator[Isolated]:
    """An engine in a process of its own; afterwards neither the process nor a thread is left."""
    pytest.importorskip(request.param)
    choose_engine(request.param, "fp32").close()
    before, threads = children(), set(threading.enumerate())
    made = choose_engine(request.param, "fp32", isolate=True)
    assert isinstance(made, Isolated)
    yield made
    made.close()
    assert children() <= before
    gc.collect()  # errors that were caught keep frames, and these the sessions beside it, whose threads end with them
    for left in set(threading.enumerate()) - threads:
        left.join(_PATIENCE)
    assert set(threading.enumerate()) <= threads


def session_of(engine: Isolated, bundle: Path = tiny.TINY_PLAIN) -> Session:
    path, graph = read_bundle(bundle).graph(SEGMENTER, "fp32")
    return engine.session(path, graph, 2)


def child_of(engine: Isolated) -> int:
    return engine._child._process.pid


def test_it_gives_what_the_engine_gives(engine: Isolated) -> None:
    path, graph = read_bundle(tiny.TINY_PLAIN).graph(SEGMENTER, "fp32")
    plain = choose_engine(engine.name, "fp32")
    session, inside = session_of(engine), plain.session(path, graph, 2)
    assert (engine.name, engine.device, engine.precision, engine.notes) == (
        plain.name, plain.device, plain.precision, plain.notes,
    )  # fmt: skip
    for _ in range(2):
        np.testing.assert_array_equal(session.run(PATCH)["logits"], inside.run(PATCH)["logits"])


def test_an_engine_that_dies_at_work_is_an_error(engine: Isolated) -> None:
    session = session_of(engine)
    os.kill(child_of(engine), signal.SIGSEGV)
    expected = (
        f"{engine.name} ended with signal SIGSEGV while running segmenter.onnx; choose another `backend`, or take the "
        "bundle from someone you trust"
    )
    with pytest.raises(EngineError) as caught:
        session.run(PATCH)
    assert str(caught.value) == expected
    with pytest.raises(EngineError, match=r"ended with signal SIGSEGV .*; open the bundle again"):
        session.run(PATCH)


def test_an_engine_that_dies_at_loading_is_an_error(engine: Isolated) -> None:
    os.kill(child_of(engine), signal.SIGKILL)
    with pytest.raises(
        EngineError, match=r"ended with signal SIGKILL \(which is also .*\) while loading segmenter.onnx"
    ):
        session_of(engine)


def test_a_refusal_is_the_engines_own(engine: Isolated, tmp_path: Path) -> None:
    _, graph = read_bundle(tiny.TINY_PLAIN).graph(SEGMENTER, "fp32")
    path = tmp_path / "segmenter.onnx"
    path.write_bytes(b"hello")
    with pytest.raises(EngineError, match=r"cannot load .*segmenter.onnx") as caught:
        engine.session(path, graph, 1)
    assert "\n" not in str(caught.value)
    assert session_of(engine).run(PATCH)["logits"].shape == (2, 2, 16, 16)  # and goes on


INTERRUPTED = """
import os, signal, sys, threading, time
from tests.runtime.engines.test_isolated import PATCH, EngineError, child_of, choose_engine, session_of
engine = choose_engine(sys.argv[1], "fp32", isolate=True)
session = session_of(engine)
os.kill(child_of(engine), signal.SIGSTOP)
signal.signal(signal.SIGINT, signal.default_int_handler)  # which shells take from jobs in the background
main = threading.main_thread().ident
timer = threading.Timer(1, signal.pthread_kill, (main, signal.SIGINT))
timer.start()
try:
    session.run(PATCH)
    time.sleep(10)
except KeyboardInterrupt:
    print("interrupted")
timer.join()
try:
    session.run(PATCH)
except EngineError as error:
    print(error)
engine.close()
"""


@pytest.mark.once
@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_an_interrupted_run_leaves_nothing_behind(name: str) -> None:
    """The answer of an interrupted request must never pass for that of the next; a whole process is interrupted."""
    pytest.importorskip(name)
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", INTERRUPTED, name]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120, check=False)
    first, second = result.stdout.splitlines()
    assert first == "interrupted"
    assert "was interrupted while running segmenter.onnx; open the bundle again" in second


def test_nothing_that_the_child_sends_is_believed() -> None:
    """It may be in the hands of the graph."""
    wanted = {"logits": ("float32", (1, 2))}
    stream = io.BytesIO()
    send(cast("io.RawIOBase", stream), {}, {"logits": np.zeros((1, 2), np.float32)})
    good = stream.getvalue()
    _, arrays = receive(cast("io.RawIOBase", io.BytesIO(good)), wanted)
    assert arrays["logits"].shape == (1, 2)
    for content in (
        good.replace(b"[1, 2]", b"[9, 9]"), good.replace(b"float32", b"float64"), good.replace(b"logits", b"others"),
        (1 << 40).to_bytes(8, "little"), (4).to_bytes(8, "little") + b"null", (2).to_bytes(8, "little") + b"{}",
        (3).to_bytes(8, "little") + b"\xff\xff\xff", (9000).to_bytes(8, "little") + b"[" * 9000,
    ):  # fmt: skip
        with pytest.raises(ValueError):
            receive(cast("io.RawIOBase", io.BytesIO(content)), wanted)
    with pytest.raises(EOFError):
        receive(cast("io.RawIOBase", io.BytesIO(good[:-1])), wanted)


PARENT = """
import os, signal, sys, time
from fctl.runtime.engines.choose import choose_engine
engine = choose_engine("onnxruntime", "fp32", isolate=True)
print(engine._child._process.pid, flush=True)
time.sleep(600)
"""


def test_the_process_ends_with_the_application_however_that_ends() -> None:
    pytest.importorskip("onnxruntime")
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    child = int(parent.stdout.readline())
    os.kill(child, 0)
    parent.kill()
    parent.communicate()
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return
        if state == "Z":  # whoever inherited it has yet to look
            return
        time.sleep(0.05)
    raise AssertionError("the child is still there")


def test_engines_of_gpus_are_refused() -> None:
    expected = "`isolate`: tensorrt runs on a GPU, which cannot be isolated; choose `backend` openvino or onnxruntime"
    with pytest.raises(InputError) as caught:
        choose_engine("tensorrt", "fp32", isolate=True)
    assert str(caught.value) == expected


def test_a_network_runs_in_a_process_of_its_own() -> None:
    pytest.importorskip("onnxruntime")
    bundle, found = read_bundle(tiny.TINY), []
    for isolate in (False, True):
        network = open_network(bundle, "onnxruntime", "fp32", 2, False, isolate=isolate)
        assert isinstance(network.engine, Isolated) == isolate
        batch = check_batch(network.manifest, np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3), 2)
        found.append(np.array(network.on_host(network.run(batch))))
        network.close()
    np.testing.assert_array_equal(*found)


def test_auto_takes_an_engine_of_the_cpu() -> None:
    pytest.importorskip("onnxruntime")
    engine = choose_engine("auto", "fp32", isolate=True)
    engine.close()
    assert engine.name in ("openvino", "onnxruntime")
    used = any("the GPU is not used: `isolate`" in note for note in engine.notes)
    assert used == (driver.missing() is None)
