"""int8 graphs beside a bundle's fp32 ones: calibrated, searched, verified. Needs no torch."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fctl.calib.choose import cut_patches
from fctl.calib.classes import MIN_CLASS_IOU, ious_of
from fctl.calib.layers import float_layers
from fctl.calib.ranges import Method
from fctl.calib.report import Measured, write_report
from fctl.calib.search import sensitivities
from fctl.calib.trials import Fp32Graphs, Numbers, Trials
from fctl.runtime.atomic import atomic_write, refuse_existing
from fctl.runtime.bundle.manifest import Manifest
from fctl.runtime.bundle.store import Bundle
from fctl.runtime.errors import BundleError
from fctl.runtime.evaluate.datasets import Dataset
from fctl.runtime.evaluate.plots import check_matplotlib
from fctl.runtime.progress import StageProgress

from ..verify import Samples
from .add import check_fp32, check_masks
from .int8_budget import LEAST, Budget, agreement_budget, fp32_miou, miou_budget, within
from .int8_calibration import calibrate
from .int8_graphs import file_size, write_bundle
from .int8_patches import choose, stage
from .int8_speed import log_result, timed

log = logging.getLogger(__name__)

REPORT = "int8"  # folder in the bundle
_ALONE = 8  # of the patches that layers are tried on, those on which every layer is tried alone


@dataclass(frozen=True, kw_only=True)
class Int8Options:
    """How to make int8 graphs.

    Attributes:
        calib: Images, or folders of images, like those that the network will run on.
        coarse: For a bundle that refines masks, the folder of those of the images; None for stand-ins, which are not
            like those that it will refine.
        count: How many patches calibrate.
        seed: The random seed of their places.
        ranges: One of `calib.ranges.METHODS`, or "auto" for the one with which most pixels keep their class.
        min_agreement: The fraction of the pixels that must keep their fp32 class.
        labelled: Labelled images; the budget is then the mIoU that is lost on them.
        max_miou_drop: How much mIoU may be lost on labelled images (0.005 is half a point).
        min_class_iou: The least IoU with fp32, from 0 to 1, of every class that fp32 predicts on at least 0.1 % of the
            pixels, on the patches that layers are tried on and on those of the gate. It holds with either budget; 0
            lets every class pass.
    """

    calib: tuple[Path, ...]
    coarse: Path | None = None
    count: int = 256
    seed: int = 0
    ranges: Method | Literal["auto"] = "auto"
    min_agreement: float = 0.99
    labelled: Dataset | None = None
    max_miou_drop: float = 0.005
    min_class_iou: float = MIN_CLASS_IOU


def add_int8(bundle: Bundle, out: Path, options: Int8Options, progress: StageProgress | None = None) -> Manifest:
    """Copy a bundle, with int8 graphs made from its fp32 ones and a report beside them.

    Args:
        bundle: A bundle with fp32 graphs.
        out: The folder of the copy.
        options: How to make the int8 graphs.
        progress: Called with the steps of each stage.

    Returns:
        The manifest of the copy.

    Raises:
        ParityError: The budget cannot be kept.
        BundleError: The bundle holds int8 graphs already, or cannot have them.
        InputError: The images or labels show nothing, or do not fit the bundle's classes.
        RasterError: An image cannot be read, or does not fit the bundle.
        OutputError: `out` exists already, or cannot be written. After any error nothing is left behind.
        EngineError: matplotlib, which draws the report's chart, is not installed.
    """
    check_matplotlib()
    refuse_existing(out, remedy="bundles are never changed: choose another `out`, or remove it")
    check_fp32(bundle, "int8")
    check_masks(bundle, options.coarse)
    graphs = Fp32Graphs.of(bundle)
    _check_work(graphs)
    before = fp32_miou(bundle, options.labelled) if options.labelled else 0.0
    patches = choose(bundle, options.calib, options.count, options.seed, progress, options.coarse)
    log.info("calibrating with %d patches, trying layers on %d others", len(patches.calibrating), len(patches.tried))
    trials = Trials(graphs, cut_patches(bundle.manifest, patches.tried))
    found = calibrate(graphs, trials, patches.calibrating, options.ranges, progress)
    numbers = found.numbers
    batches = list(cut_patches(bundle.manifest, patches.judging))
    samples = Samples(batches=batches, source=", ".join(map(str, options.calib)))
    with tempfile.TemporaryDirectory(prefix="fctl-int8-") as folder_name:
        scratch = Path(folder_name)
        order = sensitivities(trials, numbers, _ALONE, stage(progress, "each layer alone in int8"))
        budget = _budget(trials, numbers, options, before, scratch)
        layers, parity = within(graphs, numbers, order, budget, samples, scratch)
        with atomic_write(out) as folder:
            manifest = write_bundle(graphs, layers.best, numbers, folder, out.stem, parity)
            speeds, gains = timed(graphs, layers, numbers, batches[0], Bundle(folder, manifest), scratch)
            write_report(
                Measured(
                    graphs=graphs, patches=patches.calibrating, checks=patches.tried, gate=patches.judging,
                    seed=options.seed, agreement=found.agreements, method=found.method, corrected=found.corrected,
                    budget=(budget.name, budget.allowed), sensitivity=order, best=layers.best,
                    worst=trials.worst(layers.best.chosen, numbers), points=layers.points,
                    floats={role: float_layers(model) for role, model in graphs.models.items()},
                    speeds=speeds, gains=gains, engine=speeds[0].engine if speeds else None,
                    sizes=(file_size(folder, manifest, "fp32"), file_size(folder, manifest, "int8")),
                    check_classes=ious_of(
                        trials.confusion(layers.best.chosen, numbers), bundle.manifest.class_names
                    ),
                    gate_classes=parity.class_iou, min_class_iou=options.min_class_iou,
                ),
                folder / REPORT,
            )  # fmt: skip
    log_result(layers.best, speeds)
    return manifest


def _budget(trials: Trials, numbers: Numbers, options: Int8Options, before: float, scratch: Path) -> Budget:
    """The budget that was asked for. before: the fp32 graphs' mIoU on labelled images, if there are any."""
    if options.labelled:
        return miou_budget(
            trials, numbers, options.labelled, before, options.max_miou_drop, options.min_class_iou, scratch
        )
    return agreement_budget(trials, numbers, options.min_agreement, options.min_class_iou)


def _check_work(graphs: Fp32Graphs) -> None:
    """Raise BundleError where too little of a bundle's work may be int8, whatever the budget."""
    share = graphs.share(graphs.names)
    if share < LEAST:
        reasons = {reason for model in graphs.models.values() for reason in float_layers(model).values()}
        floats = f" ({', '.join(sorted(reasons))})" if reasons else ""
        raise BundleError(
            subject=graphs.bundle.folder,
            expected=f"layers that may be int8 with {LEAST:.0%} of the multiply-accumulates or more",
            found=f"{share:.1%}",
            remedy=f"the rest stays float{floats}: run it in fp32 or fp16",
        )
