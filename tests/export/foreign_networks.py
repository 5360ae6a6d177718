"""Segmenters that fctl did not make, small: modules like U-Net, PSPNet and DeepLabV3+, and graphs made by hand.

Each factory gives a module (N, 3, H, W) -> logits (N, 3, h, w) with random weights that predicts every class on the
shipped images. Each graph of `CASES` has its formula in NumPy beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from fctl.calib.sample import shipped_images

Array = NDArray[Any]
Score = Callable[[Array], Array]  # raw tiles (N, P, P, bands) -> scores (N, classes, P, P)

SCALE, MEAN, STD = 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Layer(nn.Sequential):
    """Convolution, batch norm with statistics as after training, ReLU."""

    def __init__(self, inside: int, outside: int, kernel: int = 3, *, stride: int = 1, dilation: int = 1) -> None:
        norm = nn.BatchNorm2d(outside)
        nn.init.uniform_(norm.weight, 0.8, 1.5)
        nn.init.normal_(norm.bias, 0, 0.2)
        nn.init.normal_(norm.running_mean, 0, 0.2)  # type: ignore[arg-type]
        nn.init.uniform_(norm.running_var, 0.2, 0.8)  # type: ignore[arg-type]
        conv = nn.Conv2d(inside, outside, kernel, stride, dilation * (kernel // 2), dilation, bias=False)
        super().__init__(conv, norm, nn.ReLU())


class UNet(nn.Module):
    """Two levels down, two up with transposed convolutions and skips; logits at full size."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.middle, self.bottom = Layer(3, 8), Layer(8, 12), Layer(12, 16)
        self.up_middle, self.up_top = nn.ConvTranspose2d(16, 12, 2, 2), nn.ConvTranspose2d(12, 8, 2, 2)
        self.join_middle, self.join_top = Layer(24, 12), Layer(16, 8)
        self.score = nn.Conv2d(8, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        top = self.top(image)
        middle = self.middle(F.max_pool2d(top, 2))
        bottom = self.bottom(F.max_pool2d(middle, 2))
        middle = self.join_middle(torch.cat([middle, self.up_middle(bottom)], 1))
        return self.score(self.join_top(torch.cat([top, self.up_top(middle)], 1)))  # type: ignore[no-any-return]


class PSPNet(nn.Module):
    """Pyramid pooling over the whole tile; logits at 1/8."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(Layer(3, 8, stride=2), Layer(8, 12, stride=2), Layer(12, 16, stride=2))
        self.branches = nn.ModuleList(nn.Sequential(nn.AdaptiveAvgPool2d(n), Layer(16, 8, 1)) for n in (1, 2, 3, 6))
        self.score = nn.Conv2d(16 + 4 * 8, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        features = self.stem(image)
        size = features.shape[2:]
        pooled = [F.interpolate(b(features), size, mode="bilinear", align_corners=False) for b in self.branches]
        return self.score(torch.cat([features, *pooled], 1))  # type: ignore[no-any-return]


class DeepLab(nn.Module):
    """Atrous branches and image pooling at 1/8, joined with a shallow layer; logits at 1/4, among others."""

    def __init__(self) -> None:
        super().__init__()
        self.shallow = nn.Sequential(Layer(3, 8, stride=2), Layer(8, 12, stride=2))
        self.deep = Layer(12, 16, stride=2)
        self.atrous = nn.ModuleList([Layer(16, 8, 1), *(Layer(16, 8, dilation=dilation) for dilation in (2, 4))])
        self.whole, self.project = Layer(16, 8, 1), Layer(32, 16, 1)
        self.reduce, self.join = Layer(12, 6, 1), Layer(22, 12)
        self.score, self.auxiliary = nn.Conv2d(12, 3, 1), nn.Conv2d(16, 3, 1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        shallow = self.shallow(image)
        deep = self.deep(shallow)
        whole = self.whole(deep.mean((2, 3), keepdim=True)).expand(-1, -1, *deep.shape[2:])
        joined = self.project(torch.cat([*(branch(deep) for branch in self.atrous), whole], 1))
        joined = F.interpolate(joined, shallow.shape[2:], mode="bilinear", align_corners=False)
        return {
            "out": self.score(self.join(torch.cat([self.reduce(shallow), joined], 1))),
            "aux": self.auxiliary(deep),
        }


class OneByOne(nn.Module):
    """One convolution, in code that wants to know how many images there are."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Conv2d(3, 3, 3, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([self.score(image[index : index + 1]) for index in range(int(image.shape[0]))])


def unet() -> nn.Module:
    return _balanced(UNet)


def pspnet() -> nn.Module:
    return _balanced(PSPNet)


def deeplab() -> nn.Module:
    return _balanced(DeepLab)


def one_by_one() -> nn.Module:
    return _balanced(OneByOne)


def as_taken(tiles: Array) -> Tensor:
    """Raw (N, height, width, 3) -> (N, 3, height, width) as the networks want it."""
    mean, std = (torch.tensor(values).reshape(-1, 1, 1) for values in (MEAN, STD))
    return (torch.from_numpy(tiles.transpose(0, 3, 1, 2).astype(np.float32)) * SCALE - mean) / std


def logits_of(module: nn.Module, images: Tensor) -> Tensor:
    """At the size that the network gives."""
    with torch.inference_mode():
        output = module(images)
    return output["out"] if isinstance(output, dict) else output  # type: ignore[no-any-return]


def _balanced(kind: type[nn.Module]) -> nn.Module:
    """A network whose logits have mean 0 and deviation 3 in every class on parts of the shipped images."""
    torch.manual_seed(0)
    network = kind().eval().requires_grad_(False)
    tiles = np.stack([np.asarray(Image.open(path))[:384, :384] for path in shipped_images()])
    logits = logits_of(network, as_taken(tiles))
    factor = 3 / logits.std((0, 2, 3))
    score: nn.Conv2d = network.score  # type: ignore[assignment]
    assert score.bias is not None
    score.weight *= factor.reshape(-1, 1, 1, 1)
    score.bias.copy_((score.bias - logits.mean((0, 2, 3))) * factor)
    return network


# Graphs made by hand ------------------------------------------------------------------------------------------------

BODY = "middle = GlobalAveragePool(image) rest = Sub(image, middle) scores = Conv(rest, weights)"
SCORES = "float[N,3,64,64] scores"


def weights(classes: int, bands: int) -> NDArray[np.float32]:
    return np.random.default_rng(3).normal(size=(classes, bands)).astype(np.float32)


def contrast(tiles: Array, classes: int = 3) -> Array:
    """Scores of (N, P, P, bands) scaled pixels: their difference from the tile's mean, times a matrix.

    A pixel's scores depend on its tile, so neighbouring tiles disagree and it matters how they are merged.
    """
    rest = tiles - tiles.mean((1, 2), keepdims=True, dtype=np.float64)
    return np.einsum("nhwb,cb->nchw", rest, weights(classes, tiles.shape[-1]))  # type: ignore[no-any-return]


def parse(
    nodes: str,
    given: str,
    *,
    taken: str = "float[N,3,64,64] image",
    opset: int = 17,
    more: str = "",
    **constants: Array,
) -> onnx.ModelProto:
    domains = "".join(f', "{name}" : 1' for name in ("own", "com.microsoft") if f"{name}." in nodes)
    head = f'<ir_version: 8, opset_import: ["" : {opset}{domains}]> network ({taken}) => ({given})'
    model = onnx.parser.parse_model(f"{head} {{ {nodes} }} {more}")
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in constants.items())
    return model  # type: ignore[no-any-return]


