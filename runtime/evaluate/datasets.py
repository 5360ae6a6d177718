"""Labelled images on disk: DeepGlobe, Inria Aerial, the public release's folders, and folders that describe themselves
(§4.1)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..bundle.store import Bundle, bundle_argument
from ..errors import InputError
from .description import DESCRIPTION, Description, LabelledClass, class_key, read_description
from .labels import Label
from .metrics import IGNORE

FOLDER = "folder"
"""The form of folders that describe themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One labelled image.

    Attributes:
        name: What the stars of the pattern stand for, with slashes between them.
        image: The image.
        mask: Its mask, which need not exist.
    """

    name: str
    image: Path
    mask: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Labelled images in a folder.

    Attributes:
        form: How the folder is laid out, a key of `FORMS` or "folder".
        root: The folder.
        description: What its masks mean.
        samples: The images, in order of their names.
    """

    form: str
    root: Path
    description: Description
    samples: tuple[Sample, ...]


def _deepglobe(images: str, masks: str) -> Description:
    """DeepGlobe: means leave class 0 out; masks hold colours (the challenge's) or ids (the release's)."""
    colours: dict[str, Label] = {
        "unknown": (0, 0, 0), "urban": (0, 255, 255), "agriculture": (255, 255, 0), "rangeland": (255, 0, 255),
        "forest": (0, 255, 0), "water": (0, 0, 255), "barren": (255, 255, 255),
    }  # fmt: skip
    classes = tuple(
        LabelledClass(name=name, values=(colour, index), counted=index > 0)
        for index, (name, colour) in enumerate(colours.items())
    )
    return Description(
        name="DeepGlobe Land Cover", images=images, masks=masks, classes=classes, ignore=(), threshold=128
    )


def _inria(images: str, masks: str) -> Description:
    """Inria Aerial: the mean is the IoU of buildings."""
    classes = (
        LabelledClass(name="background", values=(0,), counted=False),
        LabelledClass(name="building", values=(255, 1), counted=True),
    )
    return Description(name="Inria Aerial", images=images, masks=masks, classes=classes, ignore=(), threshold=None)


FORMS: dict[str, tuple[Description, ...]] = {
    "deepglobe": (_deepglobe("*_sat.jpg", "*_mask.png"),),
    "inria": (_inria("images/*.tif", "gt/*.tif"),),
    "release": (
        _deepglobe("Sat/*_sat.jpg", "Label/*_mask.png"),
        _inria("Sat/*_sat.tif", "Label/*_mask.png"),
    ),
}
"""Forms that are known by their files; the release keeps two data sets, whose images end differently."""


def open_dataset(root: Path, *, form: str = "auto", description: Path | None = None) -> Dataset:
    """Open the labelled images of a folder.

    Args:
        root: The folder.
        form: How it is laid out: "deepglobe", "inria", "release", "folder", or "auto" to find out from its files.
        description: The description of the form "folder"; None for ``dataset.json`` in the folder.

    Returns:
        All of its images.

    Raises:
        InputError: The folder, its images or the description are missing, or the form is not clear.
    """
    if not root.is_dir():
        found = "a file" if root.exists() else "nothing"
        raise InputError(subject="`data`", expected="a folder", found=f"{found} at {root}")
    chosen = _form_of(root, form, description)
    if chosen == FOLDER:
        described: Sequence[Description] = (read_description(description or root / DESCRIPTION),)
    else:
        described = FORMS[chosen]
    for candidate in described:
        if samples := _samples(root, candidate):
            return Dataset(form=chosen, root=root, description=candidate, samples=samples)
    patterns = " or ".join(candidate.images for candidate in described)
    raise InputError(
        subject=root,
        expected=f"images {patterns} (form {chosen})",
        found="none",
        remedy="name another `data` or `form`",
    )


def class_ids(dataset: Dataset, bundle: Bundle) -> NDArray[np.uint8]:
    """Match the classes of a bundle and a data set by their names.

    Args:
        dataset: The data set; a class that no mean takes in may be missing from the bundle.
        bundle: The bundle, all of whose classes must be in the data set.

    Returns:
        A table (256,) uint8: the data set's class id by the bundle's; 255 stays what it is.

    Raises:
        InputError: Some classes have no match; it names them.
    """
    ours, theirs = dataset.description, [class_key(name) for name in bundle.manifest.class_names]
    known = {class_key(name): index for index, name in enumerate(ours.class_names)}
    unknown = [name for name in bundle.manifest.class_names if class_key(name) not in known]
    missing = [info.name for info in ours.classes if info.counted and class_key(info.name) not in theirs]
    if unknown or missing:
        found = f"{', '.join(bundle.manifest.class_names)}; without a match: {', '.join([*unknown, *missing])}"
        raise InputError(
            subject=bundle_argument(bundle.folder),
            expected=f"the classes {', '.join(ours.class_names)} of {ours.name}",
            found=found,
            remedy="describe the data set with the bundle's names (docs/evaluation.md)",
        )
    table = np.full(256, IGNORE, np.uint8)
    table[: len(theirs)] = [known[name] for name in theirs]
    return table


def _form_of(root: Path, form: str, description: Path | None) -> str:
    """The form of a folder."""
    forms = (*FORMS, FOLDER)
    if form != "auto":
        if form not in forms:
            raise InputError(f"unknown form {form!r}", remedy=f"known: auto, {', '.join(forms)}")
        if description and form != FOLDER:
            problem = f"a description is for the form {FOLDER}, found `form` {form}"
            raise InputError(problem, remedy="leave one of them out")
        return form
    if description or (root / DESCRIPTION).is_file():
        return FOLDER
    found = [name for name, described in FORMS.items() if any(_matches(root, one.images) for one in described)]
    if len(found) != 1:
        layouts = "; ".join(f"{name}: {' or '.join(one.images for one in many)}" for name, many in FORMS.items())
        raise InputError(
            subject=root,
            expected=f"a data set of a known form ({layouts})",
            found=f"several: {' and '.join(found)}" if found else "none of these",
            remedy=f"choose a `form`, or describe it in {DESCRIPTION} or with `description` (docs/evaluation.md)",
        )
    return found[0]


def _samples(root: Path, described: Description) -> tuple[Sample, ...]:
    """All images that a description names, in order of their names."""
    samples = []
    for image, parts in _matches(root, described.images):
        mask = root / _filled(described.masks, parts)
        samples.append(Sample(name="/".join(parts), image=image, mask=mask))
    return tuple(sorted(samples, key=lambda sample: sample.name))


def _matches(root: Path, pattern: str) -> list[tuple[Path, tuple[str, ...]]]:
    """Files that match a pattern, and what its stars stand for in each; no star stands for a hidden file or folder."""
    expression = re.compile("([^/]*)".join(map(re.escape, pattern.split("*"))))
    hidden = [part.startswith(".") for part in Path(pattern).parts]
    found = []
    for path in root.glob(pattern):
        relative = path.relative_to(root)
        match = expression.fullmatch(relative.as_posix())
        shown = [part.startswith(".") for part in relative.parts] == hidden
        if match and shown and path.is_file():
            found.append((path, match.groups()))
    return found


def _filled(pattern: str, parts: Iterable[str]) -> str:
    """A pattern with its stars replaced, from left to right."""
    first, *rest = pattern.split("*")
    return first + "".join(part + text for part, text in zip(parts, rest, strict=True))
