"""Bundles scored on labelled images: data sets, metrics, reports and pictures."""

from __future__ import annotations

from .datasets import open_dataset
from .evaluation import evaluate
from .runs import plan_runs
from .selection import select

__all__ = ["evaluate", "open_dataset", "plan_runs", "select"]
