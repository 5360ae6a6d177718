"""The runs of an evaluation: every combination of bundle, engine, precision, augmentation and contexts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from ..bundle.manifest import SEGMENTER, Manifest
from ..bundle.store import Bundle, bundle_argument
from ..engines.base import RunPrecision, graphs_for
from ..engines.choose import choose_engine
from ..errors import InputError

CONTEXT_MODES = ("all", "none", "each")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One way to segment. black: contexts that are shown black; label: what sets it apart from the others."""

    bundle: Bundle
    label: str
    backend: str
    precision: RunPrecision
    tta: bool
    black: tuple[str, ...]
    batch: int
    build_engines: bool = False


def plan_runs(
    bundles: Sequence[Bundle],
    *,
    backends: Sequence[str] = ("auto",),
    precisions: Sequence[RunPrecision] = ("fp32",),
    tta: Sequence[bool] = (False,),
    contexts: Sequence[str] = ("all",),
    batch: int = 4,
    build_engines: bool = False,
) -> tuple[Run, ...]:
    """Every combination, each tried far enough to know that it can run.

    contexts: ``all``; ``none``: all black; ``each``: one run for each context, which is black. Raises EngineError,
    BundleError or InputError for a combination that cannot be.
    """
    names = [bundle.manifest.name for bundle in bundles]
    if len(set(names)) < len(names):
        names = [bundle_argument(bundle.folder) for bundle in bundles]
    runs = []
    for (name, bundle), backend, precision in itertools.product(
        list(zip(names, bundles, strict=True)), backends, precisions
    ):
        engine = _engine_of(bundle, backend, precision, batch, build_engines)
        for turned, black in itertools.product(tta, _black(bundle.manifest, contexts)):
            details = [f"{name}, {engine} {precision}", *(["TTA"] if turned else []), *_told(bundle.manifest, black)]
            runs.append(Run(
                bundle=bundle, label=", ".join(details), backend=engine, precision=precision, tta=turned, black=black,
                batch=batch, build_engines=build_engines,
            ))  # fmt: skip
    return tuple(runs)


def _engine_of(bundle: Bundle, backend: str, precision: RunPrecision, batch: int, build: bool) -> str:
    """Which engine will run."""
    bundle.graph(SEGMENTER, graphs_for(precision))
    with closing(choose_engine(backend, precision, bundle, batch=batch, build=build)) as engine:
        return engine.name


def _black(manifest: Manifest, modes: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Which contexts are black, one entry for each run of a bundle."""
    if unknown := [mode for mode in modes if mode not in CONTEXT_MODES]:
        raise InputError(f"unknown contexts {unknown[0]!r}; known: {', '.join(CONTEXT_MODES)}")
    names = tuple(context.name for context in manifest.contexts)
    chosen: dict[str, tuple[tuple[str, ...], ...]] = {
        "all": ((),),
        "none": (names,),
        "each": tuple((name,) for name in names),
    }
    found = dict.fromkeys(black for mode in modes for black in chosen[mode])
    return tuple(found) or ((),)  # without contexts there is nothing to leave out


def _told(manifest: Manifest, black: tuple[str, ...]) -> list[str]:
    """Which contexts are black, in words."""
    if not black:
        return []
    return ["no contexts"] if len(black) == len(manifest.contexts) else [f"without {', '.join(black)}"]
