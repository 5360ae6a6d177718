"""``fctl-train``: the stages of a configuration one after the other, with validation and checkpoints (§4.2).

The folder of a training holds log.csv, validation.csv, curve.png, best.pt, last.pt and, for stages that train a part
of the network, a checkpoint NAME.pt; an interrupted training goes on from state.pt. No file is ever half written.
"""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fctl.runtime.atomic import atomic_write
from fctl.runtime.bundle.records import encode
from fctl.runtime.errors import DeviceMemoryError, InputError
from fctl.runtime.evaluate.plots import check_matplotlib
from fctl.runtime.progress import StageProgress

from ..presets import Preset
from ..serving.manifest import input_spec
from ..weights.checkpoints import Card, save_checkpoint
from .checks import check_trainable, choose_device
from .config import read_config
from .finish import fit_class_offsets, recalibrate
from .images import Images, check_images, class_labels, open_images
from .lattices import Windows, context_windows
from .networks import network_of, part_of, side_of
from .optimise import Training
from .recipe import Recipe, recipe_of
from .records import Best, Records
from .resume import FORMAT, SCENES, random_state, saved_state, set_random_state
from .sampling import Sampler
from .scenes import Scene, decode_scenes, plan_scenes
from .settings import FINISH, WHOLE, TrainingConfig
from .start import State, merged_weights, network_of_stage, start_network
from .validation import validate

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a training came to.

    Attributes:
        out: Its folder.
        class_names: Names of the classes.
        best: The best validation.
    """

    out: Path
    class_names: tuple[str, ...]
    best: Best


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What does not change during a training. recipes: One for each stage."""

    config: TrainingConfig
    out: Path
    device: torch.device
    model: Preset
    images: Images
    scenes: Sequence[Scene]
    recipes: Sequence[Recipe]
    progress: StageProgress | None


def run_training(
    path: Path, *, changes: Sequence[str] = (), resume: bool = False, progress: StageProgress | None = None
) -> Outcome:
    """Train a network as a configuration says.

    Args:
        path: The configuration, a JSON file.
        changes: Fields that differ from the file's, as "network.overrides.ale=null" (`config.with_changes`).
        resume: Whether to go on from the state that the training's folder holds, if it holds one. On the CPU an
            interrupted training then ends, bit by bit, as one that was never interrupted.
        progress: Called with the stage, the steps that are done and how many there are in all.

    Returns:
        The best validation, and where the checkpoints are.

    Raises:
        InputError: The configuration, or the data that it names, does not fit.
        RasterError: An image is damaged.
        CheckpointError: The initial weights do not fit.
        OutputError: The folder holds something else, or cannot be written.
        EngineError: A package is not installed.
        DeviceMemoryError: The GPU's memory is too small.
    """
    config = read_config(path, changes)
    check_matplotlib()
    out = path.parent / config.out
    saved = saved_state(out, config, resume)
    with _naming(path):
        device = choose_device(config)
        images = open_images(config.data, path.parent)
        if saved and saved["images"] != images.names:
            raise InputError(
                subject="data",
                expected=f"the images that {out} was trained with",
                found="others",
                remedy="choose another out",
            )
        model = network_of(config, len(images.description.classes))
        network = start_network(model.network, config.network.weights, path.parent, config.seed)
        spec = input_spec(model.network, config.ground_sample_distance)
        plans = plan_scenes(images.training, config.data.mosaic)
        pixels = check_images(images, spec, config.data.bands, progress, config.data.scale_range)
        names = images.description.class_names
        recipes = [
            recipe_of(config, i, side_of(model, stage.network), names, pixels) for i, stage in enumerate(config.stages)
        ]
        check_trainable(config, model, recipes)
    scenes = decode_scenes(
        images.training, plans, spec, config.data.bands, out / SCENES, progress, config.data.scale_range
    )
    job = _Job(
        config=config, out=out, device=device, model=model, images=images, scenes=scenes, recipes=recipes,
        progress=progress,
    )  # fmt: skip
    try:
        return _train(job, network.state_dict(), saved)
    except torch.OutOfMemoryError:
        raise DeviceMemoryError(
            "optimisation.batch: too many patches for the GPU's memory",
            subject=path,
            remedy="lower it, and raise accumulate",
        ) from None


def _train(job: _Job, weights: State, saved: dict[str, Any] | None) -> Outcome:
    """Train all stages, or those that are left."""
    names = job.images.description.class_names
    with Records(job.out, names, saved) as records:
        for index in range(saved["stage"] if saved else 0, len(job.config.stages)):
            part, recipe = job.config.stages[index].network, job.recipes[index]
            weights = saved["weights"] if saved else weights
            network = network_of_stage(job.model.network, part, weights).to(job.device)
            torch.manual_seed(recipe.seed)
            training = Training(network, recipe)
            if saved:
                training.load(saved["training"])
                set_random_state(saved["random"])
                saved = None
            _train_stage(job, index, training, weights, records)
            weights = merged_weights(weights, training.averaged.state_dict(), part, job.model.network)
        _finish(job, training, records)
        assert records.best is not None  # the last stage trains the whole network
        shutil.rmtree(job.out / SCENES, ignore_errors=True)
        return Outcome(out=job.out, class_names=names, best=records.best)


