"""The table of docs/networks.md."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .case import Case


@dataclass
class Table:
    """What was measured: a row for each network, a column for each engine.

    Attributes:
        rows: Each network, and by engine the share of its pixels that are the package's.
    """

    rows: list[tuple[Case, dict[str, str]]] = field(default_factory=list)

    def add(self, case: Case, engines: dict[str, str]) -> None:
        """Add a network, with the share of equal pixels by engine."""
        self.rows.append((case, engines))

    def markdown(self) -> str:
        """The table."""
        engines = list(dict.fromkeys(name for _, cells in self.rows for name in cells))
        head = ["network", "package", "exporter", "bands", "tile", "classes, % of the pixels", "near ties", *engines]
        lines = [head, ["---"] * (len(head) + 1)]
        head.append("remark")
        for case, cells in self.rows:
            card, (side, _, bands) = case.card, case.tile.shape
            shares = np.bincount(case.mask.ravel(), minlength=len(case.scores)) / case.mask.size
            lines.append([
                card.network, card.package, card.exporter, f"{bands} {case.tile.dtype}", str(side),
                ", ".join(f"{100 * share:.0f}" for share in shares), str(case.near_ties().sum()),
                *(cells.get(name, "-") for name in engines), card.remark,
            ])  # fmt: skip
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)
