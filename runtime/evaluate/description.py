"""What a labelled data set states about itself: ``dataset.json``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..bundle.files import WrongFileError, read_json
from ..bundle.records import RecordError, decode
from ..errors import InputError
from .labels import MOST_CLASSES, Label, Labels

DESCRIPTION = "dataset.json"
"""The file in which a data set describes itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledClass:
    """One class of a data set.

    Attributes:
        name: Its name.
        values: The ids or colours that it has in masks.
        counted: Whether means take it in.
    """

    name: str
    values: tuple[Label, ...]
    counted: bool


@dataclass(frozen=True, kw_only=True)
class Description:
    """What ``dataset.json`` holds.

    Attributes:
        name: The name of the data set.
        images: A pattern of the images, relative to the folder.
        masks: A pattern of their masks with as many stars, which stand for the same text as in the image's path.
        classes: The classes, by id.
        ignore: Ids and colours that count for nothing, see `Labels`.
        threshold: What tells smeared colours apart, see `Labels`.
    """

    name: str
    images: str
    masks: str
    classes: tuple[LabelledClass, ...]
    ignore: tuple[Label, ...]
    threshold: int | None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, by id."""
        return tuple(info.name for info in self.classes)

    @property
    def counted(self) -> tuple[int, ...]:
        """The ids of the classes that means take in."""
        return tuple(index for index, info in enumerate(self.classes) if info.counted)

    @cached_property
    def labels(self) -> Labels:
        """What the pixels of its masks mean."""
        return Labels(tuple(info.values for info in self.classes), self.ignore, self.threshold)


def read_description(path: Path) -> Description:
    """Read a description.

    Args:
        path: The file.

    Returns:
        The description.

    Raises:
        InputError: The file is missing or wrong; it names the field, what was expected and what was found.
    """
    try:
        described = decode(Description, read_json(path))
    except WrongFileError as error:
        raise InputError(
            subject=path,
            expected="the description of a data set",
            found=error,
            remedy="see docs/evaluation.md",
        ) from None
    except (OSError, RecordError, ValueError, RecursionError) as error:
        raise InputError(str(error), subject=path) from None
    _check(described, path)
    return described


def class_key(name: str) -> str:
    """A class name as names are compared: without regard to case and surrounding space."""
    return name.strip().casefold()


def _check(described: Description, path: Path) -> None:
    """Raise InputError for what the types of the fields cannot rule out."""

    def expect(holds: bool, field: str, expected: str, found: object) -> None:
        if not holds:
            raise InputError(subject=f"{path}: {field}", expected=expected, found=str(found))

    images, masks = described.images, described.masks
    for field, pattern in (("images", images), ("masks", masks)):
        inside = not Path(pattern).is_absolute() and ".." not in Path(pattern).parts and "**" not in pattern
        expect(inside, field, "a pattern inside the folder, without **", repr(pattern))
    expect("*" in images, "images", "a pattern with stars", repr(images))
    expect(images.count("*") == masks.count("*"), "masks", f"{images.count('*')} stars as in images", repr(masks))
    expect(images != masks, "masks", "another pattern than that of images", repr(masks))
    names = [class_key(name) for name in described.class_names]
    expect(2 <= len(names) <= MOST_CLASSES, "classes", f"2 to {MOST_CLASSES} classes", len(names))
    expect(len(set(names)) == len(names), "classes", "distinct names", ", ".join(described.class_names))
    expect(bool(described.counted), "classes", "at least one that is counted", "none")
    threshold = described.threshold
    expect(threshold is None or 1 <= threshold <= 255, "threshold", "1 to 255, or null", threshold)
    _check_labels(described, expect)


def _check_labels(described: Description, expect: Callable[[bool, str, str, object], None]) -> None:
    """Check that ids and colours are in range, and that none has two meanings."""
    taken = set[Label]()
    fields = [(f"classes[{i}].values", info.values) for i, info in enumerate(described.classes)]
    for field, values in (*fields, ("ignore", described.ignore)):
        expect(bool(values) or field == "ignore", field, "at least one id or colour", "none")
        for value in values:
            fits = 0 <= value < 1 << 16 if isinstance(value, int) else all(0 <= part <= 255 for part in value)
            expect(fits, field, "ids from 0 to 65535, or colours of three values from 0 to 255", value)
            expect(value not in taken, field, "ids and colours that nothing else has", value)
            taken.add(value)
