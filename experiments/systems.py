"""The systems of the paper's Table 1 as they are trained on the Dubai data set: small, alike but for the network.

CascadePSP refines the masks of another one. The paper does not say whose: here they are those of FCN-8s, as in
docs/systems.md. Half of the masks that it is trained from are perturbed labels, and half those masks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fctl.model.config import NetworkConfig
from fctl.model.presets import PRESETS, narrow
from fctl.runtime.bundle.records import encode

from .scenes import HELD_OUT, PARTS, SCENES

PRECISIONS = ("fp32", "bf16")  # a system trains in that which is the faster for it on the machine at hand
EPOCHS = 6  # after each of which a training can be gone on with
TESTED = f"*/{HELD_OUT:03d}"
TRAINED = "training.txt"
"""The file beside a config that lists the images to train on: all but those that are tested."""

FIRST, BUNDLE, RESULT = "seed0", "bundle.fctl", "result.json"
"""Below the folder of a preset: that of its first seed, and in there its bundle and what that scores and costs."""

DESCRIPTION = Path(__file__).parents[1] / "docs" / "dubai.json"

_LOOKED_AT = f"2/{HELD_OUT:03d}"  # the smallest of those that are tested: for the log, after each epoch
_PATCH, _OVERLAP = 256, 64
_SCENE = 2176  # pixels: what shows an image whole shows all of each part

Fields = dict[str, Any]
"""Fields of a training, or of a result, as JSON has them."""


@dataclass(frozen=True, kw_only=True)
class System:
    """One row of the table.

    Attributes:
        name: What the paper calls it.
        preset: Its preset, or that of a smaller backbone.
        width: What every number of channels is multiplied by.
        ours: Whether it is the paper's own.
        refines: The preset of the row whose masks it refines, of its first seed; None for what makes masks itself.
    """

    name: str
    preset: str
    width: float
    ours: bool = False
    refines: str | None = None


_ALONE = (
    System(name="U-Net", preset="unet", width=0.25),
    System(name="ICNet", preset="icnet-r50", width=0.5),
    System(name="PSPNet", preset="pspnet-r50", width=0.25),
    System(name="DeepLab v3+", preset="deeplabv3plus-r50", width=0.25),
    System(name="SegNet", preset="segnet-vgg16", width=0.25),
    System(name="FCN-8s", preset="fcn8s-vgg16", width=0.25),
    System(name="SegFormer", preset="segformer-b0", width=1.0),
)
SYSTEMS = (
    *_ALONE,
    *(replace(system, name=f"{system.name}, whole image", preset=f"{system.preset}-whole") for system in _ALONE),
    System(name="CascadePSP", preset="cascadepsp-r50", width=0.25, refines="fcn8s-vgg16"),
    System(name="GLNet*", preset="glnet-r50-noshare", width=0.25),
    System(name="GLNet", preset="glnet-r50", width=0.25),
    System(name="LCC", preset="lcc-vgg16", width=0.25),
    System(name="FCtL", preset="fctl-vgg16", width=0.25, ours=True),
    System(name="FCtL", preset="fctl-mit-b0", width=1.0, ours=True),
    System(name="FCtL", preset="fctl-lite0", width=1.0, ours=True),
)


def config_of(system: System, data: Path, seed: int, steps: int, precision: str) -> Fields:
    """The training of a system.

    Args:
        system: The system.
        data: The folder of the data set.
        seed: Its seed.
        steps: Steps of each of its six epochs.
        precision: One of `PRECISIONS`.

    Returns:
        The config, as JSON has it.
    """
    preset = PRESETS[system.preset]
    network = narrow(preset.network, system.width)
    contexts = tuple(replace(context, size=_PATCH) for context in network.contexts)
    network = replace(network, patch=_PATCH, contexts=contexts)
    plain, wanted = encode(preset.network), encode(network)
    overrides = {key: value for key, value in wanted.items() if value != plain.get(key)}
    if network.backbone == "vgg16":  # random weights need centred pixels
        overrides |= {"mean": [127.5] * network.bands, "std": [127.5] * network.bands}
    serving: Fields = {"overlap": _OVERLAP if preset.serving.overlap else 0}
    stages = _stages(network)
    coarse = {"coarse": f"../../{system.refines}/{FIRST}/{BUNDLE}"} if system.refines else {}
    return {
        "out": "run", "seed": seed, "device": "cpu", "precision": precision, "epoch": steps,
        "network": {
            "preset": system.preset, "overrides": overrides,
            "serving": serving | ({} if preset.serving.scene is None else {"scene": _SCENE}),
        },
        "data": {
            "root": str(data.resolve()), "description": str(DESCRIPTION), "training": TRAINED, "validation": _LOOKED_AT,
            **coarse,
        },
        "optimisation": {
            "optimiser": "adamw", "rate": 5e-4, "encoder_rate": 5e-4, "weight_decay": 1e-4, "batch": 8,
            "average": _decay(steps * min(stage["epochs"] for stage in stages)), "gamma": 1, "statistics": True,
        },
        "augmentation": {"colour": 0.2, "scale": 1.25, "balance": 0.25} | ({"perturb": 0.5} if coarse else {}),
        "stages": stages,
        "finish": {"recalibrate": True},  # short trainings leave running averages far behind
    }  # fmt: skip


def _stages(network: NetworkConfig) -> list[Fields]:
    """Six epochs in all. GLNet has its three trainings; with sharing, the last one needs patches of whole images."""
    if network.kind != "glnet":
        return [{"name": "all", "epochs": EPOCHS}]
    gathers = any(context.gathers for context in network.contexts)
    fewer = {"changes": {"batch": 2}} if gathers else {}
    return [
        {"name": "scene", "network": "scene", "epochs": EPOCHS // 3},
        {"name": "patch", "network": "patch", "epochs": EPOCHS // 3},
        {"name": "all", "epochs": EPOCHS // 3} | fewer,
    ]


def _decay(steps: int) -> float:
    """The decay of the running average of a stage: it spans a twentieth of the steps, and so forgets the first ones."""
    return round(max(0.0, 1 - 20 / steps), 4)


def names_to_train() -> list[str]:
    """Names of the images that `TRAINED` lists."""
    return [f"{scene}/{part:03d}" for scene in SCENES for part in PARTS if part != HELD_OUT]
