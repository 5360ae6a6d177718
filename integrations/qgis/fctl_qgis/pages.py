"""What `fctl-eval` found, for QGIS: the score of the first run, and a page with tables and pictures."""

from __future__ import annotations

import html
import json
from pathlib import Path


def miou_in(folder: Path) -> float | None:
    """The mean IoU of a report's first run, in percent; None where it has none."""
    miou = json.loads((folder / "report.json").read_text(encoding="utf-8"))["runs"][0]["miou"]
    return None if miou is None else 100 * float(miou)


def page_of(lines: list[str], folder: Path) -> str:
    """A page in HTML.

    Args:
        lines: The tables, as `fctl-eval` prints them.
        folder: The report, whose pictures are shown below them.
    """
    pictures = "".join(f'<p><img src="{path.as_uri()}"></p>' for path in sorted(folder.resolve().rglob("*.png")))
    return f'<html><meta charset="utf-8"><pre>{html.escape(chr(10).join(lines))}</pre>{pictures}</html>'
