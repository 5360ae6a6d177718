"""Batches that run in parts at the same time: the same numbers, and the same errors, as in one go."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fctl.runtime import Segmenter
from fctl.runtime.bundle.manifest import SEGMENTER, GraphSpec
from fctl.runtime.bundle.store import read_bundle
from fctl.runtime.engines import parts
from fctl.runtime.engines.base import Arrays, Session
from fctl.runtime.engines.parts import parted, parts_of
from fctl.runtime.errors import DeviceMemoryError
from tests.runtime import tiny


def graph_of(bundle: Path = tiny.TINY_PLAIN) -> GraphSpec:
    return read_bundle(bundle).graph(SEGMENTER, "fp32")[1]


def machine_of(monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    monkeypatch.setattr(parts, "cores", lambda: cores)


@pytest.mark.parametrize(
    ("cores", "batch", "expected"),
    [(1, 4, 1), (2, 1, 1), (2, 4, 2), (2, 3, 1), (4, 4, 4), (8, 4, 4), (6, 4, 2), (8, 16, 8)],
)
def test_every_core_has_as_much_to_do(cores: int, batch: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    machine_of(monkeypatch, cores)
    assert parts_of(graph_of(), batch) == expected
    assert parts_of(graph_of(tiny.TINY_FIXED), batch) == 1  # whose batch is part of the graph


class Meeting(Session):
    """Ends only when as many run as should at the same time; gives the first value of each patch."""

    def __init__(self, graph: GraphSpec, batch: int, barrier: threading.Barrier) -> None:
        super().__init__(graph, batch)
        self._barrier = barrier

    def _run(self, inputs: Mapping[str, NDArray[np.generic]]) -> Arrays:
        self._barrier.wait(20)
        (name, (dtype, shape)), first = next(iter(self._given.items())), inputs["patch"][:, :1, :1, :1]
        return {name: np.broadcast_to(first, shape).astype(dtype)}


def patches(count: int) -> dict[str, NDArray[np.generic]]:
    values = np.arange(count, dtype=np.uint16).reshape(count, 1, 1, 1)
    return {"patch": np.broadcast_to(values, (count, 4, 16, 16))}


def test_parts_run_at_the_same_time_and_come_back_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    machine_of(monkeypatch, 3)
    barrier = threading.Barrier(3)
    session = parted(graph_of(), 6, lambda size, count: [Meeting(graph_of(), size, barrier) for _ in range(count)])
    [scores] = session.run(patches(6)).values()
    assert scores[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]


class Full(Session):
    """Runs out of memory."""

    def _run(self, inputs: Mapping[str, NDArray[np.generic]]) -> Arrays:
        raise MemoryError


def test_what_fails_in_a_part_fails_in_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    machine_of(monkeypatch, 2)
    session = parted(graph_of(), 2, lambda size, count: [Full(graph_of(), size) for _ in range(count)])
    with pytest.raises(DeviceMemoryError, match=r"^segmenter: the engine failed: .*; try a smaller batch$"):
        session.run(patches(2))


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("bundle", [tiny.TINY, tiny.TINY_ONCE, tiny.TINY_FLOAT], ids=lambda bundle: bundle.stem)
def test_masks_have_the_same_bytes_for_any_batch_and_any_cores(
    bundle: Path, backend: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = pytest.importorskip(backend)
    assert library is not None
    image = rng.integers(0, 256, (45, 70, 3))
    found = []
    for cores, batch in ((1, 1), (1, 4), (2, 4), (4, 4), (4, 8), (3, 3)):
        machine_of(monkeypatch, cores)
        with Segmenter(bundle, backend=backend, batch=batch, contexts="auto") as segmenter:
            pixels = image.astype(segmenter.manifest.input.dtype)
            found.append(segmenter.segment(pixels, probabilities=True))
    first = found[0]
    assert first.probabilities is not None and len(np.unique(first.ids)) > 1
    for other in found[1:]:
        assert other.probabilities is not None
        np.testing.assert_array_equal(other.ids, first.ids)
        np.testing.assert_array_equal(other.probabilities, first.probabilities)
