"""What backbones share whose stages follow one another."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn

from ..config import ConfigError
from .base import Backbone, Stage


class Chain(Backbone):
    """A backbone in which each stage is a module of its own, and is computed from the one before.

    Attributes:
        levels: The modules, by stage.
    """

    def __init__(self, *, bands: int, last: str, width: float = 1.0) -> None:
        super().__init__(bands=bands, last=last)
        self.levels = nn.ModuleDict()
        self.channels = {}
        inputs = bands
        for index, stage in enumerate(self.stages):
            self.levels[stage.name], inputs = self.level(index, inputs, width)
            self.channels[stage.name] = inputs
            if stage.name == last:
                break

    @classmethod
    @abstractmethod
    def level(cls, index: int, inputs: int, width: float) -> tuple[nn.Module, int]:
        """Make the module of one stage.

        Args:
            index: Which of `stages`.
            inputs: Channels of the stage before, or the bands of the image.
            width: Multiplies every number of channels.

        Returns:
            The module, and the channels of what it gives.
        """

    def forward(self, x: Tensor, last: str | None = None) -> dict[str, Tensor]:
        """Features by stage, see `Backbone`."""
        return self._run(x, list(self.levels), last)

    def resume(self, x: Tensor, stage: str) -> dict[str, Tensor]:
        """Features of the stages after `stage`, see `Backbone`."""
        names = list(self.levels)
        return self._run(x, names[names.index(stage) + 1 :], None)

    def _run(self, x: Tensor, names: list[str], last: str | None) -> dict[str, Tensor]:
        features: dict[str, Tensor] = {}
        for name in names:
            x = features[name] = self.levels[name](x)
            if name == last:
                break
        return features

    @classmethod
    def check_size(cls, size: int) -> None:
        """Every stride must divide the size."""
        check_divisible(cls, size, cls.stages[-1].stride)

    @classmethod
    def grid(cls, size: int, stage: Stage) -> int:
        """The size over the stride."""
        return size // stage.stride

    def freeze(self, stage: str) -> None:
        """Freeze every level up to `stage`."""
        for name, level in self.levels.items():
            level.requires_grad_(False)
            if name == stage:
                return


class PublishedChain(Chain):
    """A chain that has published weights of torchvision's kind, or says that it has none."""

    @abstractmethod
    def renamed(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename published ImageNet weights.

        Args:
            state: The weights as published.

        Returns:
            All but the classifier, those of known names by the names here.

        Raises:
            ConfigError: There are no published weights.
            RuntimeError: The weights do not fit.
        """

    def load_imagenet(self, state: Mapping[str, Tensor]) -> None:
        """Load published weights by the names that `renamed` gives them, see `Backbone`."""
        if self.bands != 3:
            raise ConfigError(f"ImageNet weights have 3 bands, this network {self.bands}")
        deeper = tuple(f"levels.{stage.name}." for stage in self.stages if stage.name not in self.levels)
        found = self.renamed(state)
        self.load_state_dict({key: value for key, value in found.items() if not key.startswith(deeper)}, strict=True)


def check_divisible(kind: type[Backbone], size: int, divisor: int) -> None:
    """Check that a size can be divided.

    Args:
        kind: The backbone, which needs it.
        size: Side in pixels.
        divisor: By what.

    Raises:
        ConfigError: It cannot; the error names the nearest larger size that can.
    """
    if size < 1 or size % divisor:
        nearest = max(1, -(-size // divisor)) * divisor
        raise ConfigError(f"{kind.__name__} needs sides divisible by {divisor}, found {size}; use {nearest}")
