"""Bundles on disk: found, read, verified and written."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from .. import remedies
from ..errors import BundleError
from .checks import check_manifest
from .contents import check_graph
from .files import WrongFileError, read_json, reason, regular_size, sha256
from .manifest import SCHEMA, Context, GraphSpec, Manifest, Precision
from .records import RecordError, decode, encode
from .tensors import LARGEST_GRAPH

__all__ = ["DEFAULT", "MANIFEST", "Bundle", "bundle_argument", "read_bundle", "sha256", "write_manifest"]

MANIFEST = "manifest.json"
DEFAULT = "default"
_LARGEST_BUNDLE = 8 << 30  # bytes of all graphs together, which are hashed whenever a bundle is read


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that was read and verified.

    Attributes:
        folder: Where it lies.
        manifest: What it says of itself.
    """

    folder: Path
    manifest: Manifest

    @property
    def digest(self) -> str:
        """What tells it from other bundles: the digest of its manifest, which holds those of its graphs."""
        return sha256(self.folder / MANIFEST)

    def shared_graph(self, context: Context, precision: Precision) -> tuple[Path, GraphSpec]:
        """Find the graph that encodes a context once for a whole raster.

        Args:
            context: The context, which has one.
            precision: What the other graphs compute in.

        Returns:
            Its ONNX file and its description; that of fp32 where it is not there in the precision.

        Raises:
            BundleError: There is neither.
        """
        assert context.sharing is not None
        role = context.sharing.encoder
        found = any((graph.role, graph.precision) == (role, precision) for graph in self.manifest.graphs)
        return self.graph(role, precision if found else "fp32")

    def graphs_run_in(self, precision: Precision) -> list[tuple[Path, GraphSpec]]:
        """The graphs that a run in a precision may need.

        Args:
            precision: What they compute in.

        Returns:
            Their ONNX files and descriptions: all graphs of the precision, and those of fp32 that stand in for missing
            ones which encode contexts once for a whole raster. None where the bundle has no graphs of the precision.
        """
        found = {g.role: (self.folder / g.file, g) for g in self.manifest.graphs if g.precision == precision}
        for context in self.manifest.contexts if found else ():
            if context.sharing:
                found.setdefault(context.sharing.encoder, self.shared_graph(context, precision))
        return list(found.values())

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
    fields = [(f"{folder}: graphs[{index}]", graph) for index, graph in enumerate(manifest.graphs)]
    total = sum(_check_size(folder, graph, field) for field, graph in fields)
    if total > _LARGEST_BUNDLE:
        raise BundleError(subject=folder, expected=f"graphs of at most {_LARGEST_BUNDLE} bytes", found=total)
    for field, graph in fields:
        _verify_content(folder / graph.file, graph, field)
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
        BundleError: The manifest contradicts itself, or could not be read again; nothing is written then.
    """
    document = encode(manifest)
    _understood(document, folder / MANIFEST)
    text = json.dumps(document, indent=2, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def _locate(name: str | Path) -> Path:
    """The folder of a bundle; raises BundleError where there is none."""
    if str(name) == DEFAULT:
        return Path(__file__).with_name("default.fctl")
    folder = Path(name)
    try:
        found = None if folder.is_dir() else "a file" if folder.exists() else "nothing"
    except OSError as error:  # a folder that may not be entered, a name that is too long
        found = error.strerror
    if found is not None:
        raise BundleError(
            subject=folder,
            expected="a bundle folder (NAME.fctl)",
            found=found,
            remedy=f"make one with fctl-export, or use {DEFAULT!r}",
        )
    return folder


def boundary(folder: Path) -> Path | None:
    """The folder that a bundle's files must really lie in; None for the bundle that comes with fctl.

    Whoever installed fctl vouches for that one, and installers may lay it out with links.
    """
    return None if folder == _locate(DEFAULT) else folder


def _read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle, checked."""
    path = folder / MANIFEST
    try:
        document = read_json(path, boundary(folder))
    except WrongFileError as error:
        raise BundleError(subject=path, expected="the manifest of a bundle", found=error) from None
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(subject=path, expected="JSON", found=reason(error)) from None
    return _understood(document, path)


def _understood(document: object, path: Path) -> Manifest:
    """The manifest of a JSON document, checked. path: Its file, for error messages."""
    schema = document.get("schema") if isinstance(document, dict) else None
    (major, _, newest), (found, _, minor) = SCHEMA.partition("."), str(schema).partition(".")
    if not isinstance(schema, str) or found != major:
        raise BundleError(
            subject=f"{path}: schema", expected=f"{major}.x", found=f"{schema!r:.60}", remedy="use a matching fctl"
        )
    try:
        manifest = decode(Manifest, document)
    except (RecordError, ValueError) as error:
        newer = re.fullmatch(r"\d{1,9}", minor) and int(minor) > int(newest)
        remedy = f"schema {schema} is newer than this fctl, which knows {SCHEMA}: update fctl" if newer else None
        raise BundleError(str(error), subject=path, remedy=remedy) from None
    check_manifest(manifest, path)
    return manifest


def _check_size(folder: Path, graph: GraphSpec, field: str) -> int:
    """The size of a graph's file; raises BundleError unless it is a regular file in the bundle and as large as stated.

    Nothing is read for that, so that no file can hold a reader up.
    """
    subject = f"{field}.file"
    if Path(graph.file).is_absolute() or ".." in Path(graph.file).parts:
        raise BundleError(subject=subject, expected="a file in the bundle's folder", found=repr(graph.file))
    try:
        size = regular_size(folder / graph.file, boundary(folder))
    except WrongFileError as error:
        found = "no such file" if not graph.file else error
        raise BundleError(
            subject=subject, expected=repr(graph.file), found=found, remedy="copy the bundle whole"
        ) from None
    if not graph.file.endswith(".onnx"):  # by other names, libraries take files for other formats
        raise BundleError(subject=subject, expected="a name that ends with .onnx", found=repr(graph.file))
    stated = graph.bytes
    if size != (size if stated is None else stated) or size > LARGEST_GRAPH:
        most = f"at most {LARGEST_GRAPH}" if stated is None or stated > LARGEST_GRAPH else str(stated)
        raise BundleError(
            subject=f"{field}.bytes",
            expected=f"{most} bytes",
            found=f"{size} of {graph.file}",
            remedy="the file was changed or damaged, export the bundle again",
        )
    return size


def _verify_content(path: Path, graph: GraphSpec, field: str) -> None:
    """Raise BundleError unless a graph's file is the one that was exported, and what the manifest says of it."""
    try:
        found = sha256(path)
    except OSError as error:
        raise BundleError(
            subject=f"{field}.file", expected="an ONNX graph", found=reason(error), remedy="export the bundle again"
        ) from None
    if found != graph.sha256:
        raise BundleError(
            subject=f"{field}.sha256",
            expected=f"{graph.sha256[:12]}...",
            found=f"{found[:12]}... for {graph.file}",
            remedy="the file was changed or damaged, export the bundle again",
        )
    check_graph(path, graph, field)
