"""What a network looks at, from its exported graph, against the module that was exported; and ``fctl-explain``."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from PIL import Image  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from fctl.export.cli.explain import explain_app  # noqa: E402
from fctl.export.explain.explanation import ALL, NONE, Explanation, explain  # noqa: E402
from fctl.export.explain.lens import Lens  # noqa: E402
from fctl.export.graphs import frozen  # noqa: E402
from fctl.export.tracing import export_onnx  # noqa: E402
from fctl.model.config import LOCAL, LcfConfig  # noqa: E402
from fctl.model.layers import tokens  # noqa: E402
from fctl.model.lcf import AdaptiveFusion, LccFusion, WeightedFusion  # noqa: E402
from fctl.model.network import FCtL  # noqa: E402
from fctl.runtime.bundle.store import read_bundle  # noqa: E402
from fctl.runtime.engines.choose import choose_engine  # noqa: E402
from fctl.runtime.errors import InputError  # noqa: E402
from fctl.runtime.raster.source import open_raster  # noqa: E402
from fctl.runtime.segment.batches import cut_batch  # noqa: E402
from fctl.runtime.segment.opening import load_network  # noqa: E402
from fctl.runtime.tiling.sources import ArraySource  # noqa: E402
from tests.conftest import InProcess  # noqa: E402
from tests.model.helpers import LARGE, MEDIUM, WHOLE, WIDE, build, inputs, small_config, small_lcf  # noqa: E402
from tests.runtime import tiny  # noqa: E402

SAMPLE = Path(__file__).parents[2] / "samples" / "dubai.tif"
AT = (1100, 700)


class OnlyLcf(nn.Module):
    """LCF as it lies in the segmenter, without the backbone, which takes seconds to trace."""

    def __init__(self, network: FCtL) -> None:
        super().__init__()
        self.network, self.lcf = [network], network.lcf

    def forward(self, x: Tensor, *rest: Tensor) -> Tensor:
        network, names = self.network[0], self.network[0].config.context_names
        members = {LOCAL: x, **dict(zip(names, rest, strict=False))}
        positions = dict(zip(network.config.placed, rest[len(names) :], strict=True))
        assert self.lcf is not None
        found: Tensor = self.lcf(x, members, {name: network._offsets(name, positions) for name in self.lcf.attention})
        return found


def fusion_weights(fusion: nn.Module, features: list[Tensor]) -> Tensor:
    """H_U of the module (members, h, w), averaged over channels."""
    count, size = len(features), features[0].shape[1:]
    if isinstance(fusion, AdaptiveFusion):
        logits = fusion.split(torch.relu(fusion.squeeze(torch.cat(features, dim=1)))).reshape(-1, count, *size)
    elif isinstance(fusion, LccFusion):
        mixed = fusion.mix(torch.cat([one(x) for one, x in zip(fusion.inputs, features, strict=True)], dim=1))
        parts = zip(fusion.outputs, mixed.split(size[0], dim=1), strict=True)
        logits = torch.stack([torch.sigmoid(one(part)) for one, part in parts], dim=1)
    else:
        logits = fusion.logits if isinstance(fusion, WeightedFusion) else torch.zeros(count)
        logits = logits.reshape(1, count, 1, 1, 1).expand(1, count, *size)
    return torch.softmax(logits, dim=1)[0].mean(dim=1)


@pytest.mark.once
@pytest.mark.parametrize(
    ("lcf", "contexts"),
    [
        (small_lcf(), (MEDIUM, LARGE)),
        (small_lcf(fusion="weighted", gamma=True, centre_query=True), (WHOLE,)),
        (small_lcf(fusion="lcc", position="grid", scale_logits=False), (MEDIUM,)),
        (small_lcf(fusion="average", position=None, self_attention=False), (WIDE, LARGE)),
    ],
    ids=["preset", "weighted", "release", "average"],
)
@torch.no_grad()
def test_the_graph_tells_what_the_module_computes(lcf: LcfConfig, contexts: tuple[object, ...], tmp_path: Path) -> None:
    network = build(small_config(lcf=lcf, contexts=contexts, ale=None))
    assert network.lcf is not None
    for parameter in network.lcf.parameters():
        nn.init.normal_(parameter, std=0.3)  # away from where terms begin
    _, _, places = inputs(network.config)
    positions = {name: places[name] for name in network.config.placed}
    cells = {name: network.placement(name).count for name in (LOCAL, *network.config.context_names)}
    x, *rest = (torch.randn(2, network.config.channels, count, count) for count in cells.values())
    features = dict(zip(network.config.context_names, rest, strict=True))
    given = {"patch": x} | {f"features_{name}": u for name, u in features.items()}
    given |= {f"positions_{name}": place for name, place in positions.items()}
    part = frozen(network)
    assert isinstance(part, FCtL)
    export_onnx(OnlyLcf(part), tmp_path / "lcf.onnx", given, "fused", half_weights=True)

    lens = Lens(tmp_path / "lcf.onnx")
    seen = lens.look({name: value[:1].numpy() for name, value in given.items()})

    assert lens.members == tuple(network.lcf.attention)
    x, positions = x[:1], {name: place[:1] for name, place in positions.items()}
    attended = []
    for name, module in network.lcf.attention.items():
        u, found = (features | {LOCAL: x})[name][:1], seen.attention[name]
        assert found.total.sum(axis=1) == pytest.approx(np.ones(len(found.total)), abs=1e-5)
        assert np.abs(found.likeness - module.attention(x, u)[0].numpy()).max() < 1e-5
        attended.append(module(x, u, network._offsets(name, positions)))
        ours = (
            torch.from_numpy(found.total) @ tokens(module.value(u))[0] * (1 if module.gamma is None else module.gamma)
        )
        assert torch.allclose(ours, tokens(attended[-1])[0], atol=1e-5)
    weights = np.stack(list(seen.weights.values()))
    assert weights.sum(axis=0) == pytest.approx(np.ones(weights.shape[1:]), abs=1e-5)
    assert np.abs(weights - fusion_weights(network.lcf.fusion, attended).numpy()).max() < 1e-5


@pytest.fixture(scope="module")
def explained() -> Explanation:
    bundle = read_bundle("default")
    with open_raster(SAMPLE, bundle.manifest.image, None) as raster:
        return explain(bundle, raster, AT)


def test_the_shipped_bundle_says_what_a_run_says(explained: Explanation) -> None:
    bundle, tile = read_bundle("default"), explained.views[0].window
    row, column = explained.pixel
    assert (tile.x + column, tile.y + row) == AT
    with (
        open_raster(SAMPLE, bundle.manifest.image, None) as raster,
        closing(load_network(bundle, choose_engine("onnxruntime", "fp32"), 1)) as network,
    ):
        scores = network.on_host(network.run(cut_batch(bundle.manifest, raster, (tile,), 1)))[0, :, row, column]
    probabilities = np.exp(scores) / np.exp(scores).sum()
    assert explained.verdicts[0].probabilities == pytest.approx(probabilities, abs=1e-4)
    assert [one.shown for one in explained.verdicts] == [ALL, "without medium", "without large", NONE]
    assert explained.verdicts[-1].probabilities != pytest.approx(probabilities, abs=1e-4)


def test_the_shipped_bundle_tells_where_it_looks(explained: Explanation) -> None:
    patch, medium, large = explained.views
    assert (medium.window, large.window) == (patch.window.centred(512, 512), patch.window.centred(1024, 1024))
    assert {view.pixels.shape for view in explained.views} == {(256, 256, 3)}
    for view in explained.views:
        assert view.attention is not None
        assert view.attention.shape == (256, 256)
        assert view.weights is not None
        assert view.weight is not None
        assert view.weights.min() <= view.weight <= view.weights.max()
    assert sum(view.weight or 0 for view in explained.views) == pytest.approx(1, abs=1e-5)


def test_attention_lies_where_its_cell_lies() -> None:
    """Position alone decides at once that the patch's cell looks at itself, wherever the pixel is."""
    bundle = read_bundle("default")
    pixels = np.full((256, 256, 3), 90, np.uint8)  # nothing is like anything more than anything else
    for at in ((40, 200), (220, 30)):
        attention = explain(bundle, ArraySource(pixels), at).views[0].attention
        assert attention is not None
        row, column = np.unravel_index(attention.argmax(), attention.shape)
        assert max(abs(int(row) - at[1]), abs(int(column) - at[0])) <= 16


