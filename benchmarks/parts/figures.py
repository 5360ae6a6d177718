"""The figures that the model of cost is fed with and checked against, as a file keeps them (docs/scale.json)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(kw_only=True)
class Runs:
    """What runs of one network took.

    Attributes:
        side: Height and width of the raster in pixels.
        clock: By way, seconds by the clock in each round.
        workers: By way, how many workers share the cores.
    """

    side: int
    clock: dict[str, list[float]]
    workers: dict[str, int]


@dataclass(kw_only=True)
class Network:
    """What a network costs, measured in one process on one core.

    Attributes:
        opening: Seconds to start a process, open the bundle and the raster, and end, without any pixel.
        shards: Seconds to read, infer, merge and write the shards of a megapixel, with one core.
        both: The same with all cores of the machine.
    """

    opening: float
    shards: float
    both: float


@dataclass(kw_only=True)
class Parameters:
    """What the model of cost is fed with; `benchmarks.cost --measure` makes it.

    Attributes:
        processor: The machine.
        networks: By network, what it costs.
        crew: Seconds to start workers and let them open the bundle, by their number and kind.
        assemble: Seconds to make mask and preview of the shards of a megapixel.
        part: Seconds for each shard that is assembled, on top.
        note: Seconds for each line of the journal.
        task: Seconds that the scheduler takes for each task.
        listing: Seconds to list a thousand names in a store on this machine.
        get: Seconds to fetch a shard from it, on top of its bytes.
        kept: Bytes of a shard, for each pixel.
    """

    processor: str
    networks: dict[str, Network]
    crew: dict[str, float]
    assemble: float
    part: float
    note: float
    task: float
    listing: float
    get: float
    kept: float


@dataclass(kw_only=True)
class Figures:
    """All of them.

    Attributes:
        runs: What runs took, by network: `benchmarks.scale`.
        parameters: What the model is fed with.
        scheduler: What tasks cost in a scheduler, by way: `benchmarks.scheduler`.
    """

    runs: dict[str, Runs] = field(default_factory=dict)
    parameters: Parameters | None = None
    scheduler: dict[str, dict[str, float]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path | None) -> Figures:
        """Read a file; figures that nobody measured yet are missing."""
        if path is None or not path.exists():
            return cls()
        known = json.loads(path.read_text(encoding="utf-8"))
        given = known.get("parameters")
        if given:
            given["networks"] = {name: Network(**one) for name, one in given["networks"].items()}
        return cls(
            runs={name: Runs(**one) for name, one in known.get("runs", {}).items()},
            parameters=Parameters(**given) if given else None, scheduler=known.get("scheduler", {}),
        )  # fmt: skip

    def write(self, path: Path | None) -> None:
        """Write a file, or nothing where there is none."""
        if path:
            path.write_text(json.dumps(_rounded(asdict(self)), indent=1) + "\n", encoding="utf-8")


def _rounded(value: object) -> object:
    """Figures with four digits: more are noise."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list) else value
