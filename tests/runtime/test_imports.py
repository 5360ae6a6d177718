from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fctl.calib
import fctl.runtime

from . import tiny
from .naive import slope_of

EXPORT_ONLY = ("torch", "onnx", "onnxscript")


def modules(package: Any) -> list[str]:
    inner = [info.name for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    return [package.__name__, *inner]


def test_every_module_is_found() -> None:
    assert {"fctl.runtime.segment.segmenter", "fctl.runtime.engines.onnxruntime"} <= set(modules(fctl.runtime))
    assert "fctl.calib.sample" in modules(fctl.calib)


NEEDS = {  # of modules that are loaded when they are asked for: all others import their libraries then
    "fctl.runtime.engines.onnxruntime": "onnxruntime",
    "fctl.runtime.engines.openvino": "openvino",
    "fctl.runtime.segment.sinks.features": "pyogrio",
    "fctl.runtime.segment.sinks.polygons": "pyogrio",
    "fctl.runtime.raster.outlines": "pyogrio",
    "fctl.runtime.spread.dask": "distributed",
    "fctl.runtime.raster.placing": "pyogrio",
    "fctl.runtime.view.app": "starlette",
    "fctl.runtime.view.gates": "starlette",
    "fctl.runtime.view.live": "starlette",
    "fctl.runtime.view.serve": "uvicorn",
    **{f"fctl.runtime.view.{name}": "rio_tiler" for name in ("description", "export", "points", "tiles")},
    "fctl.runtime.view.counts": "shapely",
}
IMPORTING = """
import importlib, sys, traceback

names, absent = sys.argv[1].split(), sys.argv[2].split()
for name in names:  # each as the first of ours; libraries of others stay loaded, which saves half a minute
    for ours in [one for one in sys.modules if one.partition(".")[0] == "fctl"]:
        del sys.modules[ours]
    try:
        importlib.import_module(name)
    except Exception:
        print(name, traceback.format_exc())
    if found := [one for one in absent if one in sys.modules]:
        sys.exit(f"{name} loads {found}")
"""


def loadable() -> list[str]:
    """Modules that must load without torch and onnx, as far as what they need is installed."""
    names = [*modules(fctl.runtime), "fctl.calib", "fctl.calib.sample", "fctl.calib.choose"]
    assert NEEDS.keys() <= set(names)
    return [name for name in names if name not in NEEDS or importlib.util.find_spec(NEEDS[name])]


def test_all_modules_load_with_what_is_installed(tmp_path: Path) -> None:
    code = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
    command = [sys.executable, "-c", code, *loadable()]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, ""), result.stderr


@pytest.mark.once
def test_modules_do_without_torch_and_onnx(tmp_path: Path) -> None:
    assert_import_without(tmp_path, loadable(), EXPORT_ONLY)


def test_calibration_does_without_torch(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    assert_import_without(tmp_path, modules(fctl.calib), ("torch", "onnxscript"))


def assert_import_without(folder: Path, names: list[str], absent: tuple[str, ...]) -> None:
    command = [sys.executable, "-c", IMPORTING, " ".join(names), " ".join(absent)]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, ""), result.stderr


def test_what_the_package_offers_comes_without_torch(tmp_path: Path) -> None:
    code = f"""
import sys
from fctl.runtime import Paths, Report, Segmentation, Segmenter
assert not [name for name in {EXPORT_ONLY!r} if name in sys.modules]
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Segmentor'"):
        importlib.import_module("fctl.runtime").Segmentor  # noqa: B018


def test_the_public_face_is_sorted_and_every_name_loads() -> None:
    face = importlib.import_module("fctl.runtime")
    assert face.__all__ == sorted(face.__all__)
    assert {name: getattr(face, name).__name__ for name in face.__all__} == {name: name for name in face.__all__}


FORMER = {
    "bundle": ("fctl.runtime", "read_bundle"),
    "contexts": ("fctl.runtime", "ArraySource"),
    "datasets": ("fctl.runtime.evaluate", "open_dataset", "select"),
    "evaluation": ("fctl.runtime.evaluate", "evaluate", "plan_runs"),
    "merge": ("fctl.runtime", "Merger"),
    "pipeline": ("fctl.runtime", "cut_batch", "grid_of"),
}
"""By the module of `fctl.runtime` that the documentation once named: where its names are now, and the names."""


@pytest.mark.parametrize(("former", "names"), FORMER.items())
def test_programs_written_for_former_places_keep_working(former: str, names: tuple[str, ...]) -> None:
    now, *offered = names
    for name in offered:
        found = getattr(importlib.import_module(f"fctl.runtime.{former}"), name)
        assert found is getattr(importlib.import_module(now), name)


def test_a_client_written_for_former_names_of_contexts_keeps_working() -> None:
    """The client of docs/triton.md, as it was before shared contexts were cut with the batch."""
    from fctl.runtime.bundle import read_bundle
    from fctl.runtime.contexts import ArraySource
    from fctl.runtime.pipeline import cut_batch, cut_scene, grid_of

    manifest = read_bundle(tiny.TINY_GLOBAL).manifest
    source = ArraySource(slope_of(100, 70))
    tile = next(iter(grid_of(manifest, source.height, source.width)))
    batch = cut_batch(manifest, source, (tile,), 1)
    (context,) = manifest.contexts
    assert context.window.moves
    pixels = cut_scene(source, batch.scenes[context.name][0], context)
    np.testing.assert_array_equal(pixels, batch.pixels_of(context.name))
