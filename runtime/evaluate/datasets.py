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


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One labelled image. name: what the stars of the pattern stand for."""

    name: str
    image: Path
    mask: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Labelled images in a folder, by name."""

    form: str
    root: Path
    description: Description
    samples: tuple[Sample, ...]


def _deepglobe(images: str, masks: str) -> Description:
    """Class 0 is left out of the means; masks hold colours (the challenge's) or ids (the release's)."""
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
    """The mean is the building IoU."""
    classes = (
        LabelledClass(name="background", values=(0,), counted=False),
        LabelledClass(name="building", values=(255, 1), counted=True),
    )
    return Description(name="Inria Aerial", images=images, masks=masks, classes=classes, ignore=(), threshold=None)


# Forms that are known by their files. The release names images of both data sets alike, and their endings differ.
FORMS: dict[str, tuple[Description, ...]] = {
    "deepglobe": (_deepglobe("*_sat.jpg", "*_mask.png"),),
    "inria": (_inria("images/*.tif", "gt/*.tif"),),
    "release": (
        _deepglobe("Sat/*_sat.jpg", "Label/*_mask.png"),
        _inria("Sat/*_sat.tif", "Label/*_mask.png"),
    ),
}


def open_dataset(root: Path, *, form: str = "auto", description: Path | None = None) -> Dataset:
    """The labelled images of a folder.

    form: deepglobe, inria, release, folder, or auto: told by the files. description: of the form folder; None:
    ``dataset.json`` in the folder. Raises InputError where the folder, its images or the description are not as told.
    """
    if not root.is_dir():
        found = "a file" if root.exists() else "nothing"
        raise InputError(f"--data: expected a folder, found {found} at {root}")
    chosen = _form_of(root, form, description)
    if chosen == FOLDER:
        described: Sequence[Description] = (read_description(description or root / DESCRIPTION),)
    else:
        described = FORMS[chosen]
    for candidate in described:
        if samples := _samples(root, candidate):
            return Dataset(form=chosen, root=root, description=candidate, samples=samples)
    patterns = " or ".join(candidate.images for candidate in described)
    raise InputError(f"{root}: expected images {patterns} (form {chosen}), found none; name another --data or --form")


def class_ids(dataset: Dataset, bundle: Bundle) -> NDArray[np.uint8]:
    """The data set's class id by the bundle's, matched by name: (256,) uint8; 255 stays what it is.

    A class that no mean takes in may be missing from the bundle. Raises InputError that names those that do not match.
    """
    ours, theirs = dataset.description, [class_key(name) for name in bundle.manifest.class_names]
    known = {class_key(name): index for index, name in enumerate(ours.class_names)}
    strange = [name for name in bundle.manifest.class_names if class_key(name) not in known]
    missing = [info.name for info in ours.classes if info.counted and class_key(info.name) not in theirs]
    if strange or missing:
        raise InputError(
            f"{bundle_argument(bundle.folder)}: expected the classes {', '.join(ours.class_names)} of {ours.name}, found "
            f"{', '.join(bundle.manifest.class_names)}; without a match: {', '.join([*strange, *missing])}; describe "
            "the data set with the bundle's names (docs/evaluation.md)"
        )
    table = np.full(256, IGNORE, np.uint8)
    table[: len(theirs)] = [known[name] for name in theirs]
    return table


def _form_of(root: Path, form: str, description: Path | None) -> str:
    forms = (*FORMS, FOLDER)
    if form != "auto":
        if form not in forms:
            raise InputError(f"unknown form {form!r}; known: auto, {', '.join(forms)}")
        if description and form != FOLDER:
            raise InputError(f"a description is for the form {FOLDER}, found --form {form}; leave one of them out")
        return form
    if description or (root / DESCRIPTION).is_file():
        return FOLDER
    found = [name for name, described in FORMS.items() if any(_matches(root, one.images) for one in described)]
    if len(found) != 1:
        layouts = "; ".join(f"{name}: {' or '.join(one.images for one in many)}" for name, many in FORMS.items())
        what = f"several: {' and '.join(found)}" if found else "none of these"
        raise InputError(
            f"{root}: expected a data set of a known form ({layouts}), found {what}; choose a --form, or describe it "
            f"in {DESCRIPTION} (docs/evaluation.md)"
        )
    return found[0]


def _samples(root: Path, described: Description) -> tuple[Sample, ...]:
    """All images, by name."""
    samples = []
    for image, parts in _matches(root, described.images):
        mask = root / _filled(described.masks, parts)
        samples.append(Sample(name="/".join(parts), image=image, mask=mask))
    return tuple(sorted(samples, key=lambda sample: sample.name))


def _matches(root: Path, pattern: str) -> list[tuple[Path, tuple[str, ...]]]:
    """Files that match, and what the stars stand for."""
    expression = re.compile("([^/]*)".join(map(re.escape, pattern.split("*"))))
    found = []
    for path in root.glob(pattern):
        match = expression.fullmatch(path.relative_to(root).as_posix())
        if match and path.is_file():
            found.append((path, match.groups()))
    return found


def _filled(pattern: str, parts: Iterable[str]) -> str:
    """A pattern with its stars replaced, from left to right."""
    first, *rest = pattern.split("*")
    return first + "".join(part + text for part, text in zip(parts, rest, strict=True))
