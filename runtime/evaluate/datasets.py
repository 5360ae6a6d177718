"""Labelled images on disk: DeepGlobe, Inria Aerial, the public release's folders, and folders that describe themselves
(§4.1)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .bundle import Bundle, called
from .errors import InputError
from .labels import MOST_CLASSES, Label, Labels
from .metrics import IGNORE
from .records import RecordError, decode

DESCRIPTION = "dataset.json"
FOLDER = "folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledClass:
    """One class. values: the ids or colours that it has in masks; counted: whether means take it in."""

    name: str
    values: tuple[Label, ...]
    counted: bool


@dataclass(frozen=True, kw_only=True)
class Description:
    """A data set in words: what ``dataset.json`` holds.

    images, masks: patterns relative to the folder, with as many stars; what the stars of an image's path stand for is
    what they stand for in its mask's. ignore, threshold: see `Labels`.
    """

    name: str
    images: str
    masks: str
    classes: tuple[LabelledClass, ...]
    ignore: tuple[Label, ...]
    threshold: int | None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names by id."""
        return tuple(info.name for info in self.classes)

    @property
    def counted(self) -> tuple[int, ...]:
        """Ids of the classes that means take in."""
        return tuple(index for index, info in enumerate(self.classes) if info.counted)

    @cached_property
    def labels(self) -> Labels:
        """What the pixels of its masks mean."""
        return Labels(tuple(info.values for info in self.classes), self.ignore, self.threshold)


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


def read_description(path: Path) -> Description:
    """Read a description. Raises InputError with the field, what was expected and what was found."""
    try:
        described = decode(Description, json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise InputError(
            f"{path}: expected the description of a data set, found no such file; see docs/evaluation.md"
        ) from None
    except (OSError, RecordError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: {error}") from None
    _check(described, path)
    return described


def select(dataset: Dataset, split: str | None) -> Dataset:
    """The part of a data set that is asked for.

    split: a file with one name a line; ``every=N:K``, each Nth image from the Kth on, counted from 0 in order of names;
    or a pattern of names. Names are those of `Sample`, or of image files. Raises InputError where a listed name is
    unknown, where nothing is left, and where an image has no mask.
    """
    chosen = dataset.samples if split is None else _chosen(dataset, split)
    if not chosen:
        raise InputError(
            f"--split {split}: expected a file of names, every=N:K or a pattern that fits some of the "
            f"{len(dataset.samples)} images, found none of these; their names are like {dataset.samples[0].name}"
        )
    without = [sample for sample in chosen if not sample.mask.is_file()]
    if without:
        raise InputError(
            f"{without[0].image}: expected its mask {without[0].mask}, found no such file ({len(without)} of "
            f"{len(chosen)} images have none); leave them out with --split, or add their masks"
        )
    return replace(dataset, samples=tuple(chosen))


def class_ids(dataset: Dataset, bundle: Bundle) -> NDArray[np.uint8]:
    """The data set's class id by the bundle's, matched by name: (256,) uint8; 255 stays what it is.

    A class that no mean takes in may be missing from the bundle. Raises InputError that names those that do not match.
    """
    ours, theirs = dataset.description, [_key(name) for name in bundle.manifest.class_names]
    known = {_key(name): index for index, name in enumerate(ours.class_names)}
    strange = [name for name in bundle.manifest.class_names if _key(name) not in known]
    missing = [info.name for info in ours.classes if info.counted and _key(info.name) not in theirs]
    if strange or missing:
        raise InputError(
            f"{called(bundle.folder)}: expected the classes {', '.join(ours.class_names)} of {ours.name}, found "
            f"{', '.join(bundle.manifest.class_names)}; without a match: {', '.join([*strange, *missing])}; describe "
            "the data set with the bundle's names (docs/evaluation.md)"
        )
    table = np.full(256, IGNORE, np.uint8)
    table[: len(theirs)] = [known[name] for name in theirs]
    return table


def _key(name: str) -> str:
    return name.strip().casefold()


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


def _chosen(dataset: Dataset, split: str) -> list[Sample]:
    if rule := re.fullmatch(r"every=(\d+):(\d+)", split):
        every, first = map(int, rule.groups())
        if not 0 <= first < every:
            raise InputError(f"--split {split}: expected every=N:K with K below N, as every=5:0")
        return list(dataset.samples[first::every])
    if Path(split).is_file():
        return _listed(dataset, Path(split))
    return [sample for sample in dataset.samples if any(fnmatchcase(name, split) for name in _names(sample))]


def _listed(dataset: Dataset, path: Path) -> list[Sample]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise InputError(f"--split {path}: expected one name a line, found {error}") from None
    by_name: dict[str, set[str]] = {}
    for sample in dataset.samples:
        for name in _names(sample):
            by_name.setdefault(name, set()).add(sample.name)
    entries = [line for line in lines if line and not line.startswith("#")]
    unknown = [entry for entry in entries if entry not in by_name]
    if unknown:
        raise InputError(
            f"--split {path}: expected names of images in {dataset.root}, found {', '.join(unknown[:3])} "
            f"({len(unknown)} of {len(entries)} are unknown); names are like {dataset.samples[0].name}"
        )
    wanted = set().union(*(by_name[entry] for entry in entries))
    return [sample for sample in dataset.samples if sample.name in wanted]


def _names(sample: Sample) -> set[str]:
    """What a split may call an image."""
    return {sample.name, sample.image.name, sample.image.stem}


def _check(described: Description, path: Path) -> None:
    """What the types cannot say."""

    def expect(holds: bool, field: str, expected: str, found: object) -> None:
        if not holds:
            raise InputError(f"{path}: {field}: expected {expected}, found {found}")

    images, masks = described.images, described.masks
    for field, pattern in (("images", images), ("masks", masks)):
        inside = not Path(pattern).is_absolute() and ".." not in Path(pattern).parts and "**" not in pattern
        expect(inside, field, "a pattern inside the folder, without **", repr(pattern))
    expect("*" in images, "images", "a pattern with stars", repr(images))
    expect(images.count("*") == masks.count("*"), "masks", f"{images.count('*')} stars as in images", repr(masks))
    expect(images != masks, "masks", "another pattern than that of images", repr(masks))
    names = [_key(name) for name in described.class_names]
    expect(2 <= len(names) <= MOST_CLASSES, "classes", f"2 to {MOST_CLASSES} classes", len(names))
    expect(len(set(names)) == len(names), "classes", "distinct names", ", ".join(described.class_names))
    expect(bool(described.counted), "classes", "at least one that is counted", "none")
    threshold = described.threshold
    expect(threshold is None or 1 <= threshold <= 255, "threshold", "1 to 255, or null", threshold)
    _check_labels(described, expect)


def _check_labels(described: Description, expect: Callable[[bool, str, str, object], None]) -> None:
    taken = set[Label]()
    fields = [(f"classes[{i}].values", info.values) for i, info in enumerate(described.classes)]
    for field, values in (*fields, ("ignore", described.ignore)):
        expect(bool(values) or field == "ignore", field, "at least one id or colour", "none")
        for value in values:
            fits = 0 <= value < 1 << 16 if isinstance(value, int) else all(0 <= part <= 255 for part in value)
            expect(fits, field, "ids from 0 to 65535, or colours of three values from 0 to 255", value)
            expect(value not in taken, field, "ids and colours that nothing else has", value)
            taken.add(value)
