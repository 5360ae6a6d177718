"""Batches that run in parts at the same time: cores that work on patches of their own need not wait for each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
from numpy.typing import NDArray

from ..bundle.manifest import BATCH, GraphSpec
from .base import Arrays, Session
from .processor import cores

Sessions = Callable[[int, int], Sequence[Session]]
"""Makes sessions of one graph that can run at the same time, of a batch size and as many as asked for."""


def parts_of(graph: GraphSpec, batch: int) -> int:
    """Into how many parts a batch is divided: as many as cores and patches can both be divided into without a rest.

    Args:
        graph: The graph; one whose batch is fixed is not divided.
        batch: Patches at once.

    Returns:
        The number of parts, 1 for one patch.
    """
    divisible = all(spec.shape[0] == BATCH for spec in (*graph.inputs, *graph.outputs))
    return math.gcd(batch, cores()) if divisible else 1


def parted(graph: GraphSpec, batch: int, make: Sessions, *, whole: bool = False) -> Session:
    """A session that runs its batches in parts.

    Args:
        graph: The graph.
        batch: Patches at once.
        make: Makes the sessions of the parts.
        whole: Whether there is one part only.

    Returns:
        The session; that of the only part where there is one.
    """
    parts = 1 if whole else parts_of(graph, batch)
    sessions = make(batch // parts, parts)
    return sessions[0] if parts == 1 else _Parted(graph, batch, sessions)


class _Parted(Session):
    """Sessions of one graph, each of which runs its part of a batch in a thread of its own."""

    def __init__(self, graph: GraphSpec, batch: int, sessions: Sequence[Session]) -> None:
        super().__init__(graph, batch)
        self._sessions, self._threads = sessions, ThreadPoolExecutor(len(sessions) - 1, "fctl-part")

    def _run(self, inputs: Mapping[str, NDArray[np.generic]]) -> Arrays:
        cut = {name: np.split(array, len(self._sessions)) for name, array in inputs.items()}
        (first, part), *others = (
            (session, {name: pieces[index] for name, pieces in cut.items()})
            for index, session in enumerate(self._sessions)
        )
        running = [self._threads.submit(session.run, pieces) for session, pieces in others]
        try:
            found = [first.run(part), *(one.result() for one in running)]
        finally:
            wait(running)  # whatever happens, Ctrl-C too: nothing runs on behind the caller's back
        return {name: np.concatenate([outputs[name] for outputs in found]) for name in self._given}
