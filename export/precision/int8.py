"""INT8 graphs beside a bundle's fp32 ones: calibrated, searched, verified. Needs no torch."""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from fctl.calib.choose import Chosen, choose_patches, cut_patches
from fctl.calib.correct import corrections
from fctl.calib.quantise import check_quantised, float_layers
from fctl.calib.ranges import METHODS, Method, amax
from fctl.calib.report import Measured, write_report
from fctl.calib.sample import find_images
from fctl.calib.search import Found, Point, Sensitivity, search, sensitivities
from fctl.calib.speed import ENGINES, Speed, speeds
from fctl.calib.trials import Fp32Graphs, Names, Numbers, Trials
from fctl.calib.watch import histograms, peaks
from fctl.runtime.bundle.manifest import GraphSpec, Manifest, Parity
from fctl.runtime.bundle.store import Bundle, sha256, write_manifest
from fctl.runtime.errors import BundleError, InputError, ParityError
from fctl.runtime.evaluate.datasets import Dataset
from fctl.runtime.evaluate.evaluation import evaluate
from fctl.runtime.evaluate.runs import plan_runs
from fctl.runtime.raster.atomic import atomic_write, refuse_existing
from fctl.runtime.segment.batches import PatchBatch
from fctl.runtime.segment.opening import open_network

from ..onnx_graph import save_model
from ..verify import Samples, Tolerance, fp32_reference, verify
from .add import check_fp32, copy_files

log = logging.getLogger(__name__)

REPORT = "int8"  # folder in the bundle
_CHECKS = 48  # patches that layers are tried on, beside those that calibrate
_VERIFIED = 32  # and others for the gate
_SCORES = 2**25  # numbers that the gate holds of scores, at most
_ALONE = 8  # of the former, on which every layer is tried alone
_MARGINS = (0.8, 0.5, 0.3)  # shares of the budget that are spent on the patches that the search sees: others lose more
_LEAST = 0.1  # of the multiply-accumulates: with less in int8 there is no point
_NAMED = 5  # layers to blame

Step = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Int8Options:
    """How to make int8 graphs.

    calib: images or folders. count: patches that calibrate. seed: of their places. ranges: one of
    `calib.ranges.METHODS`, or "auto" for the one that keeps most pixels. min_agreement: share of pixels that must keep
    the fp32 class. labelled, max_miou_drop: labelled images, on which mIoU may fall by so much instead (0.005: half a
    point).
    """

    calib: tuple[Path, ...]
    count: int = 256
    seed: int = 0
    ranges: Method | Literal["auto"] = "auto"
    min_agreement: float = 0.99
    labelled: Dataset | None = None
    max_miou_drop: float = 0.005


def add_int8(bundle: Bundle, out: Path, options: Int8Options, progress: Step | None = None) -> Manifest:
    """Copy a bundle to the folder `out`, with int8 graphs made from its fp32 ones, and a report beside them.

    Raises ParityError where the budget cannot be kept, BundleError for a bundle that holds int8 graphs or cannot have
    them, InputError, RasterError or OutputError; then nothing is left behind.
    """
    refuse_existing(out, remedy="bundles are never changed: choose another --out, or remove it")
    check_fp32(bundle, "int8")
    graphs = Fp32Graphs.of(bundle)
    _check_work(graphs)
    before = _fp32_miou(bundle, options.labelled) if options.labelled else 0.0
    calibrating, tried, judging = _parts(_choose(bundle, options, progress), options.count)
    log.info("calibrating with %d patches, trying layers on %d others", len(calibrating), len(tried))
    trials = Trials(graphs, cut_patches(bundle.manifest, tried))
    numbers, method, corrected, agreements = _calibrate(graphs, trials, calibrating, options, progress)
    judging = judging[: _at_most(bundle.manifest)]
    samples = Samples(batches=list(cut_patches(bundle.manifest, judging)), source=", ".join(map(str, options.calib)))
    with tempfile.TemporaryDirectory(prefix="fctl-int8-") as scratch:
        order = sensitivities(trials, numbers, _ALONE, _told(progress, "each layer alone in int8"))
        budget = _budget(graphs, trials, numbers, options, before, Path(scratch))
        found, parity = _within(graphs, numbers, order, budget, samples, Path(scratch))
        with atomic_write(out) as folder:
            manifest = _write(graphs, found.best, numbers, folder, out.stem, parity)
            timed, gains = _timed(graphs, found, numbers, samples.batches[0], Bundle(folder, manifest), Path(scratch))
            write_report(
                Measured(
                    graphs=graphs, patches=calibrating, checks=tried, gate=judging, seed=options.seed,
                    agreement=agreements, method=method, corrected=corrected,
                    budget=(budget.name, budget.allowed), sensitivity=order, best=found.best,
                    worst=trials.worst(found.best.chosen, numbers), points=found.points,
                    floats={role: float_layers(model) for role, model in graphs.models.items()},
                    speeds=timed, gains=gains, engine=timed[0].engine if timed else None,
                    sizes=(_size(folder, manifest, "fp32"), _size(folder, manifest, "int8")),
                ),
                folder / REPORT,
            )  # fmt: skip
    _tell(found.best, timed)
    return manifest


