"""The runs of an evaluation: every combination of bundle, engine, precision, augmentation and contexts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import get_args

from ..bundle.manifest import SEGMENTER, Manifest
from ..bundle.store import Bundle, bundle_argument
from ..choices import ContextEncoding, ContextMode
from ..engines.base import RunPrecision, graphs_for
from ..engines.choose import choose_engine
from ..errors import InputError
from ..segment.opening import encodes_once

CONTEXT_MODES = get_args(ContextMode)
"""Which contexts a run may show."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One way to segment the images.

    Attributes:
        bundle: The bundle.
        label: What sets the run apart from the others, in words.
        backend: The engine's name.
        precision: In what precision it runs.
        tta: Whether patches are segmented in all eight turns (§4.2).
        black: Names of the contexts that are shown black.
        batch: Patches at once.
        build_engines: Whether engines of TensorRT that are missing may be built.
        once: Whether contexts are encoded once a raster.
    """

    bundle: Bundle
    label: str
    backend: str
    precision: RunPrecision
    tta: bool
    black: tuple[str, ...]
    batch: int
    build_engines: bool = False
    once: bool = False


def plan_runs(
    bundles: Sequence[Bundle],
    *,
    backends: Sequence[str] = ("auto",),
    precisions: Sequence[RunPrecision] = ("fp32",),
    tta: Sequence[bool] = (False,),
    contexts: Sequence[str] = ("all",),
    encodings: Sequence[ContextEncoding] = ("auto",),
    batch: int = 4,
    build_engines: bool = False,
) -> tuple[Run, ...]:
    """Plan a run for every combination, and find an engine for each.

    Args:
        bundles: The bundles.
        backends: Engines, by name; "auto" chooses one.
        precisions: In what precisions to run.
        tta: Whether patches are segmented in all eight turns (§4.2).
        contexts: Which contexts are shown: "all"; "none", where all are black; "each", a run for each, which is black.
        encodings: How contexts are encoded, see `Segmenter`.
        batch: Patches at once.
        build_engines: Whether engines of TensorRT that are missing may be built.

    Returns:
        The runs.

    Raises:
        EngineError: No engine here can run a combination.
        BundleError: A bundle lacks graphs of a precision.
        InputError: A mode of contexts is unknown, or a bundle cannot encode contexts once a raster.
    """
    names = [bundle.manifest.name for bundle in bundles]
    if len(set(names)) < len(names):
        names = [bundle_argument(bundle.folder) for bundle in bundles]
    runs = []
    for (name, bundle), backend, precision in itertools.product(
        list(zip(names, bundles, strict=True)), backends, precisions
    ):
        engine = _engine_of(bundle, backend, precision, batch, build_engines)
        ways = tuple(dict.fromkeys(encodes_once(bundle, encoding) for encoding in encodings))
        for turned, black, once in itertools.product(tta, _black_contexts(bundle.manifest, contexts), ways):
            details = [
                f"{name}, {engine} {precision}",
                *(["TTA"] if turned else []),
                *_in_words(bundle.manifest, black),
                *(["shared contexts"] if once else ["exact contexts"] if len(ways) > 1 else []),
            ]
            runs.append(Run(
                bundle=bundle, label=", ".join(details), backend=engine, precision=precision, tta=turned, black=black,
                batch=batch, build_engines=build_engines, once=once,
            ))  # fmt: skip
    return tuple(runs)


def _engine_of(bundle: Bundle, backend: str, precision: RunPrecision, batch: int, build: bool) -> str:
    """The name of the engine that will run."""
    bundle.graph(SEGMENTER, graphs_for(precision))
    with closing(choose_engine(backend, precision, bundle, batch=batch, build=build)) as engine:
        return engine.name


def _black_contexts(manifest: Manifest, modes: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The contexts that are black, an entry for each run of a bundle."""
    if unknown := [mode for mode in modes if mode not in CONTEXT_MODES]:
        raise InputError(f"unknown contexts {unknown[0]!r}", remedy=f"known: {', '.join(CONTEXT_MODES)}")
    names = tuple(context.name for context in manifest.contexts)
    chosen: dict[str, tuple[tuple[str, ...], ...]] = {
        "all": ((),),
        "none": (names,),
        "each": tuple((name,) for name in names),
    }
    found = dict.fromkeys(black for mode in modes for black in chosen[mode])
    return tuple(found) or ((),)  # without contexts there is nothing to leave out


def _in_words(manifest: Manifest, black: tuple[str, ...]) -> list[str]:
    """The contexts that are black, as part of a label."""
    if not black:
        return []
    return ["no contexts"] if len(black) == len(manifest.contexts) else [f"without {', '.join(black)}"]
