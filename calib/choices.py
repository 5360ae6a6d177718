"""What calibration can be told, as types: a module of its own, so that ``--help`` finds them without loading numpy."""

from __future__ import annotations

from typing import Literal

Method = Literal["minmax", "percentile", "entropy", "mse"]
"""How the range of an activation is found."""
