"""What is made of measured rounds: medians, shares, labels, tables."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fctl.runtime.bench.cases import Case, Opened, plan_cases
from fctl.runtime.bench.results import CaseResult, Comparison, Spread, labelled
from fctl.runtime.bench.tables import tables
from fctl.runtime.bench.work import Measured
from fctl.runtime.stopwatch import Stage, Taken, Times

OPENED = Opened(
    name="city", engine="onnxruntime", version="1", device="CPU", precision="fp32", contexts="exact", batch=4, tile=256,
    bands=3, dtype="uint8",
)  # fmt: skip


def measured(seconds: float, outside: float | None = 1.0, **stages: float) -> Measured:
    """A round of 2 MPix and 10 patches."""
    found: dict[Stage, Taken] = {name: Taken(value) for name, value in stages.items()}  # type: ignore[misc]
    return Measured(
        pixels=2_000_000, patches=10, seconds=seconds, processor=2 * seconds, outside=outside,
        times=Times(foreground=found, background={"read": Taken(0.5)}), peak=int(1e6 * seconds),
    )  # fmt: skip


def result(*rounds: Measured, opened: Opened = OPENED, bundle: str = "city.fctl", frames: int = 0) -> CaseResult:
    seconds = tuple(number / 1000 for number in range(1, frames + 1))
    return CaseResult(case=Case(bundle=bundle), opened=opened, rounds=rounds, frames=seconds)


def test_medians_and_how_far_rounds_lie_apart() -> None:
    found = result(measured(4, segment=3, encode=1), measured(2, segment=1), measured(10, segment=6, write=4))
    assert found.seconds == Spread(4, 2, 10)
    assert found.megapixels == Spread(0.5, 0.2, 1)
    assert found.patches == Spread(2.5, 1, 5)
    assert found.engine_share == Spread(0.6, 0.5, 1)
    assert found.outside == Spread(500, 500, 500)  # milliseconds for each megapixel
    assert found.peak == 10_000_000
    assert found.stages() == {"encode": Spread(0, 0, 1), "segment": Spread(3, 1, 6), "write": Spread(0, 0, 4)}
    assert found.stages(background=True) == {"read": Spread(0.5, 0.5, 0.5)}


def test_what_a_system_does_not_tell_is_left_out() -> None:
    found = result(replace(measured(1, outside=None, segment=1), peak=None))
    assert (found.outside, found.peak, found.latency()) == (None, None, {})
    speed = next(iter(tables(Comparison(image="image", frame=None, results=(found,), skipped=()))))
    assert speed.rows[0][-2:] == ("-", "-")


def test_percentiles_of_frames() -> None:
    found = result(measured(1), frames=101).latency()
    assert found == pytest.approx({50: 0.051, 90: 0.091, 99: 0.1})


def test_labels_say_what_differs() -> None:
    shared, large = replace(OPENED, contexts="shared"), replace(OPENED, batch=8)
    assert labelled([result()]) == ("", ("city, onnxruntime fp32, exact contexts, batch 4",))
    common, rest = labelled([result(), result(opened=shared), result(opened=large)])
    assert common == "city, onnxruntime fp32"
    assert rest == ("exact contexts, batch 4", "shared contexts, batch 4", "exact contexts, batch 8")


def test_bundles_of_one_name_are_told_apart() -> None:
    assert labelled([result(bundle="a/city.fctl"), result(bundle="b/city.fctl")])[1] == ("a/city.fctl", "b/city.fctl")


def test_a_table_for_each_question() -> None:
    results = (
        result(measured(4, segment=3, wait=1), frames=3),
        result(measured(2, segment=2), frames=3, opened=replace(OPENED, batch=1)),
    )
    speed, stages, latency = tables(Comparison(image="image.tif", frame=64, results=results, skipped=()))
    assert [row[0] for row in speed.rows] == ["batch 4", "batch 1"]
    assert [row[2] for row in speed.rows] == ["1.00", "0.50"]  # ratio to the first
    assert stages.header == ("case", "wait", "segment", "+read")
    assert stages.rows == (("batch 4", "1.00", "3.00", "0.50"), ("batch 1", "-", "2.00", "0.50"))
    assert latency.rows[0] == ("batch 4", "3", "2.0", "2.8", "3.0")
    assert all(len(row) == len(table.header) for table in (speed, stages, latency) for row in table.rows)


def test_every_combination_is_a_case() -> None:
    cases = plan_cases(
        ["a", "b"], backends=["openvino"], precisions=["fp32", "bf16"], contexts=["exact"], batches=[1, 8]
    )
    assert len(cases) == len(set(cases)) == 8
    assert cases[1].label == "a, openvino fp32, exact contexts, batch 8"
