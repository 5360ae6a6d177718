"""fctl in QGIS's Processing toolbox. The modules `options`, `calls` and `pages` know nothing of QGIS."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .plugin import Plugin


def classFactory(iface: object) -> Plugin:
    """The plugin, as QGIS asks for it.

    Args:
        iface: QGIS's windows; None in `qgis_process`, which has none.
    """
    from .plugin import Plugin

    return Plugin()
