"""What kernels need to know of a window and of a way to turn it; any class with these attributes will do."""

from __future__ import annotations

from ctypes import c_int
from typing import NamedTuple, Protocol


class Rectangle(Protocol):
    """A rectangle of pixels. It may reach beyond the image, which is black there."""

    @property
    def y(self) -> int:
        """First row."""
        ...

    @property
    def x(self) -> int:
        """First column."""
        ...

    @property
    def height(self) -> int:
        """Number of rows."""
        ...

    @property
    def width(self) -> int:
        """Number of columns."""
        ...


class Orientation(Protocol):
    """One of the eight ways to lay a square down: mirrored or not, then turned by quarters."""

    @property
    def mirrored(self) -> bool:
        """Whether the square is mirrored left to right first."""
        ...

    @property
    def quarters(self) -> int:
        """How many quarter turns follow counter-clockwise, from 0 to 3."""
        ...


class Box(NamedTuple):
    """A rectangle that is made here."""

    y: int
    x: int
    height: int
    width: int


class Way(NamedTuple):
    """An orientation that is made here."""

    mirrored: bool
    quarters: int


UPRIGHT = Way(mirrored=False, quarters=0)


def turn_arguments(turn: Orientation) -> tuple[c_int, c_int]:
    """An orientation as arguments of a kernel."""
    return c_int(turn.mirrored), c_int(turn.quarters)
