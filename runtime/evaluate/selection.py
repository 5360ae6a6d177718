"""Which images of a data set are asked for."""

from __future__ import annotations

import re
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from ..errors import InputError
from .datasets import Dataset, Sample


def select(dataset: Dataset, split: str | None) -> Dataset:
    """Take a part of a data set.

    Args:
        dataset: The data set.
        split: Which images: a file with one name a line; ``every=N:K``, each Nth image from the Kth on, counted from 0
            in order of names; or a pattern of names. Names are those of `Sample`, or of image files. None for all.

    Returns:
        The data set with those images alone.

    Raises:
        InputError: A listed name is unknown, no image is left, or one of them has no mask.
    """
    chosen = dataset.samples if split is None else _chosen(dataset, split)
    if not chosen:
        raise InputError(
            subject=f"`split` {split}",
            expected=f"a file of names, every=N:K or a pattern that fits some of the {len(dataset.samples)} images",
            found="none of these",
            remedy=f"their names are like {dataset.samples[0].name}",
        )
    without = [sample for sample in chosen if not sample.mask.is_file()]
    if without:
        raise InputError(
            subject=without[0].image,
            expected=f"its mask {without[0].mask}",
            found=f"no such file ({len(without)} of {len(chosen)} images have none)",
            remedy="leave them out with `split`, or add their masks",
        )
    return replace(dataset, samples=tuple(chosen))


def _chosen(dataset: Dataset, split: str) -> list[Sample]:
    """The images of a split, in order of their names."""
    if rule := re.fullmatch(r"every=(\d+):(\d+)", split):
        every, first = map(int, rule.groups())
        if not 0 <= first < every:
            raise InputError("expected every=N:K with K below N, as every=5:0", subject=f"`split` {split}")
        return list(dataset.samples[first::every])
    if Path(split).is_file():
        return _listed(dataset, Path(split))
    return [sample for sample in dataset.samples if any(fnmatchcase(name, split) for name in _names(sample))]


def _listed(dataset: Dataset, path: Path) -> list[Sample]:
    """The images that a file lists, in order of their names."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise InputError(subject=f"`split` {path}", expected="one name a line", found=str(error)) from None
    by_name: dict[str, set[str]] = {}
    for sample in dataset.samples:
        for name in _names(sample):
            by_name.setdefault(name, set()).add(sample.name)
    entries = [line for line in lines if line and not line.startswith("#")]
    unknown = [entry for entry in entries if entry not in by_name]
    if unknown:
        raise InputError(
            subject=f"`split` {path}",
            expected=f"names of images in {dataset.root}",
            found=f"{', '.join(unknown[:3])} ({len(unknown)} of {len(entries)} are unknown)",
            remedy=f"names are like {dataset.samples[0].name}",
        )
    wanted = set().union(*(by_name[entry] for entry in entries))
    return [sample for sample in dataset.samples if sample.name in wanted]


def _names(sample: Sample) -> set[str]:
    """The names by which a split may list an image."""
    return {sample.name, sample.image.name, sample.image.stem}
