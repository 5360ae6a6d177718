"""The configuration of a training as frozen records: what its JSON file holds.

What these docstrings say of the fields is what `fctl-train --init` says of them, so it speaks to people who train.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from fctl.runtime.bundle.records import OPTIONAL
from fctl.runtime.choices import Form

WHOLE, PATCH = "whole", "patch"  # what a stage trains, beside names of contexts
FINISH = "finish"  # the stage's name in the logs after the last stage


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """Which network is trained, and from which weights.

    Attributes:
        preset: Name of a preset (docs/presets.md).
        overrides: Fields of the network, nested at will, that differ from the preset's, as {"patch": 384}.
        serving: How the network is run, where that differs from the preset's: plan, overlap, resampling, merge, scene,
            raster.
        weights: Initial weights: "imagenet" (EfficientNet-Lite0), the path of an fctl checkpoint or of published
            weights of the backbone, or None for random ones.
    """

    preset: str
    overrides: dict[str, object] = field(default_factory=dict, metadata=OPTIONAL)
    serving: dict[str, object] = field(default_factory=dict, metadata=OPTIONAL)
    weights: str | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True, kw_only=True)
class Mosaic:
    """How images are put together to scenes.

    The number at the end of an image's name is its place in the scene, row by row; what precedes it names the scene.

    Attributes:
        columns: Images in a row of the scene.
        first: Number of the first image.
    """

    columns: int
    first: int


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Which labelled images are used, as `fctl-eval` takes them.

    Attributes:
        root: Folder of the data set.
        form: Layout of the folder (docs/evaluation.md); "auto" recognises it.
        description: Path of the data set's description, or None for dataset.json in its folder.
        training: A split: a file of names, "every=N:K" or a pattern; or None for all images that validation leaves.
        validation: A split.
        bands: Bands from 1 in the network's order, or None for all but alpha.
        mosaic: How numbered images form scenes, as {"columns": 3, "first": 1}, or None where every image is a scene.
        scale_range: Which values of images of another depth become the lowest and the highest of uint8, as in serving:
            "MIN,MAX", "percentile:LOW,HIGH" or "metadata". None takes uint8 as it is.
        coarse: For a network that refines masks: a folder with the coarse mask of each image (NAME_mask.tif, NAME.tif
            or NAME.png, of class ids), or of a bundle that makes them once. None perturbs labels instead.
    """

    root: str
    form: Form = field(default="auto", metadata=OPTIONAL)
    description: str | None = field(default=None, metadata=OPTIONAL)
    training: str | None = field(default=None, metadata=OPTIONAL)
    validation: str
    bands: tuple[int, ...] | None = field(default=None, metadata=OPTIONAL)
    mosaic: Mosaic | None = field(default=None, metadata=OPTIONAL)
    scale_range: str | None = field(default=None, metadata=OPTIONAL)
    coarse: str | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """How weights are fitted (§4.2).

    Attributes:
        optimiser: "adam", as in the paper, or "adamw".
        rate: Initial learning rate of new layers.
        encoder_rate: Initial learning rate of backbones.
        position_rate: Initial learning rate of the position terms (W_r and z of Eq. 2), which are a few numbers each.
        weight_decay: Weight decay of all but the position terms.
        power: Exponent of the polynomial decay of the rates: all fall with (1 - step / steps)^power in each stage.
        batch: Patches of a batch.
        accumulate: Batches of a step.
        average: Decay of the running average of the weights, which is what is validated and kept; 0 for none.
        gamma: Focusing parameter of the focal loss (§3.5); 0 makes it the cross entropy.
        class_weights: Weights of classes in the loss by name, as {"road": 2}, where others weigh 1; "balanced" for the
            inverse root of each class's share of the pixels; or None.
        statistics: Whether batch statistics of backbones are trained: without pretrained weights, they should be.
    """

    optimiser: Literal["adam", "adamw"]
    rate: float
    encoder_rate: float
    position_rate: float = field(default=0.02, metadata=OPTIONAL)
    weight_decay: float
    power: float = field(default=0.9, metadata=OPTIONAL)
    batch: int
    accumulate: int = field(default=1, metadata=OPTIONAL)
    average: float = field(default=0.0, metadata=OPTIONAL)
    gamma: float
    class_weights: dict[str, float] | Literal["balanced"] | None = field(default=None, metadata=OPTIONAL)
    statistics: bool


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How patches are drawn and changed.

    Attributes:
        turns: Whether scenes are flipped and turned by quarters.
        colour: Strength of the jitter of brightness, contrast and saturation, from 0 to 1.
        scale: Windows of patches have from 1/scale to scale times the patch's side; contexts likewise.
        balance: Share of patches that are drawn by class.
        context_dropout: Share of contexts that are shown black; none of a network that sees nothing else.
        perturb: For a network that refines masks: the share of patches whose coarse mask is made of their labels, where
            there is `DataSettings.coarse`; without it, all are.
    """

    turns: bool = field(default=True, metadata=OPTIONAL)
    colour: float = field(default=0.0, metadata=OPTIONAL)
    scale: float = field(default=1.0, metadata=OPTIONAL)
    balance: float = field(default=0.0, metadata=OPTIONAL)
    context_dropout: float = field(default=0.0, metadata=OPTIONAL)
    perturb: float = field(default=1.0, metadata=OPTIONAL)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a training.

    Attributes:
        name: Its name in the logs.
        network: What is trained: "whole"; the name of a context, for the patch together with that context, whose
            encoder both share and the context keeps; or "patch", for the patch alone, which keeps encoder and decoder
            (of a network that is shown whole images: its weights, trained on patches first).
            Of GLNet: the global branch with what the local one hands over, and the aggregation; the global branch
            alone; or the local branch with what the global one hands over.
        epochs: Number of epochs.
        stem: Stage of the backbone up to which weights are frozen, or None.
        frozen: Further parts of the network that are not trained, by the start of their parameters' names.
        changes: Fields of optimisation and augmentation that differ in this stage.
    """

    name: str
    network: str = field(default=WHOLE, metadata=OPTIONAL)
    epochs: int
    stem: str | None = field(default=None, metadata=OPTIONAL)
    frozen: tuple[str, ...] = field(default=(), metadata=OPTIONAL)
    changes: dict[str, object] = field(default_factory=dict, metadata=OPTIONAL)


