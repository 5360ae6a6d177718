"""What the three programs are asked, as tables: each option by its name in QGIS, its flag and its kind of widget.

A table is all that there is to know of an algorithm's dialog: `parameters` makes the widgets from it, and `words_of`
the command line. Nothing here knows QGIS.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Option:
    """One option of a program, and how a dialog asks for it.

    Attributes:
        name: Its name in QGIS.
        flag: Its name on the command line; empty for an argument without one.
        text: What the dialog calls it.
        kind: What it holds, which decides the widget. Inputs: raster, polygons, field, extent, bundle, folder, file.
            Values: text, choice, choices, flag, number, count, extra (words of a command line). Outputs: mask,
            vector, table, new folder.
        default: Its value where nobody changes it. A program that is not told of an option takes the same one,
            except for flags.
        choices: Values of a choice.
        off: For a flag that is on unless told otherwise: what turns it off.
        needed: Whether it must be given.
        advanced: Whether the dialog hides it at first.
        parent: For a field: the name of the option whose layer has it.
    """

    name: str
    flag: str
    text: str
    kind: str
    default: object = None
    choices: tuple[str, ...] = ()
    off: str = ""
    needed: bool = False
    advanced: bool = False
    parent: str = ""

    @property
    def is_output(self) -> bool:
        """Whether the program writes it."""
        return self.kind in ("mask", "vector", "table", "new folder")


BACKENDS = (
    "auto", "tensorrt", "tensorrt-rtx", "onnxruntime-cuda", "openvino", "onnxruntime", "onnxruntime-tensorrt",
)  # fmt: skip
_EXTRA = Option("EXTRA", "", "Further options, as on the command line", "extra", advanced=True)
_BANDS = (
    Option("BANDS", "--bands", "Bands from 1, as 3,2,1 (default: by colour)", "text"),
    Option("SCALE_RANGE", "--scale-range", "Darkest and brightest value: 0,3000; percentile:2,98; metadata", "text"),
)  # fmt: skip

SEGMENT = (
    Option("INPUT", "", "Image", "raster", needed=True),
    Option("BUNDLE", "--bundle", "Bundle folder, or default", "bundle", "default"),
    Option(
        "BACKEND", "--backend", "Engine (auto: the fastest that is ready)", "choice", "auto", BACKENDS
    ),
    Option(
        "PRECISION", "--precision", "Precision (auto: the fastest that was validated)", "choice", "fp32",
        ("auto", "fp32", "bf16", "fp16", "int8"),
    ),
    Option(
        "CONTEXTS", "--contexts", "Contexts, once a patch (exact) or once a raster (shared)", "choice", "auto",
        ("auto", "exact", "shared"),
    ),
    Option(
        "RESOLUTION", "--resolution", "Metres a pixel for the network: a number, native or auto", "text", "auto",
    ),
    Option("TTA", "--tta", "All 8 turns of every patch, averaged: better, 8 times the work", "flag"),
    Option("EXTENT", "--bbox", "Only this extent", "extent"),
    Option("AOI", "--aoi", "Only within these polygons", "polygons"),
    Option("AOI_NAME", "--aoi-name", "Field that names a polygon in the table", "field", advanced=True, parent="AOI"),
    Option("PROBABILITIES", "--probabilities", "Also write a band of probability per class", "flag"),
    Option("CONFIDENCE", "--confidence", "Also write how sure the network is of each pixel", "flag"),
    Option("MIN_AREA", "--min-area", "Leave out polygons of fewer square metres", "number", 0.0),
    Option("SIMPLIFY", "--simplify", "Polygons with fewer corners, at most so many metres off", "number", 0.0),
    *(
        replace(option, advanced=True)
        for option in (
            *_BANDS,
            Option("REFINE", "--refine", "A bundle that refines the masks of the first", "bundle"),
            Option("SCENE_SIZE", "--scene-size", "Global context: side of its blocks in pixels", "count"),
            Option("BATCH", "--batch", "Tiles per run of the engine, or auto", "text", "4"),
            Option("MEMORY", "--memory", "Most memory of the program, as 600M or 2G", "text"),
            Option("COLOURS", "--colours", "Colours of classes by name, as water=#2060c0,road=grey", "text"),
            Option(
                "PROBABILITY_TYPE", "--probability-type", "Probabilities as", "choice", "uint8", ("uint8", "float32")
            ),
            Option(
                "CONFIDENCE_TYPE", "--confidence-type", "Confidence is the highest probability, or agreement of tiles",
                "choice", "probability", ("probability", "agreement"),
            ),
            Option(
                "ON_BAD_BLOCK", "--on-bad-block", "A block of the image that cannot be read", "choice", "fail",
                ("fail", "nodata"),
            ),
            Option("PREVIEW", "--preview", "Also write a picture of mask and image", "flag", off="--no-preview"),
            Option("BUILD_ENGINES", "--build-engines", "TensorRT: build missing engines (minutes)", "flag"),
            Option("ISOLATE", "--isolate", "Engine in a process of its own (bundles of strangers)", "flag"),
            Option("RESUME", "--resume", "Go on where an earlier run of the same mask ended", "flag"),
            Option("OVERWRITE", "--overwrite", "Replace outputs that exist", "flag", True),
        )
    ),
    _EXTRA,
    Option("MASK", "--out", "Mask", "mask", needed=True),
    Option("VECTOR", "--vector", "Polygons by class", "vector"),
    Option("STATS", "--stats", "Table of pixels, share and hectares by class", "table"),
)  # fmt: skip
"""`fctl-run`, of one image."""

EXPORT = (
    Option("NETWORK", "", "Network: checkpoint, weights, ONNX or module:factory", "file"),
    Option("BUNDLE", "", "Or a bundle folder, to make another one of it", "bundle"),
    Option("FMT", "--fmt", "Format", "choice", "onnx", ("onnx", "trt", "triton")),
    Option("PRECISION", "--precision", "Precision (int8 takes images to calibrate with)", "choice", "fp32",
           ("fp32", "fp16", "int8")),
    Option("ARCH", "--arch", "Architecture of bare weights, as fctl-mit-b2", "text"),
    Option("CLASSES", "--classes", "Class names in order, as land,water", "text"),
    Option("LICENCE", "--licence", "Licence of the weights", "text"),
    Option("GSD", "--gsd", "Metres a pixel of the training images", "number"),
    Option("COLOURS", "--colours", "Colours of classes by name, as water=#2060c0,road=grey", "text"),
    Option("CALIB", "--calib", "int8: folder of images like those that it will run on", "folder"),
    Option("EVAL", "--eval", "Labelled images that say what precision costs", "folder"),
    *(
        replace(option, advanced=True)
        for option in (
            Option("TEMPERATURE", "--temperature", "Temperature of probabilities", "number"),
            Option("GRAPH", "--graph", "Graphs", "choice", "staged", ("staged", "fused")),
            Option("WEIGHTS", "--weights", "Weights are stored in", "choice", "fp32", ("fp32", "fp16")),
            Option("SHARE_CONTEXTS", "--share-contexts", "Images on which to validate shared contexts", "folder"),
            Option("VALIDATE_BF16", "--validate-bf16", "Images on which to validate bf16", "folder"),
            Option("PATCHES", "--patches", "Images for the parity gate (default: shipped ones)", "folder"),
            Option("COUNT", "--count", "int8: patches to calibrate with", "count", 256),
            Option("MIN_AGREEMENT", "--min-agreement", "int8: percentage of pixels that keep their class", "number",
                   99.0),
            Option("MAX_MIOU_DROP", "--max-miou-drop", "int8: points of mIoU that may be lost",
                   "number", 0.5),
            Option("DESCRIPTION", "--description", "Description of the labelled images (JSON)", "file"),
            Option("SPLIT", "--split", "Which labelled images: a file, every=N:K, or names", "text"),
            Option("SCALE", "--scale", "Network of your own takes (raw * scale - mean) / std", "text", "1"),
            Option("MEAN", "--mean", "mean, one or one for each band", "text", "0"),
            Option("STD", "--std", "std, one or one for each band", "text", "1"),
            Option("TILE", "--tile", "Side of a tile in pixels", "count"),
            Option("OVERLAP", "--overlap", "Overlap of tiles in pixels", "count"),
        )
    ),
    _EXTRA,
    Option("OUT", "--out", "New bundle folder", "new folder", needed=True),
)  # fmt: skip
"""`fctl-export`."""

EVALUATE = (
    Option("BUNDLE", "", "Bundle folder, or default", "bundle", "default"),
    Option("OTHER", "", "Bundle to compare it with", "bundle"),
    Option("DATA", "--data", "Folder of labelled images", "folder", needed=True),
    Option(
        "FORM", "--form", "How the folder is laid out (auto: told by its files)", "choice", "auto",
        ("auto", "deepglobe", "inria", "release", "folder"),
    ),
    Option("DESCRIPTION", "--description", "Description, where it is not dataset.json", "file"),
    Option("SPLIT", "--split", "Which images: a list (.txt), every=N:K, or names as austin*", "text"),
    Option("BACKEND", "--backend", "Engines", "choices", ("auto",), BACKENDS),
    Option("PRECISION", "--precision", "Precisions", "choices", ("fp32",), ("fp32", "bf16", "fp16", "int8")),
    Option("CONTEXTS", "--contexts", "Contexts are encoded", "choices", ("auto",), ("auto", "exact", "shared")),
    Option("SHOW_CONTEXTS", "--show-contexts", "Contexts that the network sees", "choices", ("all",),
           ("all", "none", "each")),
    Option("TTA", "--tta", "Segment every patch in all 8 turns and average", "flag"),
    Option("COMPARE_TTA", "--compare-tta", "A run without that, and one with it", "flag"),
    Option("CALIBRATION", "--calibration", "Also measure how far probabilities can be trusted", "flag"),
    Option("FIT_TEMPERATURE", "--fit-temperature", "Also fit the temperature of probabilities", "flag"),
    *(
        replace(option, advanced=True)
        for option in (
            *_BANDS,
            Option("BATCH", "--batch", "Tiles per run of the engine", "count", 4),
            Option("BUILD_ENGINES", "--build-engines", "TensorRT: build missing engines (minutes)", "flag"),
            Option("PICTURES", "--pictures", "Images to draw beside truth, prediction and errors", "count", 8),
            Option("SHOW", "--show", "Which of them, by mIoU", "choice", "worst", ("worst", "best", "first")),
            Option("OVERWRITE", "--overwrite", "Replace an older report", "flag", True),
        )
    ),
    _EXTRA,
    Option("OUT", "--out", "New folder for the report", "new folder", needed=True),
)  # fmt: skip
"""`fctl-eval`, of one bundle or two."""


def words_of(options: tuple[Option, ...], values: Mapping[str, object]) -> list[str]:
    """The arguments of a program.

    Args:
        options: The program's table.
        values: By name, what was chosen: text, numbers, a list of texts, or whether a flag is set. None and empty
            text stand for what was left alone.

    Returns:
        The words after the program's name. What the program would assume anyway is left out.
    """
    return [word for option in options for word in _words(option, values.get(option.name))]


def _words(option: Option, value: object) -> Iterator[str]:
    """The words of one option."""
    if option.kind == "flag":
        yield from filter(None, [option.flag if value else option.off])
    elif option.kind == "extra":
        yield from shlex.split(str(value or ""))
    else:
        text, default = _text(value), _text(option.default)
        if not option.flag:
            yield from filter(None, [text or default])
        elif text not in ("", default):
            yield from (option.flag, text)


def _text(value: object) -> str:
    """A value as the command line has it; empty for none."""
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        return ",".join(map(_text, value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
