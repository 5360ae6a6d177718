"""Options of ``fctl-export`` about what one has: a checkpoint, or a network of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fctl.runtime.cli.console import usage
from fctl.runtime.cli.groups import OptionGroup
from fctl.runtime.cli.options import one_of

from ..choices import Activation, Crop, Graph, Layout, Weights
from .numbers import number, values
from .windows import contexts, patch_input

if TYPE_CHECKING:
    from ..card import ExportOptions
    from ..foreign import ForeignOptions

_ARCHITECTURES = (
    "fctl-lite0, fctl-vgg16, fctl-mit-b0 to -b5, lcc-vgg16; fcn8s-vgg16, segformer-b0 to -b5, unet, segnet-vgg16, "
    "pspnet-r50, deeplabv3plus-r50, icnet-r50, each of these also as NAME-whole; glnet-r50, glnet-r50-noshare, "
    "cascadepsp-r50, release-inria, release-deepglobe"
)


@dataclass(frozen=True, kw_only=True)
class Described(OptionGroup):
    """What a network does not say of itself, and its bundle must."""

    panel = "What you have: a checkpoint or a network of your own"

    classes: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Class names in order, as land,water. A checkpoint of fctl knows them."),
    ] = None
    licence: Annotated[str | None, typer.Option(metavar="TEXT", help="Licence of the weights, for the manifest.")] = (
        None
    )
    gsd: Annotated[
        float | None, typer.Option(metavar="METRES", help="Ground sample distance of the training images.")
    ] = None

    @property
    def names(self) -> tuple[str, ...]:
        """Class names, none where they were not given."""
        return tuple(name.strip() for name in self.classes.split(",")) if self.classes else ()


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions(OptionGroup):
    """A checkpoint: of fctl, of the public release, or bare weights."""

    panel = "What you have: a checkpoint"

    arch: Annotated[
        str | None, typer.Option(metavar="NAME", help=f"Architecture of bare weights: {_ARCHITECTURES}.")
    ] = None
    medium: Annotated[Path | None, typer.Option(help="release-*: the file of the medium context's encoder.")] = None
    large: Annotated[Path | None, typer.Option(help="release-*: the file of the large context's encoder.")] = None
    context_sizes: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Bare weights: sides of the context windows in pixels of the raster, as medium=762,large=1270.",
        ),
    ] = None
    scene_size: Annotated[
        int | None, typer.Option(help="Global context: side in pixels of the images that it was trained with.")
    ] = None
    raster_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Side in pixels of the rasters that the bundle will mostly segment: contexts that are encoded once a "
            "raster are encoded in windows that fit it. Others are segmented as well.",
        ),
    ] = None
    graph: Annotated[
        Graph,
        typer.Option(help="staged: one graph per context and the segmenter. fused: one from raw windows to logits."),
    ] = "staged"
    weights: Annotated[Weights, typer.Option(help="fp16: rounded to fp16 and stored so, computed in fp32.")] = "fp32"

    def export_options(self, described: Described, images: Sequence[Path]) -> ExportOptions:
        """The options as `export_bundle` takes them.

        Args:
            described: What the bundle must say besides.
            images: Images or folders for the parity gate.

        Returns:
            The options.

        Raises:
            typer.BadParameter: A list cannot be read.
        """
        from ..card import ExportOptions

        files = {"medium": self.medium, "large": self.large}
        return ExportOptions(
            arch=self.arch,
            classes=described.names,
            context_files={name: path for name, path in files.items() if path},
            windows=_sides("--context-sizes", self.context_sizes) if self.context_sizes is not None else {},
            scene=self.scene_size,
            raster=self.raster_size,
            graph=self.graph,
            patches=tuple(images),
            half_weights=self.weights == "fp16",
            licence=described.licence,
            ground_sample_distance=described.gsd,
        )


@dataclass(frozen=True, kw_only=True)
class OwnNetwork(OptionGroup):
    """A segmenter of the user's own, as an ONNX file or a PyTorch module."""

    panel = "What you have: a network of your own"

    input: Annotated[
        str | None, typer.Option(metavar="patch=NAME", help="The input that takes the patch, where there are several.")
    ] = None
    windows: Annotated[
        list[str] | None,
        typer.Option(
            "--context",
            metavar="NAME=INPUT[,...]",
            help="What another input shows; repeatable. medium=INPUT,window=1024: a window of 1024 pixels around the "
            "patch, shrunk to what the input takes. wide=INPUT: the whole raster. Further: size=512, "
            "resampling=box|pillow-bilinear, scene=2448, and scale=, mean=, std= where they are not the patch's.",
        ),
    ] = None
    tile: Annotated[int | None, typer.Option(min=1, help="Side of a tile in pixels. Default: what the graph says.")] = (
        None
    )
    overlap: Annotated[int | None, typer.Option(min=0, help="Overlap of tiles in pixels. Default: an eighth.")] = None
    scale: Annotated[
        str, typer.Option(metavar="NUMBER", help="The network takes (raw * scale - mean) / std; may be 1/255.")
    ] = "1"
    mean: Annotated[str, typer.Option(metavar="LIST", help="One value, or one per band as 0.485,0.456,0.406.")] = "0"
    std: Annotated[str, typer.Option(metavar="LIST", help="One value, or one per band as 0.229,0.224,0.225.")] = "1"
    layout: Annotated[Layout, typer.Option(help="Axes of the network's image.")] = "nchw"
    activation: Annotated[
        Activation,
        typer.Option(metavar="NAME", help=f"What the network gives: {one_of(Activation)}. auto: told by its scores."),
    ] = "auto"
    crop: Annotated[
        Crop,
        typer.Option(
            metavar="NAME",
            help=f"What scores smaller than the tile show: {one_of(Crop)}. none: all of it. valid: only its middle.",
        ),
    ] = "auto"
    dtype: Annotated[
        str | None, typer.Option(metavar="DTYPE", help="Dtype of the rasters. Default: the graph's, or uint8.")
    ] = None
    band_count: Annotated[int | None, typer.Option(min=1, help="Number of bands, where the graph leaves it open.")] = (
        None
    )
    output: Annotated[str | None, typer.Option(metavar="NAME", help="Which output, where the network has several.")] = (
        None
    )

    def foreign_options(self, described: Described, images: Sequence[Path]) -> ForeignOptions:
        """The options as the exports of foreign networks take them.

        Args:
            described: What the bundle must say besides.
            images: Images or folders for the parity gate.

        Returns:
            The options.

        Raises:
            typer.BadParameter: A list cannot be read, or no classes were given.
        """
        from ..foreign import ForeignOptions

        if not described.classes:
            raise usage(
                "--classes: a network of your own does not name its classes: give them, as in --classes land,water"
            )
        return ForeignOptions(
            classes=described.names,
            input=patch_input(self.input),
            contexts=contexts(self.windows or ()),
            tile=self.tile,
            overlap=self.overlap,
            scale=number("--scale", self.scale),
            mean=values("--mean", self.mean),
            std=values("--std", self.std),
            layout=self.layout,
            activation=self.activation,
            crop=self.crop,
            dtype=self.dtype,
            bands=self.band_count,
            output=self.output,
            patches=tuple(images),
            licence=described.licence,
            ground_sample_distance=described.gsd,
        )


def _sides(option: str, text: str) -> dict[str, int]:
    """Sides in pixels by the name of a context, as in medium=762,large=1270."""
    try:
        return {name.strip(): int(side) for name, side in (part.split("=") for part in text.split(","))}
    except ValueError:
        raise usage(f"{option}: expected sides in pixels as in medium=762,large=1270, found {text!r}") from None