@dataclass(frozen=True, kw_only=True)
class Finish:
    """What is set after the last stage, on training patches as serving sees them: without jitter and balance.

    Attributes:
        recalibrate: Whether batch statistics are measured anew: the decoder's, with `statistics` all.
        class_offsets: Whether the score of each class is shifted for the highest mIoU.
    """

    recalibrate: bool = field(default=False, metadata=OPTIONAL)
    class_offsets: bool = field(default=False, metadata=OPTIONAL)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """A training. Paths are relative to the folder of its file.

    Attributes:
        out: Folder for logs and checkpoints.
        seed: Seed of weights, patches and jitter.
        device: "auto", "cpu", "cuda" or "cuda:N".
        precision: Precision of the forward pass: "fp32", "bf16", or "fp16" on a GPU.
        workers: Threads that cut patches.
        epoch: Steps of an epoch, or None for as many as show every labelled pixel once.
        network: Which network is trained, and from which weights.
        data: Which labelled images are used, as fctl-eval takes them.
        optimisation: How weights are fitted.
        augmentation: How patches are drawn and changed.
        stages: What is trained, one stage after the other; the last one trains the whole network.
        finish: What is set after the last stage, on training patches as serving sees them.
        licence: Licence of the weights, for the checkpoint, or None.
        ground_sample_distance: Metres per pixel of the images, for the checkpoint, or None.
        contexts: Whether contexts are encoded for each patch ("exact") or, where they can be, in windows from which
            those of many patches are cut ("shared"), as in serving.
    """

    out: str
    seed: int = field(default=0, metadata=OPTIONAL)
    device: str = field(default="auto", metadata=OPTIONAL)
    precision: Literal["fp32", "bf16", "fp16"] = field(default="fp32", metadata=OPTIONAL)
    workers: int = field(default=1, metadata=OPTIONAL)
    epoch: int | None = field(default=None, metadata=OPTIONAL)
    network: NetworkSettings
    data: DataSettings
    optimisation: Optimisation
    augmentation: Augmentation = field(default=Augmentation(), metadata=OPTIONAL)
    stages: tuple[Stage, ...]
    finish: Finish = field(default=Finish(), metadata=OPTIONAL)
    licence: str | None = field(default=None, metadata=OPTIONAL)
    ground_sample_distance: float | None = field(default=None, metadata=OPTIONAL)
    contexts: Literal["exact", "shared"] = field(default="exact", metadata=OPTIONAL)
