"""What is timed, and what is made of it; no time is expected."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx")

from fctl.calib import speed
from fctl.calib.speed import Speed, speeds
from fctl.calib.trials import Fp32Graphs, Numbers
from fctl.calib.watch import peaks
from fctl.export.onnx_graph import save_model
from fctl.runtime.bundle.store import Bundle, read_bundle
from fctl.runtime.engines import choose as engines
from fctl.runtime.engines.choose import choose_engine
from fctl.runtime.segment.host import HostNetwork

from ..runtime import tiny
from .test_watch import patches

SOURCES = (tiny.TINY, tiny.TINY_GLOBAL, tiny.TINY_FUSED, tiny.TINY_FIXED)


def with_int8(source: Path, folder: Path) -> Bundle:
    """A bundle with its fp32 graphs and int8 ones, all layers."""
    bundle = read_bundle(source)
    graphs, made = Fp32Graphs.of(bundle), []
    numbers = Numbers(amax=peaks(bundle, patches(bundle, folder, 1), inputs=True), biases={})
    for graph in bundle.manifest.graphs:
        path = folder / f"{graph.role}.int8.onnx"
        save_model(graphs.int8(graph.role, graphs.names[graph.role], numbers), path)
        made.append(replace(graph, precision="int8", file=str(path)))
    return Bundle(bundle.folder, replace(bundle.manifest, graphs=(*bundle.manifest.graphs, *made)))


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_an_engine_has_a_time_for_every_precision_that_it_runs(source: Path, tmp_path: Path) -> None:
    bundle = with_int8(source, tmp_path)
    (batch,) = patches(bundle, tmp_path, 1)
    found = {one.engine: one.seconds for one in speeds(bundle, batch)}
    for name, seconds in found.items():
        runs = choose_engine(name, "fp32").precisions()
        assert list(seconds) == [precision for precision in ("fp32", "bf16", "int8") if precision in runs]
        assert all(value > 0 for value in seconds.values())
    assert "onnxruntime" in found
    assert [one.engine for one in speeds(bundle, batch, ["onnxruntime"])] == ["onnxruntime"]


def test_engines_that_are_not_here_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = with_int8(tiny.TINY, tmp_path)
    (batch,) = patches(bundle, tmp_path, 1)
    absent = replace(engines._ENGINES["openvino"], package="no_such_package")
    monkeypatch.setitem(engines._ENGINES, "openvino", absent)
    assert [one.engine for one in speeds(bundle, batch)] == ["onnxruntime"]
    assert speeds(bundle, batch, ["openvino"]) == ()


def test_precisions_take_turns_and_the_first_run_of_each_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that moves with what runs: the slow first run, and one slow round, are not seen."""
    clock, turns = [0.0], list[str]()

    class Timed(HostNetwork):
        def segment(self, *arguments: Any) -> Any:
            turns.append(self.precision)
            slow = len(turns) <= 2 or len(turns) > 2 * speed._ROUNDS
            clock[0] += {"fp32": 3.0, "int8": 2.0}[self.precision] + (100 if slow else 0)
            return super().segment(*arguments)

    bundle = with_int8(tiny.TINY, tmp_path)
    (batch,) = patches(bundle, tmp_path, 1)
    monkeypatch.setattr("fctl.runtime.segment.opening.HostNetwork", Timed)
    monkeypatch.setattr(speed.time, "perf_counter", lambda: clock[0])
    (found,) = speeds(bundle, batch, ["onnxruntime"])
    assert turns == ["fp32", "int8"] * (1 + speed._ROUNDS)
    assert (found.seconds, found.gain) == ({"fp32": 3.0, "int8": 2.0}, 1.5)


def test_gain_is_over_the_fastest_other_precision() -> None:
    assert Speed(engine="openvino", seconds={"fp32": 0.4, "bf16": 0.3, "int8": 0.2}).gain == pytest.approx(1.5)
    assert Speed(engine="openvino", seconds={"fp32": 0.3, "bf16": 0.6, "int8": 0.6}).gain == pytest.approx(0.5)
    assert Speed(engine="onnxruntime", seconds={"fp32": 0.1, "int8": 0.4}).gain == pytest.approx(0.25)
