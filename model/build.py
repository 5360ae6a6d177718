"""The network that a configuration describes."""

from __future__ import annotations

from .config import NetworkConfig
from .glnet import GLNet
from .interface import ContextNetwork
from .network import FCtL
from .whole import WholeImage

_KINDS: dict[str, type[ContextNetwork]] = {"fctl": FCtL, "whole": WholeImage, "glnet": GLNet}


def build(config: NetworkConfig) -> ContextNetwork:
    """Make the network that a configuration describes, with random weights.

    Args:
        config: The configuration.

    Returns:
        The network.

    Raises:
        ConfigError: There can be no such network.
    """
    return _KINDS[config.kind](config)
