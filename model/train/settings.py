"""The configuration of a training as frozen records: what its JSON file holds."""

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
        preset: Name of a preset.
        overrides: Fields of `NetworkConfig`, nested at will, that differ from the preset's.
        serving: Fields of `ServingConfig` that differ from the preset's.
        weights: Initial weights: "imagenet" (EfficientNet-Lite0), the path of an fctl checkpoint or of published
            weights of the backbone, or None for random ones.
    """

    preset: str
    overrides: dict[str, object]
    serving: dict[str, object]
    weights: str | None


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
        form: Layout of the folder; "auto" recognises it.
        description: Path of the data set's description, or None for ``dataset.json`` in its folder.
        training: A split, or None for all images that validation leaves.
        validation: A split.
        bands: Bands from 1 in the network's order, or None for all but alpha.
        mosaic: How images form scenes, or None where every image is a scene.
        scale_range: Which values of images of another depth become the lowest and the highest of uint8, as in serving:
            "MIN,MAX", "percentile:LOW,HIGH" or "metadata". None takes uint8 as it is.
        coarse: For a network that refines masks: a folder with the coarse mask of each image (NAME_mask.tif, NAME.tif
            or NAME.png, of class ids), or of a bundle that makes them once. None perturbs labels instead.
    """

    root: str
    form: Form
    description: str | None
    training: str | None
    validation: str
    bands: tuple[int, ...] | None
    mosaic: Mosaic | None
    scale_range: str | None = field(default=None, metadata=OPTIONAL)
    coarse: str | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """How weights are fitted (§4.2).

    Attributes:
        optimiser: Adam, as in the paper, or AdamW.
        rate: Initial learning rate of new layers.
        encoder_rate: Initial learning rate of backbones.
        position_rate: Initial learning rate of the position terms (W_r and z of Eq. 2).
        weight_decay: Weight decay of all but the position terms.
        power: Exponent of the polynomial decay of the rates.
        batch: Patches of a batch.
        accumulate: Batches of a step.
        average: Decay of the running average of the weights, which is what is validated and kept; 0 for none.
        gamma: Focusing parameter of the focal loss (§3.5).
        class_weights: Weights of classes in the loss by name, where others weigh 1; "balanced" for the inverse root of
            each class's share of the pixels; or None.
        statistics: Whether batch statistics of backbones are trained.
    """

    optimiser: Literal["adam", "adamw"]
    rate: float
    encoder_rate: float
    position_rate: float
    weight_decay: float
    power: float
    batch: int
    accumulate: int
    average: float
    gamma: float
    class_weights: dict[str, float] | Literal["balanced"] | None
    statistics: bool


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How patches are drawn and changed.

    Attributes:
        turns: Whether scenes are flipped and turned by quarters.
        colour: Strength of the jitter of brightness, contrast and saturation, from 0 to 1.
        scale: Windows of patches have from 1/scale to scale times the patch's side; contexts likewise.
        balance: Share of patches that are drawn by class.
        context_dropout: Share of contexts that are shown black.
        perturb: For a network that refines masks: the share of patches whose coarse mask is made of their labels, where
            there is `DataSettings.coarse`; without it, all are.
    """

    turns: bool
    colour: float
    scale: float
    balance: float
    context_dropout: float
    perturb: float = field(default=1.0, metadata=OPTIONAL)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a training.

    Attributes:
        name: Its name in the logs.
        network: What is trained: "whole"; the name of a context, for the patch together with that context, whose
            encoder both share and the context keeps; or "patch", for the patch alone, which keeps encoder and decoder.
        epochs: Number of epochs.
        stem: Stage of the backbone up to which weights are frozen, or None.
        frozen: Further parts of the network that are not trained, by the start of their parameters' names.
        changes: Fields of `Optimisation` and `Augmentation` that differ in this stage.
    """

    name: str
    network: str
    epochs: int
    stem: str | None
    frozen: tuple[str, ...]
    changes: dict[str, object]


@dataclass(frozen=True, kw_only=True)
class Finish:
    """What is set after the last stage, on training patches as serving sees them: without jitter and balance.

    Attributes:
        recalibrate: Whether the decoder's batch statistics are measured anew.
        class_offsets: Whether the score of each class is shifted for the highest mIoU.
    """

    recalibrate: bool
    class_offsets: bool


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """A training. Paths are relative to the folder of its file.

    Attributes:
        out: Folder for logs and checkpoints.
        seed: Seed of weights, patches and jitter.
        device: "auto", "cpu", "cuda" or "cuda:N".
        precision: Precision of the forward pass.
        workers: Threads that cut patches.
        epoch: Steps of an epoch, or None for as many as show every labelled pixel once.
        network: The network.
        data: The images.
        optimisation: How weights are fitted.
        augmentation: How patches are drawn.
        stages: The stages, in order.
        finish: What follows the last stage.
        licence: Licence of the weights, for the checkpoint, or None.
        ground_sample_distance: Metres per pixel of the images, for the checkpoint, or None.
        contexts: Whether contexts are encoded for each patch ("exact") or, where they can be, in windows from which
            those of many patches are cut ("shared"), as in serving.
    """

    out: str
    seed: int
    device: str
    precision: Literal["fp32", "bf16", "fp16"]
    workers: int
    epoch: int | None
    network: NetworkSettings
    data: DataSettings
    optimisation: Optimisation
    augmentation: Augmentation
    stages: tuple[Stage, ...]
    finish: Finish
    licence: str | None
    ground_sample_distance: float | None
    contexts: Literal["exact", "shared"] = field(default="exact", metadata=OPTIONAL)