def contrast_graph(
    after: str = "", given: str = SCORES, *, classes: int = 3, bands: int = 3, opset: int = 17, **constants: Array
) -> onnx.ModelProto:
    """The graph of `contrast`, with more nodes behind its `scores`."""
    matrix = weights(classes, bands).reshape(classes, bands, 1, 1)
    taken = f"float[N,{bands},64,64] image"
    return parse(f"{BODY} {after}", given, taken=taken, opset=opset, weights=matrix, **constants)


def softmax(logits: Array, axis: int = 0) -> Array:
    exponential = np.exp(logits - logits.max(axis, keepdims=True))
    return exponential / exponential.sum(axis, keepdims=True)  # type: ignore[no-any-return]


def picture(height: int = 230, width: int = 210) -> NDArray[np.uint8]:
    """A part of a shipped image, larger than every tile here."""
    with Image.open(shipped_images()[0]) as image:
        return np.asarray(image)[100 : 100 + height, 80 : 80 + width]


def one_hot(ids: Array, classes: int = 3) -> Array:
    return ids[:, None] == np.arange(classes)[:, None, None]  # type: ignore[no-any-return]


def labels(tiles: Array) -> Array:
    return one_hot(contrast(0.02 * tiles).argmax(1))


def halved_labels(tiles: Array) -> Array:
    count, side, _, bands = tiles.shape
    blocks = tiles.reshape(count, side // 2, 2, side // 2, 2, bands).mean((2, 4))
    return one_hot(contrast(0.02 * blocks).argmax(1).repeat(2, 1).repeat(2, 2))


def sparse_labels(tiles: Array) -> Array:
    """Of 7 out of 8 rows and columns."""
    ids, nearest = contrast(0.02 * tiles).argmax(1), (np.arange(64) * 56 // 64) * 8 // 7
    return one_hot(ids[:, nearest][:, :, nearest])


def sigmoid(logit: Array) -> Array:
    return 1 / (1 + np.exp(-logit))  # type: ignore[no-any-return]


def all_softmax(scores: Array) -> Array:
    """Over all axes but the batch, as Softmax<axis=1> was up to opset 12."""
    return softmax(scores.reshape(len(scores), -1), 1).reshape(scores.shape)


def halved(scores: Array) -> Array:
    """Averages of 2 x 2 pixels."""
    count, classes, side, _ = scores.shape
    return scores.reshape(count, classes, side // 2, 2, side // 2, 2).mean((3, 5))  # type: ignore[no-any-return]


def doubled(scores: Array) -> Array:
    side = 2 * scores.shape[-1]
    return F.interpolate(torch.from_numpy(scores), (side, side), mode="bilinear", align_corners=False).numpy()  # type: ignore[no-any-return]


def pair_of(share: Array) -> Array:
    return np.concatenate([1 - share, share], 1)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A graph, what it is exported with, and what it scores on raw tiles (N, P, P, bands)."""

    model: Callable[[], onnx.ModelProto]
    options: tuple[str, ...] = ()
    score: Score = lambda tiles: contrast(0.02 * tiles)
    scores: str = "logits"
    scaling: str = "--scale=0.02"
    classes: int = 3
    dtype: str = "uint8"
    bands: int = 3
    batch: int | None = None
    warning: str = ""
    tolerance: float = 2e-3

    def image(self) -> Array:
        pixels = picture()
        if self.bands == 4:
            pixels = np.concatenate([pixels, pixels[::-1, ::-1, 1:2]], 2)
        if self.dtype == "uint8":
            return pixels
        wide = pixels * 200.0 + np.random.default_rng(0).integers(0, 200, pixels.shape)  # up to 51199
        return (wide - 20000 if self.dtype == "int16" else wide).astype(self.dtype)


def _wide(dtype: str) -> Case:
    return Case(
        model=contrast_graph, options=(f"--dtype={dtype}",), dtype=dtype, scaling="--scale=0.0001",
        score=lambda tiles: contrast(0.0001 * tiles.astype(np.float64)),
    )  # fmt: skip


def _labels(after: str, given: str, score: Score = labels, **constants: Array) -> Case:
    return Case(
        model=lambda: contrast_graph(after, f"{given} ids", **constants), options=("--activation=labels",),
        score=score, scores="probabilities",
    )  # fmt: skip


CASES = {
    "plain": Case(model=contrast_graph),
    "nhwc": Case(
        model=lambda: parse(
            "middle = ReduceMean<axes=[1,2]>(image) rest = Sub(image, middle) scores = MatMul(rest, weights)",
            "float[N,64,64,4] scores", taken="float[N,64,64,3] image", weights=weights(4, 3).T.copy(),
        ),
        options=("--layout=nhwc",), classes=4, score=lambda tiles: contrast(0.02 * tiles, 4),
    ),
    "nhwc of one sigmoid at half size": Case(
        model=lambda: parse(
            "middle = ReduceMean<axes=[1,2]>(image) rest = Sub(image, middle) all = MatMul(rest, weights)"
            " turned = Transpose<perm=[0,3,1,2]>(all) small = AveragePool<kernel_shape=[2,2], strides=[2,2]>(turned)"
            " back = Transpose<perm=[0,2,3,1]>(small) scores = Sigmoid(back)",
            "float[N,32,32,1] scores", taken="float[N,64,64,3] image", weights=weights(1, 3).T.copy(),
        ),
        options=("--layout=nhwc", "--activation=sigmoid"), classes=2, scores="probabilities",
        score=lambda tiles: pair_of(doubled(sigmoid(halved(contrast(0.02 * tiles, 1))))),
    ),
    "uint8 in": Case(
        model=lambda: parse(
            f"pixels = Cast<to=1>(raw) image = Mul(pixels, scale) {BODY}", SCORES, taken="uint8[N,3,64,64] raw",
            weights=weights(3, 3).reshape(3, 3, 1, 1), scale=np.float32([0.02]),
        ),
        scaling="",
    ),
    "uint8 nhwc in": Case(
        model=lambda: parse(
            f"pixels = Cast<to=1>(raw) scaled = Mul(pixels, scale) image = Transpose<perm=[0,3,1,2]>(scaled) {BODY}"
            " turned = Transpose<perm=[0,2,3,1]>(scores)", "float[N,64,64,3] turned", taken="uint8[N,64,64,3] raw",
            weights=weights(3, 3).reshape(3, 3, 1, 1), scale=np.float32([0.02]),
        ),
        scaling="", options=("--layout=nhwc",),
    ),
    "float16 in and out": Case(
        model=lambda: parse(
            f"image = Cast<to=1>(half) {BODY} rounded = Cast<to=10>(scores)", "float16[N,3,64,64] rounded",
            taken="float16[N,3,64,64] half", weights=weights(3, 3).reshape(3, 3, 1, 1),
        ),
        tolerance=1e-2,
    ),
    "uint16": _wide("uint16"),
    "int16": _wide("int16"),
    "float32": _wide("float32"),
    "4 bands": Case(
        model=lambda: contrast_graph(given="float[N,4,64,64] scores", classes=4, bands=4), bands=4, classes=4,
        score=lambda tiles: contrast(0.02 * tiles, 4),
    ),
    "4 bands of any number": Case(
        model=lambda: parse(
            BODY, "float[N,3,64,64] scores", taken="float[N,C,64,64] image",
            weights=weights(3, 4).reshape(3, 4, 1, 1),
        ),
        options=("--bands=4",), bands=4,
    ),
    "softmax": Case(
        model=lambda: contrast_graph("shares = Softmax<axis=1>(scores)", "float[N,3,64,64] shares"),
        options=("--activation=softmax",), score=lambda tiles: softmax(contrast(0.02 * tiles), 1),
        scores="probabilities",
    ),
    "softmax of opset 12": Case(
        model=lambda: contrast_graph(
            "odds = Softmax<axis=1>(scores) shares = Mul(odds, many)", "float[N,3,64,64] shares", opset=12,
            many=np.float32([1000]),
        ),
        options=("--activation=logits",), score=lambda tiles: 1000 * all_softmax(contrast(0.02 * tiles)),
    ),
    "axes of opset 11": Case(
        model=lambda: contrast_graph(
            "five = Unsqueeze<axes=[2]>(scores) four = ReduceSum<axes=[2], keepdims=0>(five) all = Split<axis=1>(four)"
            .replace("all", "a, b, c") + " joined = Concat<axis=1>(c, a, b)", "float[N,3,64,64] joined", opset=11,
        ),
        score=lambda tiles: contrast(0.02 * tiles)[:, [2, 0, 1]],
    ),
    "one sigmoid": Case(
        model=lambda: contrast_graph("share = Sigmoid(scores)", "float[N,1,64,64] share", classes=1),
        options=("--activation=sigmoid",), classes=2, scores="probabilities",
        score=lambda tiles: pair_of(sigmoid(contrast(0.02 * tiles, 1))),
    ),
    "a sigmoid for each class": Case(
        model=lambda: contrast_graph("shares = Sigmoid(scores)", "float[N,3,64,64] shares"),
        options=("--activation=sigmoid",), score=lambda tiles: sigmoid(contrast(0.02 * tiles)),
        scores="probabilities",
    ),
    "one logit": Case(
        model=lambda: contrast_graph(given="float[N,1,64,64] scores", classes=1), classes=2,
        score=lambda tiles: np.concatenate([np.zeros((len(tiles), 1, 64, 64)), contrast(0.02 * tiles, 1)], 1),
    ),
    "labels": _labels("ids = ArgMax<axis=1, keepdims=0>(scores)", "int64[N,64,64]"),
    "labels with a channel": _labels("ids = ArgMax<axis=1, keepdims=1>(scores)", "int64[N,1,64,64]"),
    "labels at half size": _labels(
        "small = AveragePool<kernel_shape=[2,2], strides=[2,2]>(scores) ids = ArgMax<axis=1, keepdims=0>(small)",
        "int64[N,32,32]", halved_labels,
    ),
    "labels at half size with a channel": _labels(
        "small = AveragePool<kernel_shape=[2,2], strides=[2,2]>(scores) ids = ArgMax<axis=1, keepdims=1>(small)",
        "int64[N,1,32,32]", halved_labels,
    ),
    "labels at 7/8": _labels(
        "rows = Gather<axis=2>(scores, nearest) small = Gather<axis=3>(rows, nearest)"
        " ids = ArgMax<axis=1, keepdims=0>(small)", "int64[N,56,56]", sparse_labels, nearest=np.arange(56) * 8 // 7,
    ),
    "labels of uint8": _labels("all = ArgMax<axis=1, keepdims=0>(scores) ids = Cast<to=2>(all)", "uint8[N,64,64]"),
    "labels of float32, not quite whole": _labels(
        "all = ArgMax<axis=1, keepdims=0>(scores) same = Cast<to=1>(all) ids = Sub(same, little)", "float[N,64,64]",
        little=np.float32([1e-3]),
    ),
    "several outputs": Case(
        model=lambda: contrast_graph(
            "wrong = Neg(scores) peak = GlobalMaxPool(scores)", f"float[N,3,1,1] peak, {SCORES}, float[N,3,64,64] wrong"
        ),
        options=("--output=scores",),
    ),
    "an output that is read on": Case(
        model=lambda: contrast_graph(
            "more = Relu(scores) most = Add(more, scores)", f"{SCORES}, float[N,3,64,64] most"
        ),
        options=("--output=scores",),
    ),
    "names like ours": Case(
        model=lambda: parse(
            "mean = GlobalAveragePool(patch) std = Sub(patch, mean) scores = Conv(std, slope)"
            " cast_of_patch = Neg(scores) enlarged = Neg(cast_of_patch) logits = Identity(enlarged)",
            "float[N,3,64,64] logits", taken="float[N,3,64,64] patch", slope=weights(3, 3).reshape(3, 3, 1, 1),
        ),
        scaling="--scale=0.02 --mean=0.5 --std=0.8", score=lambda tiles: contrast(0.02 * tiles) / 0.8,
    ),
    "names like ours, of probabilities": Case(
        model=lambda: parse(
            "mean = GlobalAveragePool(patch) start = Sub(patch, mean) logits = Conv(start, slope)"
            " scores = Sigmoid(logits) probabilities = Identity(scores)",
            "float[N,1,64,64] probabilities", taken="float[N,3,64,64] patch",
            slope=weights(1, 3).reshape(1, 3, 1, 1),
        ),
        options=("--activation=sigmoid",), classes=2, scores="probabilities",
        score=lambda tiles: pair_of(sigmoid(contrast(0.02 * tiles, 1))),
    ),
    "one image inside": Case(
        model=lambda: contrast_graph(
            "flat = Reshape(scores, rows) one = Reshape(flat, planes)", "float[N,3,64,64] one",
            rows=np.int64([1, 3, 4096]), planes=np.int64([1, 3, 64, 64]),
        ),
        batch=1, warning="takes one image at a time, though its batch is open: the bundle's is fixed",
    ),
    "one image inside, of any number of channels": Case(
        model=lambda: contrast_graph(
            "one = Reshape(scores, planes)", "float[N,3,64,64] one", planes=np.int64([1, -1, 64, 64])
        ),
        batch=1, warning="takes one image at a time, though its batch is open: the bundle's is fixed",
    ),
    "a batch of 5": Case(
        model=lambda: parse(
            BODY, "float[5,3,64,64] scores", taken="float[5,3,64,64] image", weights=weights(3, 3).reshape(3, 3, 1, 1)
        ),
        batch=5,
    ),
    "an image read in a branch": Case(
        model=lambda: parse(
            f"{BODY.replace('scores', 'all')} peak = ReduceMax<keepdims=0>(image) bright = Greater(peak, limit)"
            " scores = If (bright) <then_branch = yes () => (float[M,3,64,64] same) { same = Identity(all) },"
            " else_branch = no () => (float[M,3,64,64] other) { other = Neg(image) }>", SCORES,
            weights=weights(3, 3).reshape(3, 3, 1, 1), limit=np.array(0, np.float32),
        ),
    ),
    "a function": Case(
        model=lambda: parse(
            "rest = own.centred(image) scores = Conv(rest, weights)", SCORES,
            more='<domain: "own", opset_import: ["" : 17]> centred (x) => (y)'
            " { middle = GlobalAveragePool(x) y = Sub(x, middle) }",
            weights=weights(3, 3).reshape(3, 3, 1, 1),
        ),
    ),
    "weights among the inputs": Case(
        model=lambda: parse(
            BODY, SCORES, taken="float[N,3,64,64] image, float[3,3,1,1] weights", opset=11,
            weights=weights(3, 3).reshape(3, 3, 1, 1),
        ),
    ),
}  # fmt: skip
