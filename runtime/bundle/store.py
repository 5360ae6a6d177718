"""Bundles on disk: found, read, verified and written."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from ..errors import BundleError
from .checks import check_manifest
from .manifest import SCHEMA, GraphSpec, Manifest, Precision
from .records import RecordError, decode, encode

MANIFEST = "manifest.json"
DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that was read and verified."""

    folder: Path
    manifest: Manifest

    def graph(self, role: str, precision: Precision) -> tuple[Path, GraphSpec]:
        """File and description of one graph; BundleError lists what there is."""
        for graph in self.manifest.graphs:
            if (graph.role, graph.precision) == (role, precision):
                return self.folder / graph.file, graph
        found = ", ".join(f"{graph.role} {graph.precision}" for graph in self.manifest.graphs)
        images = " --calib IMAGES" if precision == "int8" else ""
        raise BundleError(
            f"{self.folder} holds no {precision} graph {role!r}; it holds {found}; "
            f"make one that does: fctl-export {bundle_argument(self.folder)} --precision {precision}{images} --out NAME.fctl"
        )


def read_bundle(name: str | Path) -> Bundle:
    """Read a bundle and verify every file: a folder, or ``default`` for the one shipped with fctl.

    Raises BundleError with the field, what was expected and what was found.
    """
    folder = _locate(name)
    manifest = _read_manifest(folder)
    for index, graph in enumerate(manifest.graphs):
        _verify_file(folder, graph, f"graphs[{index}]")
    return Bundle(folder, manifest)


def bundle_argument(folder: Path) -> str:
    """What to call a bundle on a command line."""
    return DEFAULT if folder == _locate(DEFAULT) else str(folder)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` into a bundle that is being made. Raises BundleError where it contradicts itself."""
    check_manifest(manifest, folder / MANIFEST)
    text = json.dumps(encode(manifest), indent=2, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _locate(name: str | Path) -> Path:
    if str(name) == DEFAULT:
        return Path(__file__).with_name("default.fctl")
    folder = Path(name)
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise BundleError(
            f"{folder}: expected a bundle folder (NAME.fctl), found {found}; "
            f"make one with fctl-export, or use {DEFAULT!r}"
        )
    return folder


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(f"{path}: expected the manifest of a bundle, found no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: expected JSON, found {error}") from None
    schema = document.get("schema") if isinstance(document, dict) else None
    major = SCHEMA.partition(".")[0]
    if not isinstance(schema, str) or schema.partition(".")[0] != major:
        raise BundleError(f"{path}: schema: expected {major}.x, found {schema!r}; use a matching fctl")
    try:
        manifest = decode(Manifest, document)
    except (RecordError, ValueError) as error:
        raise BundleError(f"{path}: {error}") from None
    check_manifest(manifest, path)
    return manifest


def _verify_file(folder: Path, graph: GraphSpec, field: str) -> None:
    path = folder / graph.file
    if Path(graph.file).is_absolute() or ".." in Path(graph.file).parts:
        raise BundleError(f"{folder}: {field}.file: expected a file in the bundle's folder, found {graph.file!r}")
    if not path.is_file():
        raise BundleError(f"{folder}: {field}.file: expected {graph.file!r}, found no such file; copy the bundle whole")
    found = sha256(path)
    if found != graph.sha256:
        raise BundleError(
            f"{folder}: {field}.sha256: expected {graph.sha256[:12]}..., found {found[:12]}... for {graph.file}; "
            "the file was changed or damaged, export the bundle again"
        )
