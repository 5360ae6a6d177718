"""Global inference: networks for patches that are shown the whole image."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("torch")

import numpy as np
import torch
from torch.nn import functional as F

from fctl.model.build import build
from fctl.model.config import GLOBAL, ConfigError, ContextConfig
from fctl.model.presets import PRESETS, preset
from fctl.model.serving.manifest import moving_cells
from fctl.model.whole import WholeImage, alone_of
from fctl.runtime.tiling.contexts import cell_positions
from fctl.runtime.tiling.windows import Grid, TilePlan, Window

from .helpers import MEDIUM, images, inputs, lively, small_config, small_preset

ALONE = [name for name, found in PRESETS.items() if not found.network.contexts]
PLAN = TilePlan(kind="whole", overlap=0)


@pytest.mark.parametrize("size", [(203, 317), (1000, 333), (64, 64), (71, 40), (5, 7)])
def test_crops_are_those_of_the_scores_enlarged_by_torch(size: tuple[int, int]) -> None:
    """Half a pixel from edges, as `align_corners=False`: rasters of any side, also smaller than the network's."""
    config = replace(small_preset("unet-whole"), patch=48)
    with torch.device("meta"):
        network = WholeImage(config)
    torch.manual_seed(0)
    scores, (height, width) = torch.randn(1, 3, 64, 64), size
    expected = F.interpolate(scores, size=size, mode="bilinear", align_corners=False)[0]
    cells, whole = moving_cells(config, 64), Window(0, 0, height, width)
    for tile in Grid.over(height, width, 48, PLAN):
        places = torch.from_numpy(cell_positions(tile, whole, cells.patch, cells.context, 64))[None]
        found = network.segment(torch.zeros(0), {"whole": scores}, {"whole": places})[0]
        inside = expected[:, tile.y : tile.bottom, tile.x : tile.right]
        torch.testing.assert_close(found[:, : inside.shape[1], : inside.shape[2]], inside, rtol=0, atol=2e-4)


def test_what_is_encoded_are_the_scores_of_the_network_for_patches() -> None:
    config = small_preset("fcn8s-vgg16-whole")
    whole, patches = lively(config), build(alone_of(config)).eval()
    patches.load_state_dict(whole.state_dict())  # the same names
    window = images(2, 3, 64)
    with torch.inference_mode():
        torch.testing.assert_close(whole.encode("whole", window), patches(window, {}), rtol=0, atol=0)


def test_the_patch_is_not_looked_at() -> None:
    network = lively(small_preset("unet-whole"))
    patch, contexts, positions = inputs(network.config)
    with torch.inference_mode():
        expected = network(patch, contexts, positions)
        assert torch.equal(network(torch.zeros(0), contexts, positions), expected)
        assert not torch.equal(network(patch, contexts, {"whole": positions["whole"].roll(1, 0)}), expected)


@pytest.mark.parametrize("name", ALONE)
def test_every_network_for_patches_has_its_whole(name: str) -> None:
    local, whole = preset(name, classes=5), preset(f"{name}-whole", classes=5)
    assert alone_of(whole.network) == local.network
    (context,) = whole.network.contexts
    assert (context.factor, context.size) == (GLOBAL, local.network.patch)
    assert (whole.serving.scene, whole.serving.overlap) == (2448, 0)
    assert whole.network.placed == ("whole",)
    with torch.device("meta"):
        own, theirs = build(local.network).state_dict(), build(whole.network).state_dict()
    assert {key: value.shape for key, value in own.items()} == {key: value.shape for key, value in theirs.items()}


def test_there_are_twelve_of_them() -> None:
    assert len(ALONE) == 12
    assert [f"{name}-whole" for name in ALONE] == [name for name in PRESETS if name.endswith("-whole")]


GLOBALS = [ContextConfig(name=name, factor=GLOBAL, size=64) for name in ("one", "two")]
WRONG = {
    "centred": ({"contexts": (MEDIUM,)}, r"one context, of factor 'global', found medium \(2\.0\)"),
    "none": ({"contexts": ()}, "one context, of factor 'global', found none"),
    "two": ({"contexts": tuple(GLOBALS)}, r"found one \(global\), two \(global\)"),
    "fusion": ({"lcf": small_config().lcf}, "nothing to fuse; set lcf and ale to None"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_no_such_network_can_be(case: str) -> None:
    changes, told = WRONG[case]
    with pytest.raises(ConfigError, match=told):
        replace(small_preset("unet-whole"), **changes)  # type: ignore[arg-type]


def test_a_size_that_the_backbone_does_not_take() -> None:
    context = ContextConfig(name="whole", factor=GLOBAL, size=70)
    with pytest.raises(ConfigError, match="sides divisible by 16, found 70"):
        build(replace(small_preset("unet-whole"), contexts=(context,)))


def test_scores_of_a_wide_image_lie_where_its_pixels_do() -> None:
    """A step in the shrunken scores lands in the same place of the raster, from tile to tile."""
    config = small_preset("unet-whole")
    with torch.device("meta"):
        network = WholeImage(config)
    scores = torch.zeros(1, 3, 64, 64)
    scores[..., 32:] = 1
    cells, whole = moving_cells(config, 64), Window(0, 0, 100, 640)
    found = np.zeros((100, 640), np.float32)
    for tile in Grid.over(100, 640, 64, PLAN):
        places = torch.from_numpy(cell_positions(tile, whole, cells.patch, cells.context, 64))[None]
        crop = network.segment(torch.zeros(0), {"whole": scores}, {"whole": places})[0, 0].numpy()
        found[tile.y : tile.bottom, tile.x : tile.right] = crop
    assert np.abs(found - found[:1]).max() < 1e-5
    np.testing.assert_allclose(found[0, 314:326].mean(), 0.5, atol=1e-4)  # symmetric about the middle
    assert (found[0, :314] == 0).all() and (found[0, 326:] == 1).all()
