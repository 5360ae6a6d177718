"""The journal of a run: what was asked, then a line for each shard that is done."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

_VERSION = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A shard that is done.

    Attributes:
        shard: Its index in the plan.
        size: Bytes of its file.
        pixels: Pixels by class id; those without data are in none.
        not_finite: Pixels whose scores were not finite.
        implausible: Pixels whose values lie beyond all others, though nobody declared them.
        bad_blocks: Windows of the raster, (y, x, height, width), that could not be read and were taken as missing.
    """

    shard: int
    size: int
    pixels: dict[int, int]
    not_finite: int = 0
    implausible: int = 0
    bad_blocks: tuple[tuple[int, int, int, int], ...] = ()


@dataclass(slots=True)
class Journal:
    """What is known of a run.

    Attributes:
        path: The file.
        request: What was asked, by name; values that JSON keeps as they are.
        plan: How the raster is cut into shards.
        done: The shards that are done, by index.
        outputs: The places of all outputs, once these are complete and about to move there.
    """

    path: Path
    request: dict[str, object]
    plan: dict[str, int]
    done: dict[int, Done] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    _token: str = field(default="", init=False, repr=False)

    @classmethod
    def begin(cls, path: Path, request: Mapping[str, object], plan: Mapping[str, int]) -> Journal:
        """Start a journal.

        Raises:
            OSError: It cannot be written.
        """
        journal = cls(path, dict(request), dict(plan))
        journal._append({"fctl_run": _VERSION, "request": journal.request, "plan": journal.plan})
        return journal

    @classmethod
    def read(cls, path: Path, *, mend: bool = False) -> Journal | None:
        """Read a journal, up to the first line that was not written to its end.

        Args:
            path: The file.
            mend: Whether to cut off what is not read, so that lines can follow; only for who holds the run's lock.

        Returns:
            The journal; None where there is none, or none of this version.
        """
        try:
            lines = path.read_bytes().split(b"\n")
            head = json.loads(lines[0])
            if head["fctl_run"] != _VERSION:
                return None
            plan = {str(name): int(value) for name, value in head["plan"].items()}
            journal = cls(path, dict(head["request"]), plan)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        whole = len(lines[0]) + 1
        for line in lines[1:-1]:  # what follows the last newline was not written to its end
            try:
                journal._take(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                break
            whole += len(line) + 1
        if mend:
            with path.open("r+b") as file:
                file.truncate(whole)
        return journal

    def file(self, shard: int) -> Path:
        """The file of a shard. Its name tells runs apart: one that is over may still have somebody who writes."""
        self._token = self._token or token_of(self.request, self.plan)
        return self.path.with_name(shard_name(shard, self._token))

    @property
    def there(self) -> frozenset[int]:
        """Indices of the shards that are done and whose files are there."""
        return frozenset(index for index, done in self.done.items() if _size(self.file(index)) == done.size)

    def add(self, done: Done) -> None:
        """Note that a shard is done.

        Raises:
            OSError: It cannot be written.
        """
        self._append(asdict(done))
        self.done[done.shard] = done

    def note_assembled(self, outputs: Sequence[str]) -> None:
        """Note that all outputs are complete, and where they go.

        Raises:
            OSError: It cannot be written.
        """
        self._append({"outputs": list(outputs)})
        self.outputs = tuple(outputs)

    def _take(self, entry: dict[str, object]) -> None:
        """Heed a line."""
        if "outputs" in entry:
            outputs = entry["outputs"]
            if not isinstance(outputs, list) or not all(isinstance(output, str) for output in outputs):
                raise TypeError("names of files")
            self.outputs = tuple(outputs)
            return
        pixels, blocks = entry["pixels"], entry["bad_blocks"]
        if not isinstance(pixels, dict) or not isinstance(blocks, list):
            raise TypeError("counts by class id, and a list of windows")
        counts = {int(key): int(value) for key, value in pixels.items()}
        windows = tuple((int(y), int(x), int(height), int(width)) for y, x, height, width in blocks)
        numbers = {name: int(str(entry[name])) for name in ("shard", "size", "not_finite", "implausible")}
        self.done[numbers["shard"]] = Done(pixels=counts, bad_blocks=windows, **numbers)

    def _append(self, entry: Mapping[str, object]) -> None:
        """Write a line, and see that it reaches the disk."""
        with self.path.open("ab") as file:
            file.write(json.dumps(entry).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def token_of(request: Mapping[str, object], plan: Mapping[str, int]) -> str:
    """What tells the shards of a run from those of any run that was asked something else, or cut otherwise."""
    cut = {name: number for name, number in plan.items() if name != "batch"}
    return hashlib.sha256(json.dumps([request, cut], sort_keys=True).encode()).hexdigest()[:8]


def shard_name(shard: int, token: str) -> str:
    """The name of a shard's file.

    Args:
        shard: Its index.
        token: What `token_of` gives.

    Returns:
        A name such as "shard-000012-0f3a9c51.npz".
    """
    return f"shard-{shard:06d}-{token}.npz"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
