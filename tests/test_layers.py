"""Who may import whom, read from the source without importing it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("runtime", "calib", "model", "export")
SIBLINGS = {f"fctl.{folder}" for folder in FOLDERS}

pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="needs the source tree")


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Absolute names of all modules that a file imports, also inside functions and for type checking."""
    package = ("fctl", *path.relative_to(ROOT).parent.parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return found


def importers(library: str) -> set[str]:
    """Files that import a library, relative to the root."""
    return {
        path.relative_to(ROOT).as_posix()
        for folder in FOLDERS
        for path in sources(folder)
        if any(name == library or name.startswith(f"{library}.") for name in imports(path))
    }


def siblings(path: Path) -> set[str]:
    """Other folders of the project that a file imports."""
    found = {sibling for sibling in SIBLINGS for name in imports(path) if f"{name}.".startswith(f"{sibling}.")}
    return found - {f"fctl.{path.relative_to(ROOT).parts[0]}"}


def test_the_folders_are_found() -> None:
    assert all(len(sources(folder)) > 1 for folder in FOLDERS)
    assert siblings(ROOT / "calib" / "sample.py") == {"fctl.runtime"}
    assert "fctl.runtime.errors" in imports(ROOT / "runtime" / "bundle.py")
    assert "fctl.runtime.errors" in imports(ROOT / "runtime" / "engines" / "base.py")


@pytest.mark.parametrize("path", sources("runtime"), ids=str)
def test_the_runtime_imports_no_sibling(path: Path) -> None:
    assert siblings(path) == set()


@pytest.mark.parametrize("path", sources("calib"), ids=str)
def test_calib_imports_the_runtime_only(path: Path) -> None:
    assert siblings(path) <= {"fctl.runtime"}


NETWORK = [path for path in sources("model") if not path.name.startswith(("train", "checkpoints", "serving"))]


@pytest.mark.parametrize("path", NETWORK, ids=str)
def test_the_network_imports_no_sibling(path: Path) -> None:
    assert siblings(path) == set()


@pytest.mark.parametrize("path", sources("model"), ids=str)
def test_training_imports_at_most_the_runtime(path: Path) -> None:
    assert siblings(path) <= {"fctl.runtime"}


@pytest.mark.parametrize("folder", ["runtime", "calib", "model"])
def test_nobody_imports_export(folder: str) -> None:
    assert [path for path in sources(folder) if "fctl.export" in siblings(path)] == []


def test_rasterio_has_one_home() -> None:
    assert importers("rasterio") == {"runtime/raster.py"}


@pytest.mark.parametrize("library", ["onnxruntime", "openvino"])
def test_an_engine_has_one_home(library: str) -> None:
    making = {"calib/onnx_session.py", "export/half.py"} if library == "onnxruntime" else set()  # graphs on their way
    assert importers(library) - making == {f"runtime/engines/{library}.py"}


@pytest.mark.parametrize(
    ("library", "home"), [("cuda", "runtime/cuda/_bindings.py"), ("pycuda", "runtime/cuda/_pycuda.py")]
)
def test_cuda_has_one_home(library: str, home: str) -> None:
    assert importers(library) == {home}


@pytest.mark.parametrize("library", ["tensorrt", "tensorrt_rtx"])
def test_tensorrt_is_loaded_by_name(library: str) -> None:
    assert importers(library) == set()
    assert f'"{library}"' in (ROOT / "runtime" / "engines" / "flavours.py").read_text("utf-8")


def test_onnx_is_for_making_bundles() -> None:
    found = importers("onnx")
    assert found
    assert all(name.startswith(("export/", "calib/")) for name in found)


def test_torch_is_for_the_network_and_its_export() -> None:
    found = importers("torch")
    assert found
    assert all(name.startswith(("export/", "model/")) for name in found)
