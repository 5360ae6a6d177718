"""The tables of docs/adaptive.md, made of docs/adaptive.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Figures = Mapping[str, Any]

_SHOWN = {"none": "no context", "medium": "the medium alone", "large": "the large alone"}


def tables(figures: Figures) -> str:
    """All tables.

    Args:
        figures: What docs/adaptive.json holds.

    Returns:
        Markdown.
    """
    parts = []
    for name, found in figures["networks"].items():
        parts += [f"## {name}", _risk(found), _merged(found), _bounds(found), _elsewhere(found)]
    parts += ["## gains", _parts(figures["gains"]), _gains(figures["gains"]), _identical(figures["identical windows"])]
    return "\n\n".join(parts)


def _risk(found: Figures) -> str:
    rows = [
        [_SHOWN[shown], _percent(found[shown]["changed"]), score]
        + [_percent(found[shown]["risk by coverage"][score][step]) for step in (2, 4, 6, 8)]
        + [_percent(found[shown]["coverage at the limit"][score], 0)]
        for shown in _SHOWN
        for score in ("margin", "best", "sure")
    ]
    rows += [
        [
            _SHOWN[shown],
            "",
            "clairvoyant",
            "",
            "",
            "",
            "",
            _percent(found[shown]["coverage at the limit"]["clairvoyant"], 0),
        ]
        for shown in _SHOWN
    ]
    return _table(["shown", "changed", "score", "20 %", "40 %", "60 %", "80 %", "coverage at the limit"], rows)


def _merged(found: Figures) -> str:
    rows = [[name, _percent(row["changed"], 2), f"{100 * row['miou']:.2f}"] for name, row in found["merged"].items()]
    return _table(["masks", "changed", "mIoU"], rows)


def _bounds(found: Figures) -> str:
    rows = []
    for shown in ("none", "medium"):
        for name, row in found[shown]["bounds"].items():
            threshold = "-" if row["threshold"] is None else f"{row['threshold']:.3f}"
            rows.append([_SHOWN[shown], name, threshold, _percent(row["coverage"], 0), _percent(row["risk"], 2)])
        again = found[shown]["repeated"]
        rows.append(
            [
                _SHOWN[shown],
                f"repeated: broken {_percent(again['broken'], 1)}",
                "",
                _percent(again["coverage"], 0),
                _percent(again["risk"], 2),
            ]
        )
    return _table(["shown", "bound", "threshold", "coverage", "risk"], rows)


def _elsewhere(found: Figures) -> str:
    rows = []
    for shown in ("none", "medium"):
        places = {"the other half": found[shown]["other half"]}
        places |= {f"scene {number}": row for number, row in found[shown]["scene left out"].items()}
        if found["trained on"]:
            places["scene 4, trained on"] = found["trained on"][shown]
        rows += [
            [_SHOWN[shown], place, str(row["tiles"]), _percent(row["coverage"], 0), _percent(row["risk"], 2)]
            for place, row in places.items()
        ]
    return _table(["shown", "checked on", "tiles", "coverage", "risk"], rows)


def _parts(gains: Figures) -> str:
    names = ("default", "fctl-vgg16")
    rows = [[name, *(_percent(value, 1) for value in gains[name]["parts"].values())] for name in names]
    return _table(["network", *gains["default"]["parts"]], rows)


def _gains(gains: Figures) -> str:
    rows = []
    for name in ("default", "fctl-vgg16"):
        for shown in ("none", "medium"):
            rows += [[name, _SHOWN[shown], *(_percent(row[key], 1) for key in row)] for row in gains[name][shown][2::2]]
        best = gains[name]["clairvoyant"]
        shares = ", ".join(f"{shown} {_percent(share, 0)}" for shown, share in best["shown"].items())
        most = _percent(best["gain, windows in proportion"], 1)
        rows.append(
            [
                name,
                f"clairvoyant: {shares}",
                "",
                f"{_percent(best['gain'], 1)}, at most {most}",
                "",
                _percent(best["windows"], 1),
            ]
        )
    return _table(["network", "shown", "coverage", "gain", "looked at first", "windows"], rows)


def _identical(rows: Sequence[Figures]) -> str:
    return _table(list(rows[0]), [[str(value) for value in row.values()] for row in rows]) if rows else ""


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (titles, *rows)]
    return "\n".join([lines[0], f"|{'---|' * len(titles)}", *lines[1:]])


def _percent(value: float, digits: int = 2) -> str:
    return f"{100 * value:.{digits}f} %"
