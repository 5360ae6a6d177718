"""``fctl-train``: a config's stages one after the other, with validation, checkpoints and a state to go on from (§4.2).

The folder of a training holds log.csv, validation.csv, curve.png, best.pt, last.pt and, for stages that train a part
of the network, a checkpoint NAME.pt; state.pt is what a killed training goes on from. Each is written whole.
"""

from __future__ import annotations

import csv
import logging
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fctl.runtime.bundle.records import encode
from fctl.runtime.errors import DeviceMemoryError, InputError, OutputError
from fctl.runtime.evaluate.metrics import Confusion
from fctl.runtime.progress import StageProgress
from fctl.runtime.raster.atomic import atomic_write
from fctl.runtime.tiling.contexts import ContextWindow

from ..presets import Preset
from ..serving.manifest import input_spec, served_contexts
from ..weights.checkpoints import Card, save_checkpoint
from .config import FINISH, WHOLE, TrainingConfig, network_of, part_of, read_config, stage_settings
from .curve import draw_curve
from .data import Images, check_images, class_labels, decode_scenes, open_images, plan_scenes
from .optimise import Recipe, Sampler, Scene, Training, fit_class_offsets, freeze, recalibrate
from .start import State, handed_over, network_of_stage, start_network
from .validation import validate

log = logging.getLogger(__name__)

_FORMAT = "fctl-training-1"
_STATE, _LOG, _SCORES, _CURVE, _SCENES = "state.pt", "log.csv", "validation.csv", "curve.png", "scenes"


@dataclass(frozen=True, kw_only=True)
class Best:
    """The best validation of the whole network. iou: by class, NaN where it occurs nowhere."""

    stage: str
    epoch: int
    miou: float
    iou: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a training came to. out: its folder."""

    out: Path
    class_names: tuple[str, ...]
    best: Best


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What does not change during a training. pixels: labelled ones by class."""

    config: TrainingConfig
    out: Path
    device: torch.device
    found: Preset
    images: Images
    scenes: Sequence[Scene]
    pixels: tuple[int, ...]
    progress: StageProgress | None


def run_training(path: Path, *, resume: bool = False, progress: StageProgress | None = None) -> Outcome:
    """Train as the config at `path` says.

    resume: go on from the state that the folder holds, if it holds one; on the CPU the curve is then, bit by bit, that
    of a training that was never killed. progress: called with what is done, steps done and steps in all. Raises
    InputError, RasterError, CheckpointError, OutputError or EngineError.
    """
    config = read_config(path)
    out = path.parent / config.out
    kept = _kept_state(out, config, resume)
    with _named(path):
        device = _device(config)
        images = open_images(config.data, path.parent)
        if kept and kept["images"] != images.names:
            raise InputError(f"data: expected the images that {out} was trained with, found others; choose another out")
        found = network_of(config, len(images.description.classes))
        start = start_network(found.network, config.network.weights, path.parent, config.seed)
        spec = input_spec(found.network, config.ground_sample_distance)
        plans = plan_scenes(images.training, config.data.mosaic)
        pixels = check_images(images, spec, config.data.bands, progress)
        _check_stages(config, found, images, pixels)
    scenes = decode_scenes(images.training, plans, spec, config.data.bands, out / _SCENES, progress)
    job = _Job(
        config=config, out=out, device=device, found=found, images=images, scenes=scenes, pixels=pixels,
        progress=progress,
    )  # fmt: skip
    try:
        return _train(job, start.state_dict(), kept)
    except torch.OutOfMemoryError:
        raise DeviceMemoryError(
            f"{path}: optimisation.batch: too many patches for the GPU's memory; lower it, and raise accumulate"
        ) from None


def _train(job: _Job, weights: State, kept: dict[str, Any] | None) -> Outcome:
    """All stages, or what is left of them."""
    with _Records(job.out, job.images.description.class_names, kept) as records:
        for index in range(kept["stage"] if kept else 0, len(job.config.stages)):
            part = job.config.stages[index].network
            weights = kept["weights"] if kept else weights
            recipe = _recipe(job.config, index, job.found, job.images, job.pixels)
            network = network_of_stage(job.found.network, part, weights).to(job.device)
            torch.manual_seed(recipe.seed)
            training = Training(network, recipe)
            if kept:
                training.load(kept["training"])
                _set_random_state(kept["random"])
                kept = None
            _train_stage(job, index, training, weights, records)
            weights = handed_over(weights, training.averaged.state_dict(), part)
        _finish(job, training, records)
        assert records.best is not None  # the last stage trains the whole network
        shutil.rmtree(job.out / _SCENES, ignore_errors=True)
        return Outcome(out=job.out, class_names=job.images.description.class_names, best=records.best)