def test_a_pixel_without_data_and_a_bundle_without_lcf_are_refused() -> None:
    nothing = ArraySource(np.full((300, 300, 3), np.nan, np.float32))
    bundle = read_bundle("default")
    with pytest.raises(InputError, match="`at`: expected a pixel with data, found none at 5,9"):
        explain(bundle, nothing, (5, 9))
    plain = replace(bundle, folder=tiny.TINY, manifest=read_bundle(tiny.TINY).manifest)
    with pytest.raises(InputError, match="expected a network with the paper's LCF"):
        explain(plain, ArraySource(np.zeros((64, 64, 3), np.uint8)), (5, 9))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["gone.tif", "--at", "1,2"], 1, "error: gone.tif: expected an image, found no such file"),
        (
            [SAMPLE, "--at", "2149,3"],
            1,
            "error: --at: expected a pixel of the image, 2149 columns and 2000 rows from 0",
        ),
        ([SAMPLE, "--at", "-1,3"], 1, "rows from 0, found -1,3"),
        ([SAMPLE, "--at", "1"], 2, "--at: expected a column and a row as in 1200,800, found '1'"),
        ([SAMPLE, "--at", "1,2", "--out", "a.gif"], 1, "error: --out: expected a name that ends in .png or .jpg"),
        ([SAMPLE, "--at", "1,2", "--out", SAMPLE.with_suffix(".png").name, "--bundle", "gone"], 1, "error: gone"),
        ([SAMPLE, "--at", "1,2", "--bundle", tiny.TINY_FUSED], 1, "error: --bundle: expected a network with the paper"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    arguments: list[object], code: int, message: str, in_process: InProcess, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    done = in_process(explain_app, *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert code == 2 or done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_picture_is_drawn_once(
    in_process: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, explained: Explanation
) -> None:
    monkeypatch.chdir(tmp_path)
    done = in_process(explain_app, SAMPLE, "--at", ",".join(map(str, AT)))
    assert done.returncode == 0, done.stderr
    assert "wrote dubai_explain.png" in done.stdout
    for view in explained.views:
        assert f"{view.name} " in done.stdout
        assert f"{view.weight:.2f}" in done.stdout
    with Image.open(tmp_path / "dubai_explain.png") as drawn:
        assert drawn.width > 3 * 320
        drawn.load()
    itself = in_process(explain_app, "dubai_explain.png", "--at", "1,2", "-o", "dubai_explain.png", "--overwrite")
    assert "--out: expected another file than the image, found dubai_explain.png" in itself.stderr
    again = in_process(explain_app, SAMPLE, "--at", "1,2")
    assert "dubai_explain.png exists already; use --overwrite to replace it" in again.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["dubai_explain.png"]


def test_the_network_sees_the_image_at_the_resolution_that_is_asked_for(
    in_process: InProcess, tmp_path: Path, explained: Explanation
) -> None:
    out = tmp_path / "coarse.jpg"
    done = in_process(explain_app, SAMPLE, "--at", ",".join(map(str, AT)), "--resolution", "1", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "worked at 1 m (raster: 0.5 m)" in done.stderr
    assert "1024 x 1024" in done.stdout
    best = explained.verdicts[0]
    assert f"{100 * best.probabilities[best.best]:.0f} %" not in done.stdout.split("all contexts")[1].splitlines()[0]
    with Image.open(out) as drawn:
        assert drawn.format == "JPEG"
