"""Checkpoints as others publish them: the paper's public release, and SegFormer as `transformers` saves it.

Keys of a file are of three kinds: those that are required, those that are known and of no use here (the release stores
complete training networks, and some tensors twice), and all others, which are an error.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..backbones.mit import NON_COMMERCIAL, published_key
from ..config import LOCAL, NetworkConfig
from ..interface import ContextNetwork
from ..network import FCtL
from .checkpoints import take

log = logging.getLogger(__name__)

State = Mapping[str, Tensor]
_STAGES = ("pool3", "pool4", "pool5")
_DECODER = {
    "conv6": "output.0",
    "conv7": "output.3",
    "score": "output.6",
    "score_pool4": "adj_pool4",
    "score_pool3": "adj_pool3",
    "up_score": "up_output",
    "up_pool4": "up_pool4_out",
    "up_final": "up_final",
}
_VGG = r"vgg\.(features|classifier)\.\d+\.\w+"
_HEAD = r"output\.[036]\.\w+|adj_pool[34]\.\w+|up_(output|pool4_out|final)\.weight"
_MODULE = "module."  # every key of a network trained on several GPUs


@dataclass(frozen=True, kw_only=True)
class Release:
    """The layout of one branch of the public release.

    Attributes:
        attention: For each member of U, the pattern of its layers' keys.
        mixing: Prefix of the mixing layers.
        order: The members of U whose features the layers in_1, in_2 and in_3 take.
        encoders: For each context, the prefix of its encoder's blocks in the context's file.
        ignored: By file, a pattern of the keys that are known and of no use.
    """

    attention: dict[str, str]
    mixing: str
    order: tuple[str, ...]
    encoders: dict[str, str]
    ignored: dict[str, str]


_TRAINED_WITH_CONTEXT = rf"{_VGG}|{_HEAD}|pool[345]\.\d+\.\w+|(big_attention|big)\..+"
RELEASES = {
    "release-inria": Release(
        attention={
            LOCAL: "big_attention.{layer}_2",
            "medium": "big_attention.{layer}",
            "large": "big_attention.{layer}_1",
        },
        mixing="big_attention.",
        order=("medium", "large", LOCAL),
        encoders={"medium": "big_", "large": "big_"},
        ignored={
            LOCAL: rf"{_VGG}|big_attention\.conv_key(_[12])?\.bias",
            "medium": _TRAINED_WITH_CONTEXT,
            "large": _TRAINED_WITH_CONTEXT,
        },
    ),
    "release-deepglobe": Release(
        attention={LOCAL: "local.{layer}", "medium": "medium.{layer}", "large": "large.{layer}"},
        mixing="",
        order=(LOCAL, "medium", "large"),
        encoders={"medium": "big_", "large": ""},
        ignored={
            LOCAL: rf"{_VGG}|(local|medium|large)\.conv_key\.bias",
            "medium": _TRAINED_WITH_CONTEXT,
            "large": rf"{_VGG}|{_HEAD}",
        },
    ),
}


def release_classes(main: State) -> int | None:
    """The number of classes that the release's main file scores.

    Args:
        main: The weights in the file.

    Returns:
        The number, or None where the file holds no layer that scores.
    """
    return _outputs(_bare(main), "output.6.weight")


def load_release(
    arch: str, config: NetworkConfig, main: tuple[Path, State], contexts: Mapping[str, tuple[Path, State]]
) -> FCtL:
    """Make the release's network from its main file and one file for each context.

    The number of the query's channels is that of the file. The bias of the key is left out, since softmax ignores it,
    and the mixing layers are put into the order of the contexts here.

    Args:
        arch: Name of the branch in `RELEASES`.
        config: The network.
        main: Path and weights of the main file.
        contexts: By name of the context, path and weights of its file.

    Returns:
        The network, in evaluation mode.

    Raises:
        CheckpointError: A key is missing, misshapen or unknown.
    """
    release = RELEASES[arch]
    files = {LOCAL: main, **contexts}
    states = {name: _bare(state) for name, (_, state) in files.items()}
    network = FCtL(_with_key_channels(config, release, states[LOCAL]))
    wanted = network.state_dict()
    names = {LOCAL: _main_names(wanted, release)}
    names |= {name: _encoder_names(wanted, name, prefix) for name, prefix in release.encoders.items()}
    loaded: dict[str, Tensor] = {}
    for name, (path, _) in files.items():
        role = "the main file" if name == LOCAL else f"the file of the {name} context"
        complaint = f"{path}: not {role} of {arch}"
        loaded |= take(wanted, names[name], states[name], complaint, re.compile(release.ignored[name]))
    network.load_state_dict(loaded | _ordered_mixing(loaded, release, tuple(network.lcf.attention)))  # type: ignore[union-attr]
    return network.eval()


def is_published_segformer(state: State) -> bool:
    """Whether weights by name look like a SegFormer that `transformers` saved."""
    return any(key.startswith(("segformer.encoder.", "decode_head.")) for key in state)


def segformer_weights(network: ContextNetwork, state: State, origin: str) -> dict[str, Tensor]:
    """Rename the weights of a semantic SegFormer of `transformers`, encoder and head; log their licence.

    Args:
        network: The network that takes them.
        state: The weights by their published names.
        origin: Where they come from, for errors.

    Returns:
        The weights by their names here.

    Raises:
        CheckpointError: A key is missing, misshapen or unknown.
    """
    log.warning(NON_COMMERCIAL)
    wanted = network.state_dict()
    names = {ours: _segformer_name(ours) for ours in wanted}
    shaped = {
        ours: tensor[:, :, 0, 0] if re.fullmatch(r"decoder\.project\.\w+\.weight", ours) else tensor
        for ours, tensor in wanted.items()
    }  # they project with linear layers, we with 1x1 convolutions
    found = take(shaped, names, state, f"{origin}: not a SegFormer like {network.config.backbone}")
    return {ours: tensor.reshape(wanted[ours].shape) for ours, tensor in found.items()}


def _bare(state: State) -> State:
    """A state without the prefix that training on several GPUs leaves."""
    if all(key.startswith(_MODULE) for key in state):
        return {key.removeprefix(_MODULE): tensor for key, tensor in state.items()}
    return state


def _with_key_channels(config: NetworkConfig, release: Release, main: State) -> NetworkConfig:
    """The network with as many channels of query and key as the main file has."""
    channels = _outputs(main, release.attention[LOCAL].format(layer="conv_query") + ".weight")
    if not channels or config.lcf is None:
        return config  # reported with all the others
    return replace(config, lcf=replace(config.lcf, key_channels=channels))


def _outputs(state: State, key: str) -> int | None:
    """How many output channels a weight has, None where there is none or it is a scalar."""
    weight = state.get(key)
    return None if weight is None or weight.dim() == 0 else len(weight)


def _main_names(wanted: State, release: Release) -> dict[str, str]:
    """Keys in the main file by the names here."""
    names = {}
    for ours in wanted:
        part, _, rest = ours.partition(".")
        if part == "encoder":
            names[ours] = rest.removeprefix("backbone.blocks.")
        elif part == "decoder":
            layer, _, parameter = rest.partition(".")
            names[ours] = f"{_DECODER[layer]}.{parameter}"
        elif part == "lcf":
            names[ours] = _lcf_name(rest, release)
    return names


def _lcf_name(ours: str, release: Release) -> str:
    """The key in the main file of one parameter of the fusion."""
    kind, member, *rest = ours.split(".")
    if kind == "attention":
        layer = rest[0] if rest[0] == "gamma" else f"conv_{rest[0]}"
        return ".".join([release.attention[member].format(layer=layer), *rest[1:]])
    if member == "mix":
        return f"{release.mixing}trans.{rest[0]}"
    place = 1 + release.order.index((LOCAL, "medium", "large")[int(rest[0])])
    return f"{release.mixing}{'in' if member == 'inputs' else 'out'}_{place}.{rest[1]}"


def _encoder_names(wanted: State, context: str, prefix: str) -> dict[str, str]:
    """Keys of one context's encoder in the context's file by the names here."""
    start = f"context_encoders.{context}.backbone.blocks."
    return {ours: prefix + ours.removeprefix(start) for ours in wanted if ours.startswith(start)}


def _ordered_mixing(loaded: State, release: Release, members: tuple[str, ...]) -> dict[str, Tensor]:
    """The layer `trans` with its blocks of input and output channels in the order of the members of U here."""
    order = [release.order.index(member) for member in members]
    weight, bias = loaded["lcf.fusion.mix.weight"], loaded["lcf.fusion.mix.bias"]
    rows = torch.cat([weight.chunk(len(order), dim=0)[i] for i in order])
    return {
        "lcf.fusion.mix.weight": torch.cat([rows.chunk(len(order), dim=1)[i] for i in order], dim=1),
        "lcf.fusion.mix.bias": torch.cat([bias.chunk(len(order))[i] for i in order]),
    }


_SEGFORMER_HEAD = {
    "fuse.conv": "linear_fuse",
    "fuse.bn": "batch_norm",
    "score": "classifier",
    **{f"project.s{4 << index}": f"linear_c.{index}.proj" for index in range(4)},
}


def _segformer_name(ours: str) -> str:
    """The published name of a parameter."""
    part, _, rest = ours.partition(".")
    if part == "encoder":
        return f"segformer.encoder.{published_key(rest.removeprefix('backbone.'))}"
    layer, _, parameter = rest.rpartition(".")
    return f"decode_head.{_SEGFORMER_HEAD[layer]}.{parameter}"


def segformer_classes(state: State) -> int | None:
    """The number of classes that a SegFormer of `transformers` scores.

    Args:
        state: Its weights by their published names.

    Returns:
        The number, or None where there is no head.
    """
    return _outputs(state, "decode_head.classifier.weight")
