"""The files of a training that grow: losses, scores, their curve, and the state to go on from."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fctl.runtime.atomic import atomic_write
from fctl.runtime.errors import InputError
from fctl.runtime.evaluate.metrics import Confusion

from .curve import draw_curve
from .settings import FINISH

STATE, LOG = "state.pt", "log.csv"
_SCORES, _CURVE = "validation.csv", "curve.png"
_LOG_HEADER = ["step", "stage", "epoch", "loss", "rate", "seconds"]


@dataclass(frozen=True, kw_only=True)
class Best:
    """The best validation of the whole network.

    Attributes:
        stage: Name of the stage.
        epoch: Number of the stage's epoch, from 1.
        miou: Mean IoU over the classes that count, NaN where none occurs.
        iou: IoU of every class, NaN where the class does not occur.
    """

    stage: str
    epoch: int
    miou: float
    iou: tuple[float, ...]


class Records:
    """The records of a training. As a context manager it keeps the log open.

    Args:
        out: The training's folder.
        class_names: Names of the classes.
        saved: The state to go on from (`save_state`), or None. Rows of later steps are taken out of the files.

    Attributes:
        best: The best validation so far.

    Raises:
        InputError: There is a state, but not the logs that belong to it.
        OutputError: The folder cannot be written.
    """

    def __init__(self, out: Path, class_names: Sequence[str], saved: dict[str, Any] | None) -> None:
        self.best = Best(**saved["best"]) if saved and saved["best"] else None
        self._out = out
        self._started = time.monotonic() - (saved["seconds"] if saved else 0.0)
        self._steps: int = saved["steps"] if saved else 0
        for unfinished in out.glob(".*.part.*"):  # of a training that was killed
            unfinished.unlink()
        scores = ["step", "stage", "epoch", "miou", "accuracy", *(f"iou {name}" for name in class_names)]
        self._losses = _start_table(out / LOG, _LOG_HEADER, self._steps)
        self._scores = _start_table(out / _SCORES, scores, self._steps)

    def __enter__(self) -> Records:
        self._file = (self._out / LOG).open("a", buffering=1, newline="", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add_loss(self, stage: str, epoch: int, loss: float, rate: float) -> None:
        """Record one step.

        Args:
            stage: Name of the stage.
            epoch: Number of the stage's epoch, from 1.
            loss: The loss.
            rate: The learning rate of new layers.
        """
        self._steps += 1
        row = [str(self._steps), stage, str(epoch), repr(loss), f"{rate:.6g}", f"{self._seconds:.1f}"]
        self._losses.append(row)
        csv.writer(self._file).writerow(row)

    def add_score(self, stage: str, epoch: int, miou: float, confusion: Confusion) -> None:
        """Record one validation.

        Args:
            stage: Name of the stage.
            epoch: Number of the stage's epoch, from 1.
            miou: Mean IoU over the classes that count.
            confusion: Pooled over the validation images.
        """
        values = (miou, confusion.accuracy(), *confusion.iou())
        row = [str(self._steps), stage, str(epoch), *(f"{value:.6f}" for value in values)]
        self._scores.append(row)
        with (self._out / _SCORES).open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(row)

    def improves(self, miou: float) -> bool:
        """Whether a validation of the whole network is better than the best so far; NaN is worst."""
        return self.best is None or _comparable(miou) > _comparable(self.best.miou)

    def mean_loss(self, stage: str, epoch: int) -> float:
        """The mean loss over the steps of one epoch of a stage."""
        return float(np.mean([float(row[3]) for row in self._losses if row[1:3] == [stage, str(epoch)]]))

    def save_state(self, state: dict[str, Any]) -> None:
        """Save what a resumed training needs, and draw the curve up to here.

        Args:
            state: Tensors and plain values. The records' own state is added to it.
        """
        best = None if self.best is None else vars(self.best)
        with atomic_write(self._out / STATE) as temporary:
            torch.save(state | {"steps": self._steps, "seconds": self._seconds, "best": best}, temporary)
        losses = [(float(row[0]), float(row[3])) for row in self._losses]
        scores = [(float(row[0]), float(row[3])) for row in self._scores]
        ends = [int(a[0]) for a, b in zip(self._losses, self._losses[1:], strict=False) if a[1] != b[1]]
        with atomic_write(self._out / _CURVE) as temporary:
            draw_curve(self._out.resolve().name, losses, scores, ends).save(temporary)

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._started


def _comparable(miou: float) -> float:
    """A score by which validations can be compared."""
    return miou if math.isfinite(miou) else -1.0


def _start_table(path: Path, header: list[str], steps: int) -> list[list[str]]:
    """Cut a file to its rows up to a step, under a new header, and return these rows."""
    rows: list[list[str]] = []
    if steps:
        try:
            with path.open(newline="", encoding="utf-8") as file:
                complete = [row for row in list(csv.reader(file))[1:] if len(row) == len(header)]
                rows = [row for row in complete if int(row[0]) <= steps and row[1] != FINISH]
        except (OSError, ValueError) as error:
            raise InputError(
                subject=path, expected="the log of the training to resume", found=f"none ({error})"
            ) from None
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return rows
