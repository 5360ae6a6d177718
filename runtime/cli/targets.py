"""The images of a command line, and the outputs of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import OutputError
from .console import usage
from .destinations import MASKS, Out
from .outputs import Outputs

if TYPE_CHECKING:
    from ..raster.places import Place
    from ..segment.results import Paths


def scene_of(names: Sequence[str], images: list[str]) -> Place:
    """All images of a command line as one, named after the folder that was given or the first image.

    Args:
        names: The arguments.
        images: The images that they stand for.

    Returns:
        The scene.
    """
    from ..raster.places import Scene

    folder = Path(names[0]) if len(names) == 1 else None
    name = f"{folder.resolve().name}_mosaic" if folder and folder.is_dir() else ""
    return Scene(tuple(images), name)


def targets_of(images: Sequence[Place], outputs: Outputs, where: Out) -> dict[Place, Paths]:
    """Output files by image; every output has its own name.

    Args:
        images: The images.
        outputs: What is asked for.
        where: What ``--out`` means.

    Returns:
        The files to write, on this machine.

    Raises:
        typer.BadParameter: Two images would have the same outputs, or an output would be one of the images.
        OutputError: What ``--out`` names cannot be a mask.
    """
    from ..raster.places import Place, file_of, members_of, placed, stem_of
    from ..segment.results import Paths
    from ..storage.places import address_of

    out, destination = where.path, where.destination
    is_file = out.suffix.lower() in MASKS
    if is_file and len(images) > 1:
        raise usage(f"--out: expected a folder for {len(images)} images, found {outputs.out}")
    if not is_file and (out.is_file() or out.suffix.lower() in (".png", ".jpg", ".jpeg")):
        what = "it is a file" if out.is_file() else "pictures are no masks"
        wanted = "a folder, or for one image a name ending in .tif"
        raise OutputError(f"cannot write {outputs.out}: {what}; --out takes {wanted}")
    targets, taken = dict[Place, Paths](), dict[Path, Place]()
    for image in map(placed, images):
        folder, stem = (out.parent, out.stem) if is_file else (out, stem_of(image))
        mask = out if is_file else folder / f"{stem}_mask.tif"
        if mask in taken:
            if image == taken[mask]:
                raise usage(f"{image} is named twice: name each image once")
            written = destination.named(mask)
            raise usage(f"{image} and {taken[mask]} would both be written to {written}: give each an --out of its own")
        taken[mask] = image
        targets[image] = outputs.paths(mask, stem, len(images))
    inputs = {file_of(member).resolve() for image in targets for member in members_of(image)}
    addresses = {address_of(member) for image in targets for member in members_of(image)}
    for image, paths in targets.items():
        for path in paths.wanted():
            if destination.staged and destination.named(path) in addresses:
                raise usage(f"{destination.named(path)}, an output, is one of the images: choose another --out")
            if path.resolve() in inputs - {file_of(member).resolve() for member in members_of(image)}:
                raise usage(f"{path}, an output of {image}, is itself one of the images: choose another --out")
    return targets
