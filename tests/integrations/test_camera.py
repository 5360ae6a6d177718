"""The camera loop, on a short made-up video."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from fctl.runtime import read_bundle
from integrations.camera import Film, frames_of, overlaid
from tests.runtime import tiny

ROOT = Path(__file__).resolve().parents[2]
FRAMES, SIDE = 7, 64


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "flight.mp4"
    with Film(path) as film:
        for number in range(FRAMES):
            film.add(np.full((SIDE, SIDE, 3), 30 * number, np.uint8))
    return path


def _means(path: Path) -> NDArray[np.float64]:
    return np.array([frame.mean(axis=(0, 1)) for frame in frames_of(str(path), live=False)])


def test_a_film_holds_the_frames_that_were_added(video: Path) -> None:
    means = _means(video)
    assert means.shape == (FRAMES, 3)
    np.testing.assert_allclose(means, 30 * np.arange(FRAMES)[:, None].repeat(3, 1), atol=4)  # as far as H.264 keeps it


def test_a_mask_is_laid_over_its_frame_half_transparent(rng: np.random.Generator) -> None:
    frame = rng.integers(0, 256, (4, 5, 3), np.uint8)
    ids, colours = rng.integers(0, 2, (4, 5), np.uint8), np.array([[255, 0, 0], [0, 255, 7]], np.uint8)
    laid = overlaid(frame, ids, colours)
    for y, x in np.ndindex(4, 5):
        assert laid[y, x].tolist() == [
            (int(a) + int(b)) // 2 for a, b in zip(frame[y, x], colours[ids[y, x]], strict=True)
        ]


@pytest.mark.parametrize(("wanted", "masks"), [((), FRAMES), (("--frames", "3"), 3)])
def test_the_loop_writes_masks_over_the_frames(
    video: Path, tmp_path: Path, wanted: tuple[str, ...], masks: int
) -> None:
    out = tmp_path / "masked.mp4"
    found = _run(str(video), "--out", str(out), *wanted)
    assert found.returncode == 0, found.stderr
    assert f"{masks} masks, 0 frames dropped; from frame to mask: p50 " in found.stdout
    assert len(_means(out)) == masks
    colours = {info.colour for info in read_bundle(tiny.TINY).manifest.classes}
    with av.open(str(out)) as container:
        first = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert min(np.abs(first.mean(axis=(0, 1)) - np.array(colour) / 2).max() for colour in colours) < 40  # over black


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "integrations/camera.py", *arguments]
    more = ["--bundle", str(tiny.TINY), "--backend", "onnxruntime"]
    return subprocess.run([*command, *more], cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)
