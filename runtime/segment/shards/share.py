"""A part of a run that one job of many makes."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from ...errors import InputError


@dataclass(frozen=True, slots=True)
class Share:
    """One of several parts into which the shards of a run are divided.

    Attributes:
        index: Which one, from 1.
        count: How many there are.

    Raises:
        InputError: There is no such part.
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise InputError(
                subject="`part`", expected=f"a number from 1 to {max(self.count, 1)} before the stroke", found=str(self)
            )

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @classmethod
    def parsed(cls, text: str) -> Share:
        """The part that a text such as "3/20" names.

        Raises:
            InputError: The text is anything else.
        """
        match = re.fullmatch(r"\s*(\d{1,9})\s*/\s*(\d{1,9})\s*", text, re.ASCII)
        if match is None:
            raise InputError(subject="`part`", expected="a part and how many there are, as in 3/20", found=repr(text))
        return cls(int(match[1]), int(match[2]))

    def of(self, shards: int) -> range:
        """The shards of this part, which follow each other, of so many."""
        return range((self.index - 1) * shards // self.count, self.index * shards // self.count)

    def holding(self, wanted: Collection[int], shards: int) -> list[int]:
        """The parts, by number, to which some of so many shards belong."""
        parts = range(1, self.count + 1)
        return [part for part in parts if any(shard in wanted for shard in Share(part, self.count).of(shards))]
