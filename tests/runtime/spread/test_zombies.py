"""Somebody of an earlier run who is still at work."""

from __future__ import annotations

from pathlib import Path

import pytest

from fctl.runtime import Segmenter
from fctl.runtime.spread.crew import Crew
from tests.runtime import tiny
from tests.runtime.segment.test_jobs import digests, paths_in

from .conftest import held, job, lead, order, release, until


def test_a_shard_that_is_written_late_spoils_no_later_run(
    crew: Crew, image: Path, tmp_path: Path, trouble: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if crew.elsewhere:
        monkeypatch.setattr("fctl.runtime.spread.dask._ANSWERING", 0.5)  # for a worker that stays busy
    with Segmenter(tiny.TINY, backend="onnxruntime", tta=True) as segmenter:
        segmenter.segment_file(image, paths_in(tmp_path / "whole"))
    out, folder = paths_in(tmp_path / "run"), tmp_path / "run" / "m.fctl-run"

    def interrupted(done: int, total: int) -> None:
        until(lambda: held(trouble))
        raise KeyboardInterrupt

    order(trouble, "hold")
    leader = lead(crew)
    with pytest.raises(KeyboardInterrupt):
        leader.segment_file(job(image, out, progress=interrupted))
    early = {path.name for path in folder.glob("shard-*.npz")}
    assert early
    late = list[set[str]]()

    def go_on(done: int, total: int) -> None:
        """Once the first shard is done, whoever was held writes one of the earlier run, before any other is noted."""
        if not late:
            before = {path.name for path in folder.glob("shard-*.npz")}
            release(trouble)
            until(lambda: {path.name for path in folder.glob("shard-*.npz")} - before)
            late.append({path.name for path in folder.glob("shard-*.npz")} - before)

    lead(crew, tta=True).segment_file(job(image, out, progress=go_on))
    assert late
    assert digests(tmp_path / "run") == digests(tmp_path / "whole")
