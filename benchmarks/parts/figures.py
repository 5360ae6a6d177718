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
class Parameters:
    """What the model of cost is fed with; `benchmarks.cost --measure` makes it. Seconds, where nothing else is said.

    Attributes:
        processor: The machine.
        fixed: By network and way, those of a run of a raster of 600 x 600 pixels.
        tile: By network, those for which one core reads, infers, merges and writes a tile.
        tile_on_all: By network, the same with all cores of the machine for one process.
        preview: By network, those of making a preview of full size, of 1600 pixels.
        assemble: By network, those of making the mask of the shards of a megapixel.
        part: To open the file of a shard that is assembled.
        note: To note a shard in the journal.
        listing: To list a thousand names in a store on this machine (moto).
        get: To fetch a small file from it.
        kept: By network, bytes of a shard for each pixel of the mask.
        image: By network, bytes of the image for each pixel.
    """

    processor: str
    fixed: dict[str, dict[str, float]]
    tile: dict[str, float]
    tile_on_all: dict[str, float]
    preview: dict[str, float]
    assemble: dict[str, float]
    part: float
    note: float
    listing: float
    get: float
    kept: dict[str, float]
    image: dict[str, float]


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
