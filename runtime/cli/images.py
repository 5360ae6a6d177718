"""The images that the arguments of a command line stand for: files, folders, patterns and lists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import RasterError

SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".jp2", ".webp", ".bmp", ".img", ".vrt")
"""Endings of the files that are taken of a folder."""

_PATTERN = frozenset("*?[")
_OURS = ("_mask.tif", "_prob.tif", "_confidence.tif", "_preview.png", "_preview.jpg", "_explain.png")
"""Endings of outputs, which are no images."""
_MOSAIC = "_mosaic"  # with which the names of outputs of several images end


def images_of(names: Sequence[str], *, recursive: bool) -> list[str]:
    """The images that some arguments stand for.

    A folder stands for the images in it, a pattern for the files that match it, and a text file (.txt) for the names in
    its lines. Hidden files, and outputs that lie beside their images, are passed over. All else is a name as it is.

    Args:
        names: The arguments.
        recursive: Whether folders within folders count.

    Returns:
        Names of images, in the order of the arguments, those of a folder sorted.

    Raises:
        RasterError: A folder or a pattern stands for nothing, or a list cannot be read.
    """
    return [image for name in names for image in _images_of(name, recursive)]


def _images_of(name: str, recursive: bool) -> list[str]:
    path = Path(name)
    if _is(path, "dir"):
        found = [str(file) for file in _in_folder(path, recursive)]
        if not found:
            remedy = None if recursive else "look into the folders in it with `recursive`"
            raise RasterError(subject=name, expected="a folder with images", found="none in it", remedy=remedy)
        return found
    if path.suffix.lower() == ".txt" and _is(path, "file"):
        return _listed(path)
    if _PATTERN.intersection(name) and not _is(path, "file") and "://" not in name and not name.startswith("/vsi"):
        root = Path(path.anchor) if path.anchor else Path()
        files = root.glob(str(path.relative_to(path.anchor)))
        matching = sorted(str(file) for file in files if file.is_file() and not _is_output(file))
        if not matching:
            raise RasterError(subject=name, expected="a pattern that files match", found="no such file")
        return matching
    return [name]


def _in_folder(folder: Path, recursive: bool) -> Iterator[Path]:
    """The images of a folder, sorted by name."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if recursive and path.suffix != ".fctl-run":
                yield from _in_folder(path, recursive)
        elif path.suffix.lower() in SUFFIXES and not _is_output(path):
            yield path


def _is_output(path: Path) -> bool:
    """Whether a file is an output of ours whose image lies beside it, or that of several images as one."""
    for ending in _OURS:
        if path.name.endswith(ending):
            stem = path.name[: -len(ending)]
            if stem.endswith(_MOSAIC):
                return True
            beside = (other for other in path.parent.iterdir() if other.stem == stem)
            return any(other.suffix.lower() in SUFFIXES for other in beside)
    return False


def _listed(path: Path) -> list[str]:
    """The names in a text file, one in a line; empty lines and those that begin with # count for nothing."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeError) as error:
        raise RasterError(subject=path, expected="a list of images, one in a line", found=f"none ({error})") from error
    names = [line for line in lines if line and not line.startswith("#")]
    if not names:
        raise RasterError(subject=path, expected="a list of images, one in a line", found="an empty one")
    return names


def _is(path: Path, kind: str) -> bool:
    """Whether there is a folder or a file of that name; what cannot be a name is neither."""
    try:
        return path.is_dir() if kind == "dir" else path.is_file()
    except (OSError, ValueError):
        return False
