"""Bundle -> engines: built on the machine that runs them, from the graphs alone. Needs neither torch nor onnx."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from fctl.runtime.bundle.manifest import Precision
from fctl.runtime.bundle.store import Bundle
from fctl.runtime.engines.tensorrt.builder import build_plans
from fctl.runtime.engines.tensorrt.plans import ENGINES, BuildOptions, StoredPlan, cache_folder
from fctl.runtime.raster.atomic import atomic_write, refuse_existing


def build_engines(
    bundle: Bundle, precision: Precision, options: BuildOptions, out: Path | None
) -> tuple[StoredPlan, ...]:
    """Build the engines of one precision, into a copy of the bundle, or where out is None into this machine's cache.

    Raises BundleError where the bundle has no such graphs, InputError, EngineError, OutputError; then nothing is left
    behind.
    """
    if out is None:
        return build_plans(bundle, precision, options, cache_folder())
    refuse_existing(out, remedy="bundles are never changed: choose another --out, or remove it")
    with atomic_write(out) as folder:
        shutil.copytree(bundle.folder, folder)
        plans = build_plans(replace(bundle, folder=folder), precision, options, folder / ENGINES)
    return tuple(replace(plan, path=out / ENGINES / plan.path.name) for plan in plans)
