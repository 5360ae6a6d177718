"""``fctl-run``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from .area import AreaOptions
from .console import command
from .destinations import out_of
from .images import images_of
from .interrupts import ending_at_once
from .live import check_live
from .options import How, band_numbers, batch_size
from .outcomes import Asked, outcomes_of
from .outputs import SPELLINGS, Outputs
from .refine import check_alone
from .reports import Results
from .run_options import EngineOptions, Limits, ManyImages, Segmentation
from .spellings import Spellings
from .spread import SpreadOptions
from .targets import scene_of, targets_of

if TYPE_CHECKING:
    from ..raster.places import Place
    from ..segment.results import Paths
    from ..storage.destination import Destination


def run(
    images: Annotated[  # no paths: names of parts of containers may hold "//"
        list[str],
        typer.Argument(
            metavar="IMAGE", help="Files, folders, patterns, lists (.txt), or parts of containers as GDAL names them."
        ),
    ],
    segmentation: Segmentation,
    area: AreaOptions,
    engine: EngineOptions,
    outputs: Outputs,
    limits: Limits,
    many: ManyImages,
    spread: SpreadOptions,
) -> None:
    """Segment images into masks with class ids, colours and the image's georeference.

    Writes <name>_mask.tif with its colours (.qml) and names (.aux.xml), and <name>_preview.jpg; see docs/outputs.md.
    """
    from ..raster.resolution import Resolution

    Resolution.parsed(segmentation.resolution)  # raises before anything is read
    batch_size(engine.batch)  # likewise
    spread.check()
    if many.live:
        check_live({
            "--memory": limits.memory, "--mosaic": many.mosaic, "--allow-remote": limits.allow_remote,
            "--workers": spread.workers, "--dask": spread.dask, "--part": spread.part, "--assemble": spread.assemble,
            "--dry-run": outputs.dry_run, "--refine": segmentation.refine,
        })  # fmt: skip
    how = How(
        bands=band_numbers(segmentation.bands), scale_range=segmentation.scale_range,
        resolution=segmentation.resolution, where=area.where(), coarse=segmentation.coarse,
    )  # fmt: skip
    named = images_of(images, recursive=many.recursive)
    out = out_of(outputs.out, outputs.staging)
    targets = targets_of([scene_of(images, named)] if many.mosaic else named, outputs, out)
    segmentation.check(len(targets))
    if segmentation.refine:
        check_alone(spread, dry_run=outputs.dry_run)
    results = Results(len(targets), as_json=many.json, named=out.destination.named)
    with ending_at_once():
        left = dict(
            _left_to_do(targets, segmentation, how, engine, outputs, limits, many, results, out.destination, spread)
        )
        if left:
            asked = Asked(
                how=how, outputs=out.here(outputs), limits=limits, destination=out.destination, live=many.live
            )
            for image, paths, outcome in outcomes_of(left, segmentation, engine, spread, asked):
                with results.of(image):
                    found, maker = outcome()
                    if not outputs.dry_run and not spread.part:
                        _deliver(paths, out.destination, spread)
                    results.add(found, maker)
    if code := results.finish():
        raise typer.Exit(code)


def _left_to_do(
    targets: dict[Place, Paths],
    segmentation: Segmentation,
    how: How,
    engine: EngineOptions,
    outputs: Outputs,
    limits: Limits,
    many: ManyImages,
    results: Results,
    destination: Destination,
    spread: SpreadOptions,
) -> Iterator[tuple[Place, Paths]]:
    """The images whose outputs can be written and are not there yet; looked at before the engine is opened."""
    from ..segment.outputs import check_outputs, is_finished

    asked: dict[str, str] = {}
    if many.skip_existing or destination.staged:
        asked = _asked_of(segmentation, how, engine, limits)
    for image, paths in targets.items():
        with results.of(image):
            remote = limits.allow_remote
            if many.skip_existing and is_finished(
                image, paths, asked, remote=remote, destination=destination, coarse=how.coarse
            ):
                results.skip(image)
                continue
            waits = destination.staged and is_finished(image, paths, asked, remote=remote, coarse=how.coarse)
            check_outputs(
                image, paths, overwrite=outputs.overwrite or (waits and destination.is_begun(paths.mask)),
                resume=outputs.resume, remote=remote, destination=destination,
            )  # fmt: skip
            if waits and not outputs.dry_run:
                _deliver(paths, destination, spread)
                results.upload(image, paths)
            else:
                yield image, paths


def _asked_of(segmentation: Segmentation, how: How, engine: EngineOptions, limits: Limits) -> dict[str, str]:
    """What the tags of a mask say that is made as is asked."""
    from ..segment.opening import bundle_of, encodes_once
    from ..segment.outputs import asked_tags
    from ..segment.refining import coarse_tags, told_of
    from ..segment.where import EVERYWHERE

    def tags(one: Segmentation, how: How) -> dict[str, str]:
        bundle, turns = bundle_of(one.bundle, one.scene_size), 8 if one.tta else 1
        return asked_tags(
            bundle.manifest, engine.precision, turns, how.bands, how.scale_range, where=how.where,
            resolution=one.resolution, once=encodes_once(bundle, one.contexts),
        )  # fmt: skip

    if not segmentation.refine:
        return tags(segmentation, how) | coarse_tags(how.coarse, limits.access())
    return tags(segmentation.last, how) | told_of(tags(segmentation.first, replace(how, where=EVERYWHERE)))


def _deliver(paths: Paths, destination: Destination, spread: SpreadOptions) -> None:
    """Take outputs where they go. Only then nobody needs any more what workers on other machines put there."""
    from ..segment.outputs import deliver
    from ..segment.parts import parts_folder_of
    from ..segment.shards.folder import folder_of
    from ..storage.places import storage_of

    deliver(paths, destination)
    if destination.staged and (spread.assemble or spread.dask):
        folder = parts_folder_of(paths.mask) if spread.assemble else folder_of(paths.mask)
        storage_of(destination.named(folder)).clear()


run_app = command(
    run,
    examples=("image.tif", "scenes/*.tif --bundle city.fctl -o masks/ --probabilities"),
    spellings=Spellings(options={"--sources": "--allow-remote"}, values=SPELLINGS.values),
)
