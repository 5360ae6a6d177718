"""Who may import whom, and who may speak of what, read from the source without importing it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("runtime", "calib", "model", "export")
SIBLINGS = {f"fctl.{folder}" for folder in FOLDERS}

# The rooms of the runtime, and what each of them knows beside the ground floor.
ROOMS = {
    "tiling": set[str](),
    "storage": set[str](),
    "bundle": {"tiling"},
    "raster": {"tiling", "storage"},
    "cuda": set[str](),
    "engines": {"bundle", "cuda"},
    "segment": {"tiling", "bundle", "raster", "cuda", "engines", "storage"},
    "evaluate": {"tiling", "bundle", "raster", "cuda", "engines", "segment"},
    "bench": {"tiling", "bundle", "raster", "cuda", "engines", "segment", "evaluate"},
    "spread": {"tiling", "bundle", "raster", "engines", "segment", "storage"},
    "view": {"tiling", "bundle", "raster", "segment", "evaluate"},
    "cli": {"tiling", "bundle", "raster", "cuda", "engines", "segment", "storage", "evaluate", "bench", "spread"}
    | {"view"},
}
GROUND = {"atomic", "choices", "errors", "progress", "remedies", "stopwatch", "warned"}
FORMER = {"contexts", "datasets", "evaluation", "merge", "pipeline"}  # documented once; nobody here imports them
COMMAND_LINES = ("runtime/cli/", "export/cli/", "model/train/cli.py", "runtime/remedies.py")

pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="needs the source tree")


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_of(path: Path) -> str:
    parts = ("fctl", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for folder in FOLDERS for path in sources(folder)}


def imported(path: Path, node: ast.AST) -> set[str]:
    """Absolute names that one statement imports: modules, and what is taken from them."""
    package = ("fctl", *path.relative_to(ROOT).parent.parts)
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        base = package[: len(package) - node.level + 1] if node.level else ()
        module = ".".join([*base, *([node.module] if node.module else [])])
        return {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return set()


@cache
def imports(path: Path) -> frozenset[str]:
    """Absolute names of all that a file imports, also inside functions and for type checking."""
    return frozenset().union(*(imported(path, node) for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))))


def files_imported(path: Path) -> set[Path]:
    """Files of ours that a file imports; a package counts where nothing but the package is named."""
    names = {name for name in imports(path) if name in MODULES}
    taken = {name for name in names if not any(other.startswith(f"{name}.") for other in names)}
    return {MODULES[name] for name in taken} - {path}


def importers(library: str) -> set[str]:
    """Files that import a library, relative to the root."""
    return {
        name_of(path)
        for folder in FOLDERS
        for path in sources(folder)
        if any(name == library or name.startswith(f"{library}.") for name in imports(path))
    }


def siblings(path: Path) -> set[str]:
    """Other folders of the project that a file imports."""
    found = {sibling for sibling in SIBLINGS for name in imports(path) if f"{name}.".startswith(f"{sibling}.")}
    return found - {f"fctl.{path.relative_to(ROOT).parts[0]}"}


def room_of(path: Path) -> str:
    """The room of a file of the runtime; its own name for a file on the ground floor."""
    return path.relative_to(ROOT / "runtime").with_suffix("").parts[0]


def test_the_folders_are_found() -> None:
    assert all(len(sources(folder)) > 1 for folder in FOLDERS)
    assert siblings(ROOT / "calib" / "sample.py") == {"fctl.runtime"}
    assert "fctl.runtime.errors" in imports(ROOT / "runtime" / "bundle" / "store.py")
    assert ROOT / "runtime" / "tiling" / "windows.py" in files_imported(ROOT / "runtime" / "tiling" / "merge.py")


def test_every_file_of_the_runtime_has_a_room() -> None:
    assert {room_of(path) for path in sources("runtime")} == {*ROOMS, *GROUND, *FORMER, "__init__"}


@pytest.mark.parametrize("path", [path for path in sources("runtime") if room_of(path) in ROOMS], ids=name_of)
def test_a_room_knows_only_the_rooms_below(path: Path) -> None:
    known = {room_of(file) for file in files_imported(path) if file.is_relative_to(ROOT / "runtime")}
    assert known <= ROOMS[room_of(path)] | GROUND | {room_of(path)}


@pytest.mark.parametrize("name", sorted(GROUND))
def test_the_ground_floor_stands_on_its_own(name: str) -> None:
    assert {room_of(path) for path in files_imported(ROOT / "runtime" / f"{name}.py")} <= GROUND


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = {path: files_imported(path) for path in MODULES.values()}
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)  # raises CycleError and names the circle


def test_the_gpu_is_loaded_where_it_is_chosen() -> None:
    """A machine without a GPU never loads its rooms: they are imported inside two functions, and nowhere else."""
    outside = [path for path in sources("runtime/segment") if "gpu" not in path.relative_to(ROOT).parts]
    lazy = {name_of(path) for path in outside if any("segment.gpu" in name for name in imports(path))}
    assert lazy == {"runtime/segment/opening.py", "runtime/segment/segmenter.py"}
    for name in lazy:
        path = ROOT / name
        at_once = set().union(*(imported(path, node) for node in ast.parse(path.read_text("utf-8")).body))
        assert not any("segment.gpu" in module for module in at_once)


@pytest.mark.parametrize("path", sources("runtime"), ids=name_of)
def test_the_runtime_imports_no_sibling(path: Path) -> None:
    assert siblings(path) == set()


@pytest.mark.parametrize("path", sources("calib"), ids=name_of)
def test_calib_imports_the_runtime_only(path: Path) -> None:
    assert siblings(path) <= {"fctl.runtime"}


NETWORK = [*sorted((ROOT / "model").glob("*.py")), *sources("model/backbones")]


@pytest.mark.parametrize("path", NETWORK, ids=name_of)
def test_the_network_stands_on_its_own(path: Path) -> None:
    assert siblings(path) == set()
    within = {file.relative_to(ROOT / "model").parts[0] for file in files_imported(path)}
    assert within.isdisjoint({"weights", "serving", "train"})


@pytest.mark.parametrize("path", sources("model"), ids=name_of)
def test_what_surrounds_the_network_imports_at_most_the_runtime(path: Path) -> None:
    assert siblings(path) <= {"fctl.runtime"}


@pytest.mark.parametrize("folder", ["runtime", "calib", "model"])
def test_nobody_imports_export(folder: str) -> None:
    assert [path for path in sources(folder) if "fctl.export" in siblings(path)] == []


def test_rasterio_has_one_home() -> None:
    found = importers("rasterio")
    assert found
    assert all(name.startswith("runtime/raster/") for name in found)


@pytest.mark.parametrize("library", ["onnxruntime", "openvino"])
def test_an_engine_has_one_home(library: str) -> None:
    making = {"calib/onnx_session.py"} if library == "onnxruntime" else set()  # graphs on their way into a bundle
    found = {name for name in importers(library) - making if not name.startswith("export/precision/")}
    assert found == {f"runtime/engines/{library}.py"}


@pytest.mark.parametrize(
    ("library", "home"), [("cuda", "runtime/cuda/_bindings.py"), ("pycuda", "runtime/cuda/_pycuda.py")]
)
def test_cuda_has_one_home(library: str, home: str) -> None:
    assert importers(library) == {home}


@pytest.mark.parametrize("library", ["tensorrt", "tensorrt_rtx"])
def test_tensorrt_is_loaded_by_name(library: str) -> None:
    assert importers(library) == set()
    assert f'"{library}"' in (ROOT / "runtime" / "engines" / "tensorrt" / "flavours.py").read_text("utf-8")


def test_matplotlib_has_one_home() -> None:
    assert importers("matplotlib") == {"runtime/evaluate/plots.py"}


def test_fsspec_has_one_home() -> None:
    assert importers("fsspec") == {"runtime/storage/remote.py"}


@pytest.mark.parametrize("library", ["rio_tiler", "starlette", "uvicorn"])
def test_the_map_has_one_home(library: str) -> None:
    assert {Path(name).parent.as_posix() for name in importers(library)} == {"runtime/view"}


def test_onnx_is_for_making_bundles() -> None:
    found = importers("onnx")
    assert found
    assert all(name.startswith(("export/", "calib/")) for name in found)


def test_torch_is_for_the_network_and_its_export() -> None:
    found = importers("torch")
    assert found
    assert all(name.startswith(("export/", "model/")) for name in found)


def spoken(path: Path) -> Iterator[str]:
    """The strings of a file, docstrings left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documented = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documented:
            yield node.value


@pytest.mark.parametrize("folder", FOLDERS)
def test_only_command_lines_speak_of_flags(folder: str) -> None:
    """Elsewhere a message names an argument in backticks, and a command line shows the flag in its place."""
    found = {
        f"{name_of(path)}: {text}"
        for path in sources(folder)
        if not name_of(path).startswith(COMMAND_LINES)
        for text in spoken(path)
        if re.search(r"(?<![\w-])--[a-z]", text)
    }
    assert found == set()


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_log_line_does_not_spell_its_level(folder: str) -> None:
    found = {
        name_of(path)
        for path in sources(folder)
        if not name_of(path).startswith(COMMAND_LINES)
        for text in spoken(path)
        if text.startswith("warning: ")
    }
    assert found == set()
