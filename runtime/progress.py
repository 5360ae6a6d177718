"""How long work tells that it goes on: functions that an application passes in."""

from __future__ import annotations

from collections.abc import Callable

TileProgress = Callable[[int, int], None]
"""Called with the tiles (or patches) that are done, and with how many there are in all."""

StageProgress = Callable[[str, int, int], None]
"""Called with the name of a stage, the steps of it that are done, and how many there are in all."""