def _train_stage(job: _Job, index: int, training: Training, weights: State, records: _Records) -> None:
    """One stage, from where it stands to its end. weights: the whole network's before it."""
    stage, recipe = job.config.stages[index], training.recipe
    epoch = recipe.steps // stage.epochs
    sampler = Sampler(job.scenes, training.network, _windows(job, training), recipe)
    for loss in training.steps(sampler, job.config.workers):
        if not math.isfinite(loss):
            raise InputError(
                f"stages[{index}]: expected a finite loss, found {loss} in step {training.done}; lower the rate, or "
                "train in fp32"
            )
        number = -(-training.done // epoch)
        records.add_loss(stage.name, number, loss, training.rate)
        if job.progress:
            job.progress(f"stage {stage.name}", training.done, recipe.steps)
        if training.done % epoch == 0:
            _end_epoch(job, index, number, training, records)
            records.save_state({
                "format": _FORMAT, "config": encode(job.config), "images": job.images.names, "stage": index,
                "weights": dict(weights), "training": training.state(), "random": _random_state(),
            })  # fmt: skip


def _windows(job: _Job, training: Training) -> dict[str, ContextWindow]:
    """How the contexts of a stage's network are cut, by name."""
    config = training.network.config
    contexts = served_contexts(config, job.found.serving, dict.fromkeys(config.context_names))
    return {context.name: context.window for context in contexts}


def _finish(job: _Job, training: Training, records: _Records) -> None:
    """Set what the config asks for in the averaged network, which is validated and kept as after an epoch."""
    network, windows, asked = training.averaged, _windows(job, training), job.config.finish
    if asked.recalibrate:
        recalibrate(network, job.scenes, windows, training.recipe)
    if asked.class_offsets:
        fit_class_offsets(network, job.scenes, windows, training.recipe)
    if asked.recalibrate or asked.class_offsets:
        miou, better = _keep(job, FINISH, WHOLE, 1, training, records)
        log.info("finish: validation mIoU %.1f%s", 100 * miou, ", the best" * better)


def _end_epoch(job: _Job, index: int, epoch: int, training: Training, records: _Records) -> None:
    stage = job.config.stages[index]
    miou, better = _keep(job, stage.name, stage.network, epoch, training, records)
    log.info(
        "stage %s, epoch %d of %d: loss %.4f, validation mIoU %.1f%s",
        stage.name, epoch, stage.epochs, records.mean_loss(stage.name, epoch), 100 * miou, ", the best" * better,
    )  # fmt: skip


def _keep(job: _Job, stage: str, part: str, epoch: int, training: Training, records: _Records) -> tuple[float, bool]:
    """Validate the averaged network and keep it; its mIoU, and whether it is the best of whole networks."""
    card = _card(job, stage, part, epoch, training)
    confusion = validate(training.averaged, card, job.images.validation, job.config.data.bands)
    miou = confusion.miou(job.images.description.counted)
    card = replace(card, training=card.training | {"validation_miou": miou if math.isfinite(miou) else None})
    state = {key: value.cpu() for key, value in training.averaged.state_dict().items()}
    _save_checkpoint(job.out / ("last.pt" if part == WHOLE else f"{stage}.pt"), card, state)
    better = part == WHOLE and (records.best is None or _rank(miou) > _rank(records.best.miou))
    if better:
        _save_checkpoint(job.out / "best.pt", card, state)
        records.best = Best(stage=stage, epoch=epoch, miou=miou, iou=tuple(map(float, confusion.iou())))
    records.add_score(stage, epoch, miou, confusion)
    return miou, better


def _rank(miou: float) -> float:
    """A score to compare: none at all is the worst."""
    return miou if math.isfinite(miou) else -1.0


class _Records:
    """The files that grow: losses, scores, their curve, and the state to go on from."""

    def __init__(self, out: Path, class_names: Sequence[str], kept: dict[str, Any] | None) -> None:
        self.out, self.best = out, Best(**kept["best"]) if kept and kept["best"] else None
        self._started = time.monotonic() - (kept["seconds"] if kept else 0.0)
        self._steps: int = kept["steps"] if kept else 0
        for unfinished in out.glob(".*.part.*"):  # of a training that was killed
            unfinished.unlink()
        scores = ["step", "stage", "epoch", "miou", "accuracy", *(f"iou {name}" for name in class_names)]
        self._losses = _kept_rows(out / _LOG, ["step", "stage", "epoch", "loss", "rate", "seconds"], self._steps)
        self._scores = _kept_rows(out / _SCORES, scores, self._steps)

    def __enter__(self) -> _Records:
        self._file = (self.out / _LOG).open("a", buffering=1, newline="", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add_loss(self, stage: str, epoch: int, loss: float, rate: float) -> None:
        """One step."""
        self._steps += 1
        row = [str(self._steps), stage, str(epoch), repr(loss), f"{rate:.6g}", f"{self._seconds:.1f}"]
        self._losses.append(row)
        csv.writer(self._file).writerow(row)

    def add_score(self, stage: str, epoch: int, miou: float, confusion: Confusion) -> None:
        """One validation."""
        values = (miou, confusion.accuracy(), *confusion.iou())
        row = [str(self._steps), stage, str(epoch), *(f"{value:.6f}" for value in values)]
        self._scores.append(row)
        with (self.out / _SCORES).open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(row)

    def mean_loss(self, stage: str, epoch: int) -> float:
        """Over the steps of one epoch."""
        return float(np.mean([float(row[3]) for row in self._losses[1:] if row[1:3] == [stage, str(epoch)]]))

    def save_state(self, state: dict[str, Any]) -> None:
        """Make all that was recorded what a resumed training finds."""
        best = None if self.best is None else vars(self.best)
        with atomic_write(self.out / _STATE) as temporary:
            torch.save(state | {"steps": self._steps, "seconds": self._seconds, "best": best}, temporary)
        losses = [(float(row[0]), float(row[3])) for row in self._losses[1:]]
        scores = [(float(row[0]), float(row[3])) for row in self._scores[1:]]
        ends = [int(a[0]) for a, b in zip(self._losses[1:], self._losses[2:], strict=False) if a[1] != b[1]]
        with atomic_write(self.out / _CURVE) as temporary:
            draw_curve(self.out.resolve().name, losses, scores, ends).save(temporary)

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._started


def _kept_rows(path: Path, header: list[str], steps: int) -> list[list[str]]:
    """The header and the rows up to a step, of a file that is made to hold just these."""
    rows: list[list[str]] = []
    if steps:
        try:
            with path.open(newline="", encoding="utf-8") as file:
                whole_rows = [row for row in list(csv.reader(file))[1:] if len(row) == len(header)]
                rows = [row for row in whole_rows if int(row[0]) <= steps and row[1] != FINISH]
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: expected the log of the training to resume, found none ({error})") from None
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return [header, *rows]


def _kept_state(out: Path, config: TrainingConfig, resume: bool) -> dict[str, Any] | None:
    """What a folder holds to go on from. Raises OutputError or InputError where it must not be touched."""
    path = out / _STATE
    if not path.is_file():
        names = {child.name for child in out.iterdir()} if out.is_dir() else {"a file"} if out.exists() else set()
        if names - {_SCENES} and _LOG not in names:
            raise OutputError(f"{out}: expected a new folder, or one of a training, found others; choose another out")
        return None
    if not resume:
        raise OutputError(f"{out} holds a training already; go on with --resume, or choose another out")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        known = state["format"] == _FORMAT
    except Exception as error:  # garbage can fail anywhere in unpickling
        raise InputError(f"{path}: expected the state of a training, found none ({type(error).__name__})") from None
    if not known:
        raise InputError(f"{path}: expected {_FORMAT}, found {state['format']!r}; resume with a matching fctl")
    if changed := _difference(state["config"], encode(config)):
        raise InputError(f"{out}: {changed} is not what it was trained with; change it back, or choose another out")
    return state


def _difference(old: Any, new: Any, path: str = "") -> str | None:
    """The first field in which two configs differ."""
    if old == new:
        return None
    if isinstance(old, dict) and isinstance(new, dict):
        for key in (*old, *new):
            if old.get(key) != new.get(key) or (key in old) != (key in new):
                return _difference(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        index = next(index for index, pair in enumerate(zip(old, new, strict=True)) if pair[0] != pair[1])
        return _difference(old[index], new[index], f"{path}[{index}]")
    return path


def _recipe(config: TrainingConfig, index: int, found: Preset, images: Images, pixels: tuple[int, ...]) -> Recipe:
    """One stage as `Training` takes it."""
    stage = config.stages[index]
    optimisation, augmentation = stage_settings(config, index)
    patches = optimisation.batch * optimisation.accumulate
    epoch = config.epoch or math.ceil(sum(pixels) / (found.network.patch**2 * patches))
    return Recipe(
        steps=stage.epochs * epoch,
        batch=optimisation.batch,
        rate=optimisation.rate,
        encoder_rate=optimisation.encoder_rate,
        position_rate=optimisation.position_rate,
        weight_decay=optimisation.weight_decay,
        gamma=optimisation.gamma,
        balance=augmentation.balance,
        scale=augmentation.scale,
        colour=augmentation.colour,
        frozen=stage.stem,
        average=optimisation.average,
        seed=config.seed + index,
        optimiser=optimisation.optimiser,
        power=optimisation.power,
        accumulate=optimisation.accumulate,
        class_weights=_class_weights(optimisation.class_weights, images.description.class_names, pixels),
        turns=augmentation.turns,
        statistics=optimisation.statistics,
        fixed=stage.frozen,
        precision=config.precision,
        context_dropout=augmentation.context_dropout,
    )


def _class_weights(
    given: dict[str, float] | str | None, names: tuple[str, ...], pixels: tuple[int, ...]
) -> tuple[float, ...] | None:
    """Weights by class: as given, or by the inverse root of the share of pixels, 1 on average."""
    if given is None:
        return None
    if isinstance(given, dict):
        if strange := [name for name in given if name not in names]:
            raise InputError(
                f"optimisation.class_weights.{strange[0]}: unknown class; expected some of {', '.join(names)}"
            )
        return tuple(given.get(name, 1.0) for name in names)
    inverse = [1 / math.sqrt(count) if count else 0.0 for count in pixels]
    mean = sum(inverse) / sum(1 for count in pixels if count)
    return tuple(value / mean if value else 1.0 for value in inverse)


def _check_stages(config: TrainingConfig, found: Preset, images: Images, pixels: tuple[int, ...]) -> None:
    """Whether every stage has something to train, and what it freezes is there: now rather than after hours."""
    for index, stage in enumerate(config.stages):
        network = network_of_stage(found.network, stage.network, {})
        names = [name for name, _ in network.named_parameters()]
        for part in stage.frozen:
            if not any(f"{name}.".startswith(f"{part}.") for name in names):
                known = ", ".join(dict.fromkeys(name.partition(".")[0] for name in names))
                raise InputError(
                    f"stages[{index}].frozen: expected {known}, or what lies in them as context_encoders.medium, found "
                    f"{part!r}"
                )
        freeze(network, _recipe(config, index, found, images, pixels))
        if not any(parameter.requires_grad for parameter in network.parameters()):
            raise InputError(f"stages[{index}]: expected something to train, found all of it frozen")


def _card(job: _Job, stage: str, part: str, epoch: int, training: Training) -> Card:
    config = job.config
    return Card(
        network=part_of(job.found.network, part),
        serving=job.found.serving,
        classes=class_labels(job.images.description),
        ground_sample_distance=config.ground_sample_distance,
        licence=config.licence,
        training={
            "data": job.images.description.name,
            "images": len(job.images.training.samples),
            "config": encode(config),
            "stage": stage,
            "epoch": epoch,
            "step": training.done,
        },
    )


def _save_checkpoint(path: Path, card: Card, state: State) -> None:
    with atomic_write(path) as temporary:
        save_checkpoint(temporary, card, state)


def _device(config: TrainingConfig) -> torch.device:
    """Where to train. Raises InputError where it is not there, or cannot compute in the precision."""
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise InputError(f"device: expected auto, cpu, cuda or cuda:N, found {config.device!r}")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise InputError(f"device: expected a GPU that PyTorch sees, found {torch.cuda.device_count()}; choose cpu")
    if config.precision == "fp16" and kind == "cpu":
        raise InputError("precision: fp16 needs a GPU; choose fp32 or bf16")
    return torch.device(name)


def _random_state() -> dict[str, Any]:
    """Of torch, which draws the jitter; patches are drawn by the number of their step, from nothing that is kept."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors in what the config says, with its name."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
