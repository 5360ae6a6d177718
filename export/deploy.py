"""TensorRT engines of a bundle, built from its graphs on the machine that runs them. Needs neither torch nor onnx."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from fctl.runtime.atomic import atomic_write, refuse_existing
from fctl.runtime.bundle.manifest import Precision
from fctl.runtime.bundle.store import Bundle
from fctl.runtime.engines.tensorrt.builder import build_plans
from fctl.runtime.engines.tensorrt.plans import ENGINES, BuildOptions, StoredPlan, cache_folder


def build_engines(
    bundle: Bundle, precision: Precision, options: BuildOptions, out: Path | None
) -> tuple[StoredPlan, ...]:
    """Build the engines of all graphs of one precision.

    Args:
        bundle: The bundle.
        precision: The precision of the graphs.
        options: How to build.
        out: The folder of a copy of the bundle that gets the engines; None for this machine's cache.

    Returns:
        The engines, with their files.

    Raises:
        BundleError: The bundle has no graphs of the precision.
        InputError: An option does not fit the bundle or the machine.
        EngineError: TensorRT is not installed, or refuses a graph.
        OutputError: `out` exists already, or cannot be written. After any error nothing is left behind.
    """
    if out is None:
        return build_plans(bundle, precision, options, cache_folder())
    refuse_existing(out, remedy="bundles are never changed: choose another `out`, or remove it")
    with atomic_write(out) as folder:
        shutil.copytree(bundle.folder, folder)
        plans = build_plans(replace(bundle, folder=folder), precision, options, folder / ENGINES)
    return tuple(replace(plan, path=out / ENGINES / plan.path.name) for plan in plans)
