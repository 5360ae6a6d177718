"""Real orders of a run, and a task that takes them and does nothing: what a scheduler has to carry for each shard."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np

from fctl.runtime import Paths
from fctl.runtime.segment.jobs import FileJob
from fctl.runtime.segment.shards.journal import Done
from fctl.runtime.spread import tasks
from fctl.runtime.spread.crew import Outcomes
from fctl.runtime.spread.lead import Lead
from fctl.runtime.spread.orders import Computed, Orders, Setup

from .rasters import write_raster

_Result = TypeVar("_Result")


class _HeardError(Exception):
    """The orders are known."""


class _Listener:
    """A crew that does in this process what is asked, until shards are: it keeps their orders."""

    size, elsewhere = 2, False

    def __init__(self) -> None:
        self.orders: Orders | None = None

    def any(self, task: Callable[..., _Result], *arguments: object) -> _Result:
        """Do a task here."""
        return Outcomes().result(tasks.guarded("", None, task, *arguments))

    def all(self, task: Callable[..., _Result], *arguments: object) -> dict[str, _Result]:
        """Do a task here."""
        return {"": self.any(task, *arguments)}

    def each(self, task: Callable[..., _Result], items: Iterable[tuple[object, ...]]) -> Iterator[_Result]:
        """Do tasks here, or keep the orders of a shard."""
        for item in items:
            if isinstance(item[0], Orders) and len(item) == 2:
                self.orders = item[0]
                raise _HeardError
            yield self.any(task, *item)

    def send(self, digest: str, data: bytes) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def real_orders(folder: Path) -> Orders:
    """The orders of a run of the default bundle.

    Args:
        folder: Where its image goes.

    Returns:
        What the leader of the run sends with each shard.
    """
    image, listener = folder / "image.tif", _Listener()
    write_raster(image, np.random.default_rng(0), 3000, 3000)
    job = FileJob(image=image, paths=Paths(mask=folder / "mask.tif", preview=folder / "preview.jpg"))
    try:
        Lead(listener, Setup(bundle="default")).segment_file(job)
    except _HeardError:
        pass
    finally:
        tasks.forget_soon()
    assert listener.orders is not None
    return listener.orders


def nothing(orders: Orders, shard: int) -> Computed:
    """What a worker gives back for a shard, at once."""
    pixels = dict.fromkeys(range(6), 10**7)
    done = Done(shard=shard, size=len(orders.token) * 10**6, pixels=pixels)
    return Computed(done=done, skipped=0, tiles=256, implausible=0)
