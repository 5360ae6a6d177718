"""The former place of what is now in `fctl.runtime.evaluate`, for programs that were written against it."""

from __future__ import annotations

from .evaluate.evaluation import evaluate
from .evaluate.runs import plan_runs

__all__ = ["evaluate", "plan_runs"]