def _train_stage(job: _Job, index: int, training: Training, weights: State, records: Records) -> None:
    """Train one stage, from where it stands to its end. weights: The whole network's before the stage."""
    stage, recipe = job.config.stages[index], training.recipe
    epoch = recipe.steps // stage.epochs
    sampler = Sampler(job.scenes, training.network.config, _windows(job, training), recipe)
    for loss in training.steps(sampler, job.config.workers):
        if not math.isfinite(loss):
            raise InputError(
                subject=f"stages[{index}]",
                expected="a finite loss",
                found=f"{loss} in step {training.done}",
                remedy="lower the rate, or train in fp32",
            )
        number = -(-training.done // epoch)
        records.add_loss(stage.name, number, loss, training.rate)
        if job.progress:
            job.progress(f"stage {stage.name}", training.done, recipe.steps)
        if training.done % epoch == 0:
            _end_epoch(job, index, number, training, records)
            records.save_state({
                "format": FORMAT, "config": encode(job.config, complete=True), "images": job.images.names,
                "stage": index, "weights": dict(weights), "training": training.state(), "random": random_state(),
            })  # fmt: skip


def _windows(job: _Job, training: Training) -> Windows:
    """By name, how the contexts of a stage's network are cut."""
    return context_windows(training.network.config, job.model.serving, once=job.config.contexts == "shared")


def _finish(job: _Job, training: Training, records: Records) -> None:
    """Set what the configuration asks for in the averaged network, then validate and keep it as after an epoch."""
    network, windows, asked = training.averaged, _windows(job, training), job.config.finish
    if asked.recalibrate:
        recalibrate(network, job.scenes, windows, training.recipe)
    if asked.class_offsets:
        fit_class_offsets(network, job.scenes, windows, training.recipe)
    if asked.recalibrate or asked.class_offsets:
        miou, better = _keep(job, FINISH, WHOLE, 1, training, records)
        log.info("finish: validation mIoU %.1f%s", 100 * miou, ", the best" * better)


def _end_epoch(job: _Job, index: int, epoch: int, training: Training, records: Records) -> None:
    """Validate and keep the network after an epoch, and log its scores."""
    stage = job.config.stages[index]
    miou, better = _keep(job, stage.name, stage.network, epoch, training, records)
    log.info(
        "stage %s, epoch %d of %d: loss %.4f, validation mIoU %.1f%s",
        stage.name, epoch, stage.epochs, records.mean_loss(stage.name, epoch), 100 * miou, ", the best" * better,
    )  # fmt: skip


def _keep(job: _Job, stage: str, part: str, epoch: int, training: Training, records: Records) -> tuple[float, bool]:
    """Validate and save the averaged network; its mIoU, and whether it is the best of whole networks."""
    card = _card(job, stage, part, epoch, training)
    data = job.config.data
    confusion = validate(
        training.averaged, card, job.images.validation, data.bands, scale_range=data.scale_range,
        once=job.config.contexts == "shared",
    )  # fmt: skip
    miou = confusion.miou(job.images.description.counted)
    card = replace(card, training=card.training | {"validation_miou": miou if math.isfinite(miou) else None})
    state = {key: value.cpu() for key, value in training.averaged.state_dict().items()}
    _save_checkpoint(job.out / ("last.pt" if part == WHOLE else f"{stage}.pt"), card, state)
    better = part == WHOLE and records.improves(miou)
    if better:
        _save_checkpoint(job.out / "best.pt", card, state)
        records.best = Best(stage=stage, epoch=epoch, miou=miou, iou=tuple(map(float, confusion.iou())))
    records.add_score(stage, epoch, miou, confusion)
    return miou, better


def _card(job: _Job, stage: str, part: str, epoch: int, training: Training) -> Card:
    """What a checkpoint says about the averaged network."""
    config = job.config
    return Card(
        network=part_of(job.model.network, part),
        serving=job.model.serving,
        classes=class_labels(job.images.description),
        ground_sample_distance=config.ground_sample_distance,
        licence=config.licence,
        training={
            "data": job.images.description.name,
            "images": len(job.images.training.samples),
            "config": encode(config, complete=True),
            "stage": stage,
            "epoch": epoch,
            "step": training.done,
        },
    )


def _save_checkpoint(path: Path, card: Card, state: State) -> None:
    with atomic_write(path) as temporary:
        save_checkpoint(temporary, card, state)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let errors in what a configuration says begin with its file's name."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error), subject=path) from None
