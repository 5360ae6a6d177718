"""Bundles on disk: found, read, verified and written."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from .. import remedies
from ..errors import BundleError
from .checks import check_manifest
from .manifest import SCHEMA, GraphSpec, Manifest, Precision
from .records import RecordError, decode, encode

MANIFEST = "manifest.json"
DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that was read and verified.

    Attributes:
        folder: Where it lies.
        manifest: What it says of itself.
    """

    folder: Path
    manifest: Manifest

    def graph(self, role: str, precision: Precision) -> tuple[Path, GraphSpec]:
        """Find one graph.

        Args:
            role: What the graph does.
            precision: What it computes in.

        Returns:
            Its ONNX file and its description.

        Raises:
            BundleError: There is no such graph; the error lists those that there are.
        """
        for graph in self.manifest.graphs:
            if (graph.role, graph.precision) == (role, precision):
                return self.folder / graph.file, graph
        found = ", ".join(f"{graph.role} {graph.precision}" for graph in self.manifest.graphs)
        images = {"calib": "IMAGES"} if precision == "int8" else {}
        command = remedies.export(bundle_argument(self.folder), precision=precision, **images, out="NAME.fctl")
        raise BundleError(
            f"{self.folder} holds no {precision} graph {role!r}; it holds {found}",
            remedy=f"make one that does: {command}",
        )


def read_bundle(name: str | Path) -> Bundle:
    """Read a bundle and verify every file.

    Args:
        name: A folder, or "default" for the bundle that comes with fctl.

    Returns:
        The bundle.

    Raises:
        BundleError: It is missing, damaged or not understood; the error names the field.
    """
    folder = _locate(name)
    manifest = _read_manifest(folder)
    for index, graph in enumerate(manifest.graphs):
        _verify_file(folder, graph, f"graphs[{index}]")
    return Bundle(folder, manifest)


def bundle_argument(folder: Path) -> str:
    """The bundle as a command line takes it: its folder, or "default" for the one that comes with fctl."""
    return DEFAULT if folder == _locate(DEFAULT) else str(folder)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` into a bundle that is being made.

    Args:
        folder: The bundle.
        manifest: Its manifest.

    Raises:
        BundleError: The manifest contradicts itself; nothing is written then.
    """
    check_manifest(manifest, folder / MANIFEST)
    text = json.dumps(encode(manifest), indent=2, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def sha256(path: Path) -> str:
    """SHA-256 of a file, as a hex digest."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _locate(name: str | Path) -> Path:
    """The folder of a bundle; raises BundleError where there is none."""
    if str(name) == DEFAULT:
        return Path(__file__).with_name("default.fctl")
    folder = Path(name)
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise BundleError(
            subject=folder,
            expected="a bundle folder (NAME.fctl)",
            found=found,
            remedy=f"make one with fctl-export, or use {DEFAULT!r}",
        )
    return folder


def _read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle, checked."""
    path = folder / MANIFEST
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(subject=path, expected="the manifest of a bundle", found="no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(subject=path, expected="JSON", found=error) from None
    schema = document.get("schema") if isinstance(document, dict) else None
    major = SCHEMA.partition(".")[0]
    if not isinstance(schema, str) or schema.partition(".")[0] != major:
        raise BundleError(
            subject=f"{path}: schema", expected=f"{major}.x", found=repr(schema), remedy="use a matching fctl"
        )
    try:
        manifest = decode(Manifest, document)
    except (RecordError, ValueError) as error:
        raise BundleError(str(error), subject=path) from None
    check_manifest(manifest, path)
    return manifest


def _verify_file(folder: Path, graph: GraphSpec, field: str) -> None:
    """Raise BundleError unless the file of a graph lies in the bundle and is the one that was exported."""
    path, subject = folder / graph.file, f"{folder}: {field}.file"
    if Path(graph.file).is_absolute() or ".." in Path(graph.file).parts:
        raise BundleError(subject=subject, expected="a file in the bundle's folder", found=repr(graph.file))
    if not path.is_file():
        raise BundleError(
            subject=subject, expected=repr(graph.file), found="no such file", remedy="copy the bundle whole"
        )
    found = sha256(path)
    if found != graph.sha256:
        raise BundleError(
            subject=f"{folder}: {field}.sha256",
            expected=f"{graph.sha256[:12]}...",
            found=f"{found[:12]}... for {graph.file}",
            remedy="the file was changed or damaged, export the bundle again",
        )
