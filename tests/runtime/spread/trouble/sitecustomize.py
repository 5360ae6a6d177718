"""Makes trouble in the processes of a test, and notes what they do.

Python imports this file at its start wherever its folder is in PYTHONPATH. FCTL_TROUBLE names a folder: files in it say
what is to go wrong, and what was noted is written there. Shards have at most two rows of tiles in these processes.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ.get("FCTL_TROUBLE", ""))


def stumble() -> None:
    """Die, once for each file "die-..."; or stop, once for each file "hold-...", until a file "held-..." is removed.

    Files "later-..." do as "hold-...", once a shard is finished.
    """
    if taken("die-*"):
        os.kill(os.getpid(), signal.SIGKILL)
    if taken("hold-*") or ((FOLDER / "makers").exists() and taken("later-*")):
        held = FOLDER / f"held-{os.getpid()}"
        held.touch()
        while held.exists():
            time.sleep(0.02)
    note(str(os.getpid()), "makers")()


def taken(orders: str) -> bool:
    """Whether there is an order, which no other process takes then."""
    for order in FOLDER.glob(orders):
        with contextlib.suppress(FileNotFoundError):
            order.unlink()
            return True
    return False


def before(function: Callable[..., Any], act: Callable[[], object]) -> Callable[..., Any]:
    @functools.wraps(function)
    def changed(*args: Any, **options: Any) -> Any:
        act()
        return function(*args, **options)

    return changed


def note(word: str, where: str = "noted") -> Callable[[], object]:
    def write() -> None:
        with (FOLDER / where).open("a") as file:
            file.write(word + "\n")

    return write


if "FCTL_TROUBLE" in os.environ and "resource_tracker" not in str(sys.orig_argv):
    from fctl.runtime.raster import source
    from fctl.runtime.raster.missing import Missing
    from fctl.runtime.segment import batches, memory, shardwork
    from fctl.runtime.segment.shards import parts, plan
    from fctl.runtime.spread import tasks

    plan._HIGHEST = 2
    parts.PartWriter.finish = before(parts.PartWriter.finish, stumble)
    tasks.cut = before(tasks.cut, note("cut"))
    shardwork.spooled = before(shardwork.spooled, note("copied"))
    source.scaling_of = before(source.scaling_of, note("measured"))
    Missing._range = before(Missing._range, note("measured"))
    real_scene, needs_spooling = batches.cut_scene, memory.needs_spooling
    batches.cut_scene = before(real_scene, note("scene"))
    memory.needs_spooling = lambda *args: (FOLDER / "awkward").exists() or needs_spooling(*args)
