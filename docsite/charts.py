"""Draws docs/contexts.svg from the first table of docs/contexts.md: `python -m docsite.charts`."""

from __future__ import annotations

from dataclasses import dataclass

from docsite.commands import ROOT

ALONE, CONTEXTS, INK, GRID = "#8a8f94", "#00796b", "#222222", "#dddddd"
LEFT, STEP, TOP, ROW = 370, 110, 70, 44  # where the scale begins, pixels a point, the first row, and between rows
FIRST, LAST = 69, 73  # the scale, in percent


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the table: scores in percent of every seed, without contexts and with all of them."""

    name: str
    alone: tuple[float, ...]
    contexts: tuple[float, ...]


def rows(page: str) -> list[Row]:
    """The rows of the first table of a page: what was trained, seeds, no context, all contexts, gain."""
    lines = [line for line in page.split("\n\n| ", 1)[1].split("\n\n", 1)[0].splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [Row(name=name, alone=_scores(alone), contexts=_scores(all_)) for name, _, alone, all_, _ in cells]


def _scores(cell: str) -> tuple[float, ...]:
    return tuple(float(score.strip(" *")) for score in cell.split(","))


def chart(found: list[Row]) -> str:
    """The chart: a dot for every training, without contexts and with them."""
    width, bottom = LEFT + STEP * (LAST - FIRST) + 40, TOP + ROW * len(found)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {bottom + 56}" '
        f'font-family="system-ui, sans-serif" font-size="15" fill="{INK}">',
        "<title>mIoU without contexts and with all of them, for every training</title>",
        f'<rect width="{width}" height="{bottom + 56}" rx="8" fill="#ffffff"/>',
        _dot(LEFT, 30, ALONE), f'<text x="{LEFT + 14}" y="35">no context</text>',
        _dot(LEFT + 130, 30, CONTEXTS), f'<text x="{LEFT + 144}" y="35">all contexts</text>',
        *(_line(score, bottom) for score in range(FIRST, LAST + 1)),
        f'<text x="{_x((FIRST + LAST) / 2):g}" y="{bottom + 42}" text-anchor="middle">'
        "mIoU, % (the scale does not begin at 0)</text>",
    ]  # fmt: skip
    for number, row in enumerate(found):
        y = TOP + ROW * number + ROW // 2 - 6
        parts += [f'<text x="{LEFT - 24}" y="{y + 5}" text-anchor="end">{row.name}</text>']
        parts += [
            _pair(alone, contexts, y + 12 * seed - 6 * (len(row.alone) - 1))
            for seed, (alone, contexts) in enumerate(zip(row.alone, row.contexts, strict=True))
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _x(score: float) -> float:
    return LEFT + STEP * (score - FIRST)


def _dot(x: float, y: float, colour: str) -> str:
    return f'<circle cx="{x:g}" cy="{y:g}" r="6" fill="{colour}"/>'


def _line(score: int, bottom: int) -> str:
    x = _x(score)
    label = f'<text x="{x:g}" y="{bottom + 20}" text-anchor="middle">{score}</text>'
    return f'<path d="M{x:g} {TOP - 16} V{bottom}" stroke="{GRID}"/>{label}'


def _pair(alone: float, contexts: float, y: float) -> str:
    line = f'<path d="M{_x(alone):g} {y:g} H{_x(contexts):g}" stroke="{CONTEXTS}" stroke-width="2"/>'
    return line + _dot(_x(alone), y, ALONE) + _dot(_x(contexts), y, CONTEXTS)


def drawn() -> str:
    """The chart of what the page says now."""
    return chart(rows((ROOT / "docs" / "contexts.md").read_text(encoding="utf-8")))


if __name__ == "__main__":
    (ROOT / "docs" / "contexts.svg").write_text(drawn(), encoding="utf-8")
