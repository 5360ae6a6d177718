"""The coarse masks that a refiner is trained from: of a folder, or made by a bundle once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fctl.runtime.bundle.manifest import InputSpec
from fctl.runtime.bundle.store import Bundle, read_bundle
from fctl.runtime.errors import InputError
from fctl.runtime.evaluate.datasets import Dataset, Sample
from fctl.runtime.evaluate.labels import MaskReader
from fctl.runtime.evaluate.metrics import Confusion
from fctl.runtime.evaluate.pairs import open_labels
from fctl.runtime.progress import StageProgress
from fctl.runtime.raster.coarse import coarse_in, open_coarse
from fctl.runtime.raster.source import RasterSource, open_raster
from fctl.runtime.segment.outputs import asked_tags, is_finished
from fctl.runtime.segment.results import Paths
from fctl.runtime.segment.segmenter import Segmenter
from fctl.runtime.tiling.windows import Window

from .perturb import perturbed_image

_SEED = 0  # of labels that are perturbed for validation, alike in all trainings


@dataclass(frozen=True)
class CoarseMasks:
    """Which masks there are.

    Attributes:
        names: The names of the classes by id.
        files: By image, the file of its coarse mask; none where labels are perturbed instead.
        scale_range: Which values of images become the lowest and the highest of the network's, or None.
    """

    names: tuple[str, ...]
    files: Mapping[Sample, Path] = field(default_factory=dict)
    scale_range: str | None = None

    def ids(self, sample: Sample, image: RasterSource, labels: MaskReader) -> NDArray[np.uint8]:
        """The coarse mask of an image: its own, or its labels perturbed in a way that is always the same.

        Args:
            sample: The image and its labels.
            image: The open image.
            labels: Its open labels.

        Returns:
            Class ids (height, width), 255 where there is none.

        Raises:
            RasterError: The mask is damaged, has other classes, or does not lie on the image.
        """
        file = self.files.get(sample)
        if file is None:
            return perturbed_image(labels.read(0, image.height), _SEED)
        size = image.height, image.width
        with open_coarse(str(file), size, image.georeference, self.names) as mask:
            return mask.read(Window(0, 0, *size))

    def confusion(self, dataset: Dataset, spec: InputSpec, bands: Sequence[int] | None) -> Confusion:
        """How the coarse masks of some images compare with their labels, which tells what refinement adds.

        Args:
            dataset: The images.
            spec: What images must have.
            bands: Bands of the images, from 1, or None for all but alpha.

        Returns:
            The confusion, pooled over the images.
        """
        total = Confusion.empty(len(self.names))
        for sample in dataset.samples:
            with (
                open_raster(sample.image, spec, bands, scale_range=self.scale_range) as image,
                open_labels(sample, dataset.description.labels) as labels,
            ):
                ids = self.ids(sample, image, labels)
                total += Confusion.of(labels.read(0, labels.height), ids, len(self.names))
        return total


def coarse_masks(
    settings: str | None,
    folder: Path,
    datasets: Iterable[Dataset],
    bands: Sequence[int] | None,
    cache: Path,
    progress: StageProgress | None,
    scale_range: str | None = None,
) -> CoarseMasks:
    """Find the coarse masks of a training, or make them.

    Args:
        settings: A folder of masks or of a bundle (`DataSettings.coarse`); None for perturbed labels.
        folder: Where a relative path starts.
        datasets: The images of the training and of its validation.
        bands: Bands of the images, from 1, or None for all but alpha.
        cache: Where masks go that a bundle makes; those that are there already are not made again.
        progress: Called after every image.
        scale_range: As for `DataSettings`.

    Returns:
        The masks.

    Raises:
        InputError: A mask is missing, or the bundle has other classes.
        BundleError: The bundle is damaged.
    """
    datasets = tuple(datasets)
    names = datasets[0].description.class_names
    found = find_coarse(settings, folder, datasets)
    if isinstance(found, Bundle):
        found = _made(found, _all_of(datasets), bands, cache, progress, scale_range)
    return CoarseMasks(names, found, scale_range)


def find_coarse(settings: str | None, folder: Path, datasets: Sequence[Dataset]) -> Bundle | dict[Sample, Path]:
    """Find the coarse masks of a training, or what makes them; arguments as of `coarse_masks`.

    Returns:
        A bundle; or the file of each image's mask, none where labels are perturbed.

    Raises:
        InputError: A mask is missing, or the bundle has other classes.
        BundleError: The bundle is damaged.
    """
    if settings is None:
        return {}
    place, names = folder / settings, datasets[0].description.class_names
    if not (place / "manifest.json").is_file():
        return {sample: coarse_in(place, Path(sample.image), "data.coarse") for sample in _all_of(datasets)}
    bundle = read_bundle(place)
    manifest = bundle.manifest
    if manifest.class_names != names or manifest.refines:
        found = ", ".join(manifest.class_names)
        raise InputError(
            subject=f"data.coarse: bundle {manifest.name}",
            expected=f"one that makes masks of the data's classes: {', '.join(names)}",
            found=f"one that refines {found}" if manifest.refines else found,
        )
    return bundle


def _all_of(datasets: Sequence[Dataset]) -> list[Sample]:
    return list(dict.fromkeys(sample for dataset in datasets for sample in dataset.samples))


def _made(
    bundle: Bundle,
    samples: Sequence[Sample],
    bands: Sequence[int] | None,
    cache: Path,
    progress: StageProgress | None,
    scale_range: str | None,
) -> dict[Sample, Path]:
    """The masks that a bundle makes of images."""
    found = dict[Sample, Path]()
    cache.mkdir(parents=True, exist_ok=True)
    with Segmenter(bundle) as segmenter:
        asked = asked_tags(segmenter.manifest, segmenter.engine.precision, 1, bands, scale_range, once=segmenter.once)
        for index, sample in enumerate(samples):
            where = hashlib.sha256(str(Path(sample.image).resolve()).encode()).hexdigest()[:12]
            paths = Paths(mask=cache / f"{Path(sample.image).stem}_{where}_mask.tif")
            if not is_finished(sample.image, paths, asked):
                segmenter.segment_file(sample.image, paths, bands=bands, overwrite=True, scale_range=scale_range)
            found[sample] = paths.mask
            if progress:
                progress("coarse masks", index + 1, len(samples))
    return found
