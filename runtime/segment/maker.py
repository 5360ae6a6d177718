"""What computes the shards of a run, as far as the bytes of its outputs depend on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..bundle.store import Bundle
from ..engines.base import Engine, GpuEngine
from ..engines.choose import engine_version
from ..engines.processor import described


@dataclass(frozen=True, slots=True, kw_only=True)
class Maker:
    """A bundle in an engine.

    Attributes:
        bundle: Name of the bundle, and the beginning of a digest of its manifest.
        engine: Name of the engine.
        version: Its version; "" where it has none.
        device: What it runs on.
        processor: The kind of processor, whose instruction set decides on the last bit of a score; "" on a GPU.
        precision: In what precision it runs.
        turns: In how many ways each patch is segmented.
        once: Whether contexts are encoded once a raster.
    """

    bundle: str
    engine: str
    version: str
    device: str
    processor: str
    precision: str
    turns: int
    once: bool

    @classmethod
    def of(cls, bundle: Bundle, engine: Engine, turns: int, once: bool) -> Maker:
        """What a bundle is in an engine that was opened.

        Args:
            bundle: The bundle.
            engine: The engine.
            turns: In how many ways each patch is segmented.
            once: Whether contexts are encoded once a raster.

        Returns:
            What makes outputs.
        """
        return cls(
            bundle=told(bundle), engine=engine.name, version=engine_version(engine.name), device=engine.device,
            processor="" if isinstance(engine, GpuEngine) else described(), precision=engine.precision,
            turns=turns, once=once,
        )  # fmt: skip

    def request(self) -> dict[str, object]:
        """What a run's journal keeps of it, by names that a message can use."""
        return {
            "bundle": self.bundle,
            "engine": f"{self.engine} {self.version}".strip(),
            "device": self.device,
            "processor": self.processor,
            "precision": self.precision,
            "turns": self.turns,
            "contexts": "shared" if self.once else None,
        }

    @classmethod
    def of_request(cls, request: Mapping[str, object]) -> Maker:
        """What `request` was made of.

        Raises:
            KeyError: Something is missing.
        """
        engine, _, version = str(request["engine"]).partition(" ")
        return cls(
            bundle=str(request["bundle"]), engine=engine, version=version, device=str(request["device"]),
            processor=str(request["processor"]), precision=str(request["precision"]),
            turns=int(str(request["turns"])), once=request["contexts"] == "shared",
        )  # fmt: skip


def told(bundle: Bundle) -> str:
    """What a journal calls a bundle."""
    return f"{bundle.manifest.name} {bundle.digest[:12]}"
