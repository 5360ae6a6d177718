"""A bundle that says something else of itself: colours of classes, or a temperature. Its graphs stay as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from fctl.runtime.atomic import atomic_write, refuse_existing
from fctl.runtime.bundle.manifest import SCHEMA, ClassInfo
from fctl.runtime.bundle.store import Bundle, read_bundle, write_manifest
from fctl.runtime.errors import InputError
from fctl.runtime.segment.options import OutputOptions
from fctl.runtime.tiling.temperature import COOLEST, HOTTEST

from .copies import copy_files


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """What a bundle is to say.

    Attributes:
        colours: Red, green and blue by the name of a class; the other classes keep theirs.
        temperature: What makes probabilities surer (below 1) or less sure (above 1); None leaves it as it is.
    """

    colours: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    temperature: float | None = None

    def __post_init__(self) -> None:
        if self.temperature is not None and not COOLEST <= self.temperature <= HOTTEST:
            raise InputError(
                subject="`temperature`", expected=f"{COOLEST:g} to {HOTTEST:g}", found=f"{self.temperature:g}"
            )

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to change."""
        return self == Revision()

    def classes(self, classes: tuple[ClassInfo, ...]) -> tuple[ClassInfo, ...]:
        """Classes in their new colours.

        Raises:
            InputError: A colour is for a class that there is not.
        """
        return OutputOptions(colours=self.colours).classes(classes)


def revise_bundle(bundle: Bundle, out: Path, revision: Revision) -> Bundle:
    """Copy a bundle, and let the copy say something else of itself.

    Args:
        bundle: The bundle.
        out: The folder of the copy; its name without the suffix becomes the bundle's name.
        revision: What it is to say.

    Returns:
        The copy.

    Raises:
        InputError: A colour is for a class that the bundle does not have.
        OutputError: `out` exists already, or cannot be written. After any error nothing is left behind.
    """
    refuse_existing(out, remedy="bundles are never changed: choose another `out`, or remove it")
    before = bundle.manifest
    temperature = before.temperature if revision.temperature is None else revision.temperature
    manifest = replace(
        before, schema=SCHEMA, name=out.stem, classes=revision.classes(before.classes), temperature=temperature
    )
    with atomic_write(out) as folder:
        copy_files(bundle.folder, folder)
        write_manifest(folder, manifest)
    return read_bundle(out)
