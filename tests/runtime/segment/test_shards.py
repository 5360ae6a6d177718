"""A run as a list of shards: their geometry, their files, the journal, and outputs that appear together."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fctl.runtime.errors import OutputError
from fctl.runtime.segment.picture import PicturePart, PictureScale
from fctl.runtime.segment.pipeline import Block
from fctl.runtime.segment.shards import plan as plans
from fctl.runtime.segment.shards.folder import folder_of, run_folder
from fctl.runtime.segment.shards.journal import Done, Journal, shard_name, token_of
from fctl.runtime.segment.shards.mosaic import COLUMNS, Mosaic
from fctl.runtime.segment.shards.parts import Part, PartWriter
from fctl.runtime.segment.shards.plan import ShardPlan
from fctl.runtime.tiling.windows import Grid, TilePlan, Window

REQUEST = {"engine": "one", "bands": [3, 2, 1]}
PLAN = {"panel": 100, "rows": 2}
TOKEN = token_of(REQUEST, PLAN)


# The plan


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 15), st.integers(1, 400), st.sets(st.integers(0, 400)))
def test_shards_finish_every_pixel_once_and_what_is_left_is_run_in_order(
    height: int, width: int, overlap: int, panel: int, done: set[int]
) -> None:
    grid = Grid.over(height, width, 16, TilePlan(kind="stride", overlap=overlap))
    plan = ShardPlan(grid=grid, panel=panel, rows=3)
    shards, finished = plan.shards, np.zeros((height, width), np.int64)
    for shard in shards:
        window = shard.finished
        finished[window.y : window.bottom, window.x : window.right] += 1
    assert (finished == 1).all()
    runs = list(plan.runs(done))
    assert [index for run in runs for index in run] == [index for index in range(len(shards)) if index not in done]
    for run in runs:
        region = plan.region(run)
        assert region.finished.y == shards[run[0]].finished.y
        assert region.finished.bottom == shards[run[-1]].finished.bottom
        assert {shards[index].left for index in run} == {region.left}
    assert ShardPlan(grid=grid, panel=1, rows=1).as_in(plan.numbers()) == plan


def test_a_shard_has_about_256_tiles_and_a_panel_is_no_wider_than_allowed() -> None:
    grid = Grid.over(100_000, 100_000, 256, TilePlan(kind="stride", overlap=64))
    plan = ShardPlan.over(grid)
    assert {len(range(shard.first, shard.stop)) for shard in plan.shards} <= {2, 3}
    assert max(shard.finished.width for shard in plan.shards) <= plans.PANEL
    computed = sum(len(panel) for panel in plan.whole)
    assert computed < 1.015 * len(grid)  # the columns that two panels share


# Files of shards


def block(y: int, x: int, height: int, width: int, classes: int = 0) -> Block:
    rng = np.random.default_rng([y, x])
    return Block(
        y=y, x=x, ids=rng.integers(0, 200, (height, width), np.uint8),
        probabilities=rng.random((classes, height, width), np.float32) if classes else None,
        picture=PicturePart(y // 2, x // 2, rng.random((3, 2, 3), np.float32), rng.random((3, 2), np.float32)),
    )  # fmt: skip


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    blocks = [block(0, 0, 3, 7, 2), block(0, 7, 3, 2, 2), block(3, 0, 5, 7, 2), block(3, 7, 5, 2, 2)]
    writer = PartWriter(tmp_path / "a.npz")
    for each in blocks:
        writer.add(each)
    assert not (tmp_path / "a.npz").exists()  # it has another name until it is whole
    assert writer.finish() == (tmp_path / "a.npz").stat().st_size
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]
    part = Part(tmp_path / "a.npz", Window(0, 0, 8, 9))
    assert part.windows == [each.window for each in blocks]
    for index, (each, picture) in enumerate(zip(blocks, part.picture(), strict=True)):
        assert part.ids(index).tobytes() == each.ids.tobytes()
        assert each.probabilities is not None
        assert part.probabilities(index).tobytes() == each.probabilities.tobytes()
        assert each.picture is not None
        assert (picture.y, picture.x) == (each.picture.y, each.picture.x)
        assert picture.sums.tobytes() == each.picture.sums.tobytes()
        assert picture.weights.tobytes() == each.picture.weights.tobytes()
        part.close()  # which one may do at any time


def test_pixels_without_data_take_no_room(tmp_path: Path) -> None:
    writer = PartWriter(tmp_path / "a.npz")
    nothing = np.full((5, 200, 300), np.nan, np.float32)
    writer.add(Block(y=0, x=0, ids=np.full((200, 300), 255, np.uint8), probabilities=nothing))
    assert writer.finish() < nothing.nbytes // 100
    assert Part(tmp_path / "a.npz", Window(0, 0, 200, 300)).probabilities(0).tobytes() == nothing.tobytes()


def test_an_abandoned_file_is_gone(tmp_path: Path) -> None:
    writer = PartWriter(tmp_path / "a.npz")
    writer.add(block(0, 0, 3, 7))
    writer.abandon()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-30], lambda data: b"", lambda data: data[:60] + b"!" + data[61:]]
)
def test_a_damaged_file_is_an_error_and_is_made_anew_by_a_resumed_run(tmp_path: Path, damage: Any) -> None:
    writer = PartWriter(tmp_path / "a.npz")
    writer.add(block(0, 0, 30, 70))
    writer.finish()
    (tmp_path / "a.npz").write_bytes(damage((tmp_path / "a.npz").read_bytes()))
    with pytest.raises(OutputError, match=r"a\.npz: a finished shard cannot be read back .*; go on with `resume`"):
        Part(tmp_path / "a.npz", Window(0, 0, 30, 70)).ids(0)
    assert list(tmp_path.iterdir()) == []  # so that the resumed run sees that it is missing


@pytest.mark.once
@settings(deadline=None, max_examples=25)
@given(st.data())
def test_a_mosaic_is_what_was_cut(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("mosaic")
    height, width = data.draw(st.integers(1, 700)), data.draw(st.sampled_from((1, 300, 4000, COLUMNS + 700)))
    rng = np.random.default_rng(height * width)
    ids = rng.integers(0, 255, (height, width), np.uint8)
    probabilities = (ids[None] * np.array([1, 3], np.float32)[:, None, None]).astype(np.float32)
    rows = sorted({0, height, *data.draw(st.sets(st.integers(1, max(height - 1, 1)), max_size=4))} - {height + 1})
    columns = sorted({0, width, *data.draw(st.sets(st.integers(1, max(width - 1, 1)), max_size=3))})
    parts = []
    for left, right in pairwise(columns):
        writer = PartWriter(folder / f"{left}.npz")
        for top, bottom in pairwise(rows):
            here = np.s_[top:bottom, left:right]
            writer.add(Block(y=top, x=left, ids=ids[here], probabilities=probabilities[(slice(None), *here)]))
        writer.finish()
        parts.append(Part(folder / f"{left}.npz", Window(0, left, height, right - left)))
    y, x = data.draw(st.integers(0, rows[1] - 1)), data.draw(st.integers(0, columns[1] - 1))
    box = Window(y, x, height - y, width - x)  # a tile that reaches into the box begins above it, or to its left
    found = list(Mosaic(box, parts).blocks(probabilities=True))
    assert [(each.y, each.x) for each in found] == [
        (y, x) for y in range(0, box.height, 256) for x in range(0, box.width, COLUMNS)
    ]
    for each in found:
        there = each.window.moved(box.y, box.x)
        here = np.s_[there.y : there.bottom, there.x : there.right]
        assert each.ids.tobytes() == np.ascontiguousarray(ids[here]).tobytes()
        assert each.probabilities is not None
        np.testing.assert_array_equal(each.probabilities, probabilities[(slice(None), *here)])


@pytest.mark.once
@pytest.mark.parametrize("size", [(1, 1), (40, 30), (1700, 40), (30, 2300), (3300, 1601)])
def test_the_parts_of_a_picture_make_the_mean_of_what_each_pixel_covers(size: tuple[int, int]) -> None:
    height, width = size
    scale, rng = PictureScale(height, width), np.random.default_rng(height)
    pixels, valid = rng.integers(0, 256, (height, width, 4), np.uint8), rng.random((height, width)) < 0.9
    parts = []
    for y in range(0, height, 700):
        for x in range(0, width, 900):
            window = Window(y, x, min(700, height - y), min(900, width - x))
            here = np.s_[y : window.bottom, x : window.right]
            parts.append(scale.part(pixels[here], window, valid[here]))
    picture = scale.picture(parts, "uint8")
    assert picture.shape == (*scale.size, 3)
    assert max(scale.size) <= 1600
    down, across = (_shares(side, small) for side, small in zip(size, scale.size, strict=True))
    weights = down @ valid.astype(np.float64) @ across.T
    for band in range(3):
        sums = down @ (pixels[:, :, band] * valid).astype(np.float64) @ across.T
        expected = np.where(weights > 0, sums / np.maximum(weights, 1e-9), 0)
        assert np.abs(picture[:, :, band] - expected).max() <= 0.51


def _shares(side: int, small: int) -> Any:
    """How much of each pixel of a side falls into each of a shrunken one, (small, side)."""
    edges, pixels = np.arange(small + 1) * side / small, np.arange(side)
    below, above = np.maximum(edges[:-1, None], pixels), np.minimum(edges[1:, None], pixels + 1)
    return np.maximum(above - below, 0)


# The journal


def test_a_journal_is_read_up_to_the_line_that_was_not_finished(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal.begin(path, REQUEST, PLAN)
    entries = [
        Done(shard=i, size=10 * i, pixels={1: 5, 3: i}, not_finite=i, bad_blocks=((1, 2, 3, 4),)) for i in (4, 7)
    ]
    for entry in entries:
        journal.add(entry)
    whole = path.read_bytes()
    ends = [index + 1 for index, byte in enumerate(whole) if byte == 10]
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        found = Journal.read(path, mend=True)
        complete = sum(end <= cut for end in ends)
        if complete == 0:
            assert found is None or (cut == ends[0] - 1 and not found.done)
            continue
        assert found is not None
        assert (found.request, found.plan, found.outputs) == (REQUEST, PLAN, ())
        assert list(found.done.values()) == entries[: complete - 1]
        found.add(entries[1])  # what was cut off does not spoil the next line
        again = Journal.read(path)
        assert again is not None
        assert again.done[7] == entries[1]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"fctl_run": 1, "request": {}, "plan": {}}', "[" * 100_000, "\0"])
def test_what_is_no_journal_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "journal").write_text(text + "\n")
    assert Journal.read(tmp_path / "journal") is None
    assert Journal.read(tmp_path / "missing") is None


@pytest.mark.parametrize(
    "line", ["[]", "3", '{"shard": "x"}', '{"shard": 1, "size": 2, "pixels": [], "bad_blocks": {}}']
)
def test_a_line_that_makes_no_sense_ends_the_journal(tmp_path: Path, line: str) -> None:
    path = tmp_path / "journal"
    Journal.begin(path, REQUEST, PLAN).add(Done(shard=1, size=2, pixels={}))
    path.write_text(path.read_text() + line + "\n" + json.dumps({"outputs": ["a"]}) + "\n")
    found = Journal.read(path)
    assert found is not None
    assert (list(found.done), found.outputs) == ([1], ())


# The folder


def finish_shards(folder: Any, *indices: int) -> None:
    for index in indices:
        writer = folder.writer(index)
        writer.add(block(index, 0, 1, 4))
        folder.add(Done(shard=index, size=writer.finish(), pixels={}))


@contextmanager
def interrupted(mask: Path, *indices: int) -> Iterator[None]:
    """A run that finishes some shards and is interrupted."""
    with pytest.raises(KeyboardInterrupt), run_folder(mask, REQUEST, PLAN, resume=False) as folder:
        finish_shards(folder, *indices)
        (folder.place("mask", mask)).write_bytes(b"half")
        folder.writer(99)
        raise KeyboardInterrupt
    yield


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_the_folder_of_a_run_that_ends_well_is_gone(tmp_path: Path) -> None:
    mask = tmp_path / "new" / "deep" / "a_mask.tif"
    with run_folder(mask, REQUEST, PLAN, resume=False) as folder:
        finish_shards(folder, 0)
        folder.place("mask", mask).write_bytes(b"mask")
        folder.commit({"mask": mask})
    assert names(tmp_path) == ["new", "new/deep", "new/deep/a_mask.tif"]
    assert mask.read_bytes() == b"mask"


def test_a_run_without_a_finished_shard_leaves_nothing(tmp_path: Path) -> None:
    with interrupted(tmp_path / "new" / "a_mask.tif"):
        assert names(tmp_path) == []


def test_what_is_finished_stays_and_is_used_again(tmp_path: Path) -> None:
    mask = tmp_path / "a_mask.tif"
    with interrupted(mask, 0, 2):
        left = ["a_mask.fctl-run"] + [
            f"a_mask.fctl-run/{name}" for name in ("journal", *(shard_name(shard, TOKEN) for shard in (0, 2)))
        ]
        assert names(tmp_path) == left
    with run_folder(mask, REQUEST, {"panel": 7, "rows": 9}, resume=True) as folder:
        assert folder.done == {0, 2}
        assert folder.journal.plan == PLAN  # a run keeps to the plan that it began with
        folder.journal.file(2).write_bytes(b"short")
        assert folder.done == {0}
    with run_folder(mask, REQUEST, PLAN, resume=True) as folder:
        assert folder.done == {0}


def test_without_resume_a_run_begins_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mask = tmp_path / "a_mask.tif"
    with interrupted(mask, 0, 2), run_folder(mask, REQUEST, PLAN, resume=False) as folder:
        assert folder.done == frozenset()
        assert names(folder.path) == ["journal", "lock", "temporary"]
    assert "2 finished shards of an earlier run are removed: it was not asked to `resume`" in caplog.text
    assert names(tmp_path) == []


def test_a_run_that_is_asked_something_else_is_not_resumed(tmp_path: Path) -> None:
    mask = tmp_path / "a_mask.tif"
    with interrupted(mask, 0):
        before = names(tmp_path)
        for request, told in (
            ({"engine": "two", "bands": [3, 2, 1]}, "had engine one, now it is two"),
            ({"engine": "one", "bands": None}, r"had bands \[3, 2, 1\], now it is None"),
            ({"engine": "one"}, r"had bands \[3, 2, 1\], now it is None"),
        ):
            with pytest.raises(
                OutputError, match=rf"fctl-run: the run to resume {told}; ask for the same, or start anew"
            ):
                run_folder(mask, request, PLAN, resume=True).__enter__()
            assert names(tmp_path) == before


def _hold(mask: Path, held: Any, release: Any) -> None:
    with run_folder(mask, REQUEST, PLAN, resume=False) as folder:
        finish_shards(folder, 0)
        held.set()
        release.wait(60)


def test_two_runs_of_one_output_do_not_run_together(tmp_path: Path) -> None:
    context, mask = multiprocessing.get_context("spawn"), tmp_path / "a_mask.tif"
    held, release = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(mask, held, release))
    process.start()
    assert held.wait(60)
    for resume in (False, True):
        with pytest.raises(OutputError, match=r"a_mask\.tif is being written by another run; wait for its end"):
            run_folder(mask, REQUEST, PLAN, resume=resume).__enter__()
    assert (folder_of(mask) / shard_name(0, TOKEN)).is_file()
    process.kill()  # the lock of a process that is gone holds nobody
    process.join()
    with run_folder(mask, REQUEST, PLAN, resume=True) as folder:
        assert folder.done == {0}


# Outputs


@pytest.mark.parametrize("fails", [1, 2, 3, 4, None])
def test_what_lies_beside_an_output_moves_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: int | None
) -> None:
    mask, style = tmp_path / "m.tif", tmp_path / "m.qml"
    for path in (mask, style):
        path.write_bytes(b"old")
    real, moves, fails_at = Path.replace, list[Path](), [fails]

    def replace(self: Path, target: Path) -> Path:
        moves.append(self)
        if len(moves) == fails_at[0]:
            raise OSError
        return real(self, target)

    with contextlib.suppress(OSError), run_folder(mask, REQUEST, PLAN, resume=False) as folder:
        finish_shards(folder, 0)
        for path in (mask, style):
            folder.place("mask", path).write_bytes(b"new")
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", replace)
            folder.commit({"mask": mask}, {"mask": [style]})
    assert [path.read_bytes() for path in (mask, style)] == [b"new" if fails is None else b"old"] * 2


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_outputs_are_all_there_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existing: bool, error: type[BaseException]
) -> None:
    outputs = {"mask": tmp_path / "m.tif", "preview": tmp_path / "other" / "v.png", "probabilities": tmp_path / "p.tif"}
    if existing:
        (tmp_path / "other").mkdir()
        for path in outputs.values():
            path.write_bytes(b"old")
    real, moves, fails_at = Path.replace, list[Path](), [0]

    def replace(self: Path, target: Path) -> Path:
        moves.append(self)
        if len(moves) == fails_at[0]:
            raise error
        return real(self, target)

    for fails in range(1, 7 if existing else 4):
        moves.clear()
        fails_at[0] = fails
        with pytest.raises(error), run_folder(outputs["mask"], REQUEST, PLAN, resume=False) as folder:
            finish_shards(folder, 0)
            for name, path in outputs.items():
                folder.place(name, path).write_bytes(name.encode())
            with monkeypatch.context() as patch:
                patch.setattr(Path, "replace", replace)
                folder.commit(outputs)
        assert [path.read_bytes() if path.exists() else None for path in outputs.values()] == [
            b"old" if existing else None
        ] * 3
        with run_folder(outputs["mask"], REQUEST, PLAN, resume=True) as folder:
            assert folder.done == {0}
            assert len(folder.journal.outputs) == 3
            for name, path in outputs.items():
                folder.place(name, path).write_bytes(name.encode())
            folder.commit(outputs)
        assert [path.read_bytes() for path in outputs.values()] == [name.encode() for name in outputs]
        assert not folder_of(outputs["mask"]).exists()
        for path in outputs.values():
            path.unlink()
            if existing:
                path.write_bytes(b"old")


def test_every_flipped_bit_of_a_shard_is_noticed(tmp_path: Path) -> None:
    """The directory of an archive has no checksum of its own."""
    path, window = tmp_path / "a.npz", Window(0, 0, 30, 9)
    writer = PartWriter(path)
    blocks = [block(0, 0, 12, 9), block(12, 0, 18, 9)]
    for each in blocks:
        writer.add(each)
    writer.finish()
    whole, noticed = path.read_bytes(), 0
    tail = range(8 * whole.index(b"PK\x01\x02"), 8 * len(whole))
    for bit in (*range(0, 8 * len(whole) - 8 * 2000, 97), *tail[::3]):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            part = Part(path, window)
            found = [part.ids(index) for index in range(2)]
            part.close()
        except OutputError:
            noticed += 1
            assert not path.exists()
        else:
            assert [ids.tobytes() for ids in found] == [each.ids.tobytes() for each in blocks]
    assert noticed > 100


def test_what_was_to_be_replaced_is_put_back_after_a_kill(tmp_path: Path) -> None:
    """Killed between two renames: the old mask waits in the folder, and no new one is in its place."""
    mask = tmp_path / "a_mask.tif"
    for resume in (False, True):
        mask.write_bytes(b"old")
        with interrupted(mask, 0):
            folder = folder_of(mask)
            journal = Journal.read(folder / "journal")
            assert journal is not None
            journal.note_assembled([str(mask)])
            mask.replace(folder / "replaced-0")
            with run_folder(mask, REQUEST, PLAN, resume=resume):
                assert mask.read_bytes() == b"old"
        assert mask.read_bytes() == b"old"


def test_outputs_that_were_lost_are_made_once_more(tmp_path: Path) -> None:
    """A run that is resumed never takes an output for moved: it makes all of them of the shards."""
    mask = tmp_path / "a_mask.tif"
    with interrupted(mask, 0):
        journal = Journal.read(folder_of(mask) / "journal")
        assert journal is not None
        journal.note_assembled([str(mask)])  # and killed before anything moved
        with run_folder(mask, REQUEST, PLAN, resume=True) as folder:
            with pytest.raises(FileNotFoundError):
                folder.commit({"mask": mask})
            folder.place("mask", mask).write_bytes(b"mask")
            folder.commit({"mask": mask})
    assert mask.read_bytes() == b"mask"


def test_who_does_not_hold_the_lock_leaves_the_journal_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    Journal.begin(path, REQUEST, PLAN)
    with path.open("ab") as file:
        file.write(b'{"half')
    before = path.read_bytes()
    assert Journal.read(path) is not None
    assert path.read_bytes() == before
    assert Journal.read(path, mend=True) is not None
    assert path.read_bytes() == before[:-6]
