"""Engines for the simulated GPU: ONNX Runtime on the CPU, at work when a stream's turn comes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from fctl.runtime.bundle.manifest import GraphSpec
from fctl.runtime.engines import base
from fctl.runtime.engines.base import GpuEngine, Request, RunPrecision
from fctl.runtime.engines.onnxruntime import OnnxRuntimeDeviceSession
from tests.runtime.cuda import simulated


class OnStream(OnnxRuntimeDeviceSession):
    """Inputs and outputs are bound by address, as on a real GPU, whose memory is the host's here."""

    capturable = True
    batch = 0

    def __init__(self, path: Path, graph: GraphSpec, batch: int, stream: int) -> None:
        super().__init__(path, graph, batch, [("CPUExecutionProvider", {})])
        self._stream, self.batch = stream, batch
        self.runs: list[dict[str, int]] = []

    def enqueue(self, pointers: Mapping[str, int]) -> None:
        kept = dict(pointers)
        self.runs.append(kept)
        simulated.enqueue(self._stream, lambda: super(OnStream, self).enqueue(kept))

    def close(self) -> None:
        StreamEngine.closed.append(self.batch)
        super().close()


class StreamEngine(GpuEngine):
    """An engine of such sessions."""

    name = "onnxruntime-cuda"
    closed: ClassVar[list[int]] = []

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self.sessions: dict[tuple[str, int], OnStream] = {}

    @classmethod
    def precisions(cls) -> tuple[RunPrecision, ...]:
        return base.RUN_PRECISIONS

    def device_session(self, path: Path, graph: GraphSpec, batch: int, stream: int) -> OnStream:
        session = OnStream(path, graph, batch, stream)
        self.sessions[graph.role, batch] = session
        return session


def use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `Segmenter` take it, whatever it is asked for."""

    def choose(backend: str, precision: RunPrecision, *rest: Any, **options: Any) -> StreamEngine:
        return StreamEngine(Request(precision=precision))

    monkeypatch.setattr("fctl.runtime.segment.opening.choose_engine", choose)