def _check_work(graphs: Fp32Graphs) -> None:
    """Raise BundleError where too little of a bundle's work may be int8, whatever the budget."""
    share = graphs.share(graphs.names)
    if share < _LEAST:
        reasons = {reason for model in graphs.models.values() for reason in float_layers(model).values()}
        floats = f" ({', '.join(sorted(reasons))})" if reasons else ""
        raise BundleError(
            f"{graphs.bundle.folder}: expected layers that may be int8 with {_LEAST:.0%} of the multiply-accumulates "
            f"or more, found {share:.1%}; the rest stays float{floats}: run it in fp32 or fp16"
        )


def _choose(bundle: Bundle, options: Int8Options, progress: Step | None) -> tuple[Chosen, ...]:
    wanted = options.count + _CHECKS + _VERIFIED
    with closing(open_network(bundle, "auto", "fp32", 4, False)) as network:
        images = find_images(options.calib)
        chosen = choose_patches(network, images, wanted, options.seed, _told(progress, "choosing patches"))
    if len(chosen) < wanted:
        log.warning("warning: the images hold %d different patches, fewer than the %d wanted", len(chosen), wanted)
    return chosen


def _parts(chosen: Sequence[Chosen], count: int) -> tuple[tuple[Chosen, ...], tuple[Chosen, ...], tuple[Chosen, ...]]:
    """Patches to calibrate with, to try layers on, and to judge by. Where there are enough, the latter are all data."""
    wanted = max(1, len(chosen) * (_CHECKS + _VERIFIED) // (_CHECKS + _VERIFIED + count))
    full = [patch for patch in chosen if patch.valid == 1]
    pool = full if len(full) > wanted else chosen
    checks, _ = _split(pool, wanted, len(pool) - wanted)
    judging, tried = _split(checks, _VERIFIED, _CHECKS)
    return tuple(patch for patch in chosen if patch not in checks) or tuple(chosen), tried, judging


def _at_most(manifest: Manifest) -> int:
    """Patches whose scores the gate can hold in memory, several times over."""
    return max(2, _SCORES // (len(manifest.classes) * manifest.tile**2))


def _split(chosen: Sequence[Chosen], first: int, second: int) -> tuple[tuple[Chosen, ...], tuple[Chosen, ...]]:
    """So many patches at even distances, and so many others; of fewer, as large a share. A single one is both."""
    count = max(1, len(chosen) * first // (first + second))
    taken = {index * len(chosen) // count for index in range(count)}
    return (
        tuple(patch for index, patch in enumerate(chosen) if index in taken),
        tuple(patch for index, patch in enumerate(chosen) if index not in taken) or tuple(chosen),
    )


def _calibrate(
    graphs: Fp32Graphs, trials: Trials, patches: Sequence[Chosen], options: Int8Options, progress: Step | None
) -> tuple[Numbers, str, bool, dict[str, float]]:
    """Ranges and biases, how they were found, and what all layers in int8 keep with each that was tried."""
    bundle = graphs.bundle

    def cut(what: str) -> Iterable[PatchBatch]:
        for index, batch in enumerate(cut_patches(bundle.manifest, patches)):
            yield batch
            if progress:
                progress(what, index + 1, len(patches))

    tensors = {role: sorted({layer.input for layer in layers}) for role, layers in graphs.layers.items()}
    largest = peaks(bundle, cut("largest values"), inputs=True)
    counted = histograms(bundle, cut("histograms"), largest, tensors)
    agreements: dict[str, float] = {}
    candidates: dict[str, Numbers] = {}
    for method in METHODS if options.ranges == "auto" else (options.ranges,):
        ranges = {
            role: {name: amax(found, method, name=f"{role}: {name}") for name, found in tensors_of.items()}
            for role, tensors_of in counted.items()
        }
        candidates[method] = Numbers(amax=ranges, biases={})
        agreements[method] = trials.agreement(graphs.names, candidates[method])
        log.info(
            "all layers in int8, ranges by %s: %.3f %% of the pixels keep their class", method, 100 * agreements[method]
        )
    best = max(agreements, key=lambda name: agreements[name])
    numbers = candidates[best]
    biases = corrections(graphs, numbers.amax, cut("bias correction"))
    corrected = replace(numbers, biases=biases)
    name = f"{best}, bias correction"
    agreements[name] = trials.agreement(graphs.names, corrected)
    log.info("with bias correction: %.3f %%", 100 * agreements[name])
    helps = agreements[name] > agreements[best]
    return corrected if helps else numbers, best, helps, agreements


@dataclass(frozen=True, kw_only=True)
class _Budget:
    """What layers in int8 may cost. name: of the loss, in reports. agreement: what the gate asks for."""

    name: str
    loss: Callable[[Names], float]
    allowed: float
    agreement: float
    margins: tuple[float, ...]


def _budget(
    graphs: Fp32Graphs, trials: Trials, numbers: Numbers, options: Int8Options, before: float, scratch: Path
) -> _Budget:
    """before: the fp32 graphs' mIoU on labelled images, if there are any."""
    if options.labelled is None:
        return _Budget(
            name="pixels that change",
            loss=_remembered(lambda names: 1 - trials.agreement(names, numbers), graphs),
            allowed=1 - options.min_agreement,
            agreement=options.min_agreement,
            margins=_MARGINS,
        )
    dataset = options.labelled

    def loss(names: Names) -> float:
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            return before - _miou(_bundle(graphs, names, numbers, Path(folder)), dataset, "int8", scratch)

    return _Budget(
        name="mIoU lost", loss=_remembered(loss, graphs), allowed=options.max_miou_drop, agreement=0.0, margins=(1.0,)
    )


def _within(
    graphs: Fp32Graphs,
    numbers: Numbers,
    order: Sequence[Sensitivity],
    budget: _Budget,
    samples: Samples,
    scratch: Path,
) -> tuple[Found, Parity]:
    """Layers within the budget that also pass the gate, on other patches; and all points that were measured."""
    reference, points = fp32_reference(graphs.bundle), dict[float, Point]()
    for margin in budget.margins:
        allowed = margin * budget.allowed
        found = search(graphs, order, budget.loss, allowed)
        points |= {point.share: point for point in found.points}
        if found.best.share < _LEAST:
            raise ParityError(
                f"int8 cannot keep the budget: {budget.name}: at most {budget.allowed:.2%} allowed, of which "
                f"{allowed:.2%} here, and that is spent with {found.best.share:.1%} of the multiply-accumulates in "
                f"int8; {_blamed(order)}; allow more, or calibrate with images like your own; nothing was written"
            )
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            made = _bundle(graphs, found.best.chosen, numbers, Path(folder))
            int8 = tuple(replace(graph, precision="fp32") for graph in made.manifest.graphs)
            simulated = Bundle(made.folder, replace(made.manifest, graphs=int8))  # Q/DQ is the same in fp32
            try:
                tolerance = Tolerance(error=math.inf, agreement=budget.agreement)
                parity = verify(simulated, reference, samples, "int8", tolerance)
                return replace(found, points=tuple(points.values())), parity
            except ParityError as error:
                if margin == budget.margins[-1]:
                    share = f"{found.best.share:.0%} of the multiply-accumulates are int8"
                    raise ParityError(f"{error}; {share}; {_blamed(order)}") from error
                log.info("other patches lose more: looking for fewer layers")
    raise AssertionError("there is at least one margin")


def _fp32_miou(bundle: Bundle, dataset: Dataset) -> float:
    """Before anything else: masks, sizes and classes are checked on the way."""
    with tempfile.TemporaryDirectory(prefix="fctl-int8-") as scratch:
        before = _miou(bundle, dataset, "fp32", Path(scratch))
    if not math.isfinite(before):
        raise InputError(
            f"--eval: expected labelled pixels of classes that are counted, found none in {len(dataset.samples)} images"
        )
    log.info("mIoU in fp32: %.2f", 100 * before)
    return before


def _miou(bundle: Bundle, dataset: Dataset, precision: Literal["fp32", "int8"], scratch: Path) -> float:
    runs = plan_runs([bundle], backends=("onnxruntime",), precisions=(precision,))
    (result,) = evaluate(dataset, runs, scratch).results
    return result.confusion.miou(dataset.description.counted)


def _remembered(loss: Callable[[Names], float], graphs: Fp32Graphs) -> Callable[[Names], float]:
    """A loss that is measured once for each set of layers, and told."""
    known: dict[frozenset[tuple[str, frozenset[str]]], float] = {}

    def found(names: Names) -> float:
        key = frozenset((role, frozenset(layers)) for role, layers in names.items())
        if key not in known:
            known[key] = loss(names)
            count, share = sum(map(len, names.values())), graphs.share(names)
            log.info("%d layers in int8, %.1f %% of MACs: loss %.3f %%", count, 100 * share, 100 * known[key])
        return known[key]

    return found


def _blamed(order: Sequence[Sensitivity]) -> str:
    layers = ", ".join(f"{one.role} {one.name} ({one.loss:.2%})" for one in order[:_NAMED])
    return f"the layers that cost most alone: {layers}"


def _bundle(graphs: Fp32Graphs, names: Names, numbers: Numbers, folder: Path) -> Bundle:
    """A bundle of int8 graphs alone, in a folder; it has no manifest on disk."""
    made = tuple(_write_graph(graphs, graph, names, numbers, folder) for graph in _fp32(graphs.bundle))
    return Bundle(folder, replace(graphs.bundle.manifest, graphs=made))


def _fp32(bundle: Bundle) -> tuple[GraphSpec, ...]:
    return tuple(graph for graph in bundle.manifest.graphs if graph.precision == "fp32")


def _write_graph(graphs: Fp32Graphs, graph: GraphSpec, names: Names, numbers: Numbers, folder: Path) -> GraphSpec:
    model = graphs.int8(graph.role, names.get(graph.role, ()), numbers)
    check_quantised(model, graph.role)
    path = folder / f"{Path(graph.file).stem}.int8.onnx"
    ins, outs = save_model(model, path)
    return GraphSpec(role=graph.role, precision="int8", file=path.name, sha256=sha256(path), inputs=ins, outputs=outs)


def _write(graphs: Fp32Graphs, best: Point, numbers: Numbers, folder: Path, name: str, parity: Parity) -> Manifest:
    """Copy the bundle, and write its int8 graphs and what the gate found."""
    bundle = graphs.bundle
    copy_files(bundle.folder, folder)
    made = _bundle(graphs, best.chosen, numbers, folder).manifest.graphs
    graphs_of_both, parities = (*bundle.manifest.graphs, *made), (*bundle.manifest.parity, parity)
    manifest = replace(bundle.manifest, name=name, graphs=graphs_of_both, parity=parities)
    write_manifest(folder, manifest)
    return manifest


def _timed(
    graphs: Fp32Graphs, found: Found, numbers: Numbers, batch: PatchBatch, bundle: Bundle, scratch: Path
) -> tuple[tuple[Speed, ...], dict[float, float]]:
    """Speeds of what was made, and by share of MACs the gain of other points in the first engine that is here."""
    timed = speeds(bundle, batch)
    if not timed:
        return (), {}
    gains = {found.best.share: timed[0].gain}
    for point in found.points:
        if point.share not in gains and point.chosen and _worth_timing(point, found):
            with tempfile.TemporaryDirectory(dir=scratch) as folder:
                other = _bundle(graphs, point.chosen, numbers, Path(folder))
                made = tuple(replace(graph, file=str(Path(folder) / graph.file)) for graph in other.manifest.graphs)
                both = replace(bundle.manifest, graphs=(*_fp32(bundle), *made))
                gains[point.share] = speeds(Bundle(bundle.folder, both), batch, [timed[0].engine])[0].gain
    return timed, gains


def _worth_timing(point: Point, found: Found) -> bool:
    """Some points are enough: every fifth of the way."""
    shares = sorted({one.share for one in found.points})
    wanted = {min(shares, key=lambda share: abs(share - fifth / 5)) for fifth in range(1, 6)}
    return point.share in wanted


def _size(folder: Path, manifest: Manifest, precision: str) -> int:
    return sum((folder / graph.file).stat().st_size for graph in manifest.graphs if graph.precision == precision)


def _tell(best: Point, timed: Sequence[Speed]) -> None:
    log.info(
        "%d layers, %.1f %% of the multiply-accumulates, are int8",
        sum(map(len, best.chosen.values())),
        100 * best.share,
    )
    for speed in timed:
        if speed.gain < 1:
            log.warning(
                "warning: %s runs int8 at %.2f times the speed of its fastest other precision: run without --precision "
                "int8 there", speed.engine, speed.gain,
            )  # fmt: skip
        else:
            log.info("%s runs int8 at %.2f times the speed of its fastest other precision", speed.engine, speed.gain)
    if missing := [engine for engine in ENGINES if engine not in {speed.engine for speed in timed}]:
        log.info("not timed, for they are not here or cannot run it: %s", ", ".join(missing))


def _told(progress: Step | None, what: str) -> Callable[[int, int], None] | None:
    return partial(progress, what) if progress else None
