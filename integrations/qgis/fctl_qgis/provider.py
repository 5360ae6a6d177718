"""The Processing provider, and the setting that says where fctl is installed."""

from __future__ import annotations

from pathlib import Path

from processing.core.ProcessingConfig import ProcessingConfig, Setting
from qgis.core import QgsProcessingProvider
from qgis.PyQt.QtGui import QIcon

from .algorithms import ALGORITHMS, FOLDER_SETTING

_ICON = Path(__file__).with_name("icon.svg")


class Provider(QgsProcessingProvider):
    """The algorithms Segment, Export and Evaluate."""

    def id(self) -> str:
        """What identifiers of algorithms begin with."""
        return "fctl"

    def name(self) -> str:
        """What people read."""
        return "fctl"

    def longName(self) -> str:
        """What people read where there is room."""
        return "fctl: segmentation with context"

    def icon(self) -> QIcon:
        """The picture in the toolbox."""
        return QIcon(str(_ICON))

    def svgIconPath(self) -> str:
        """The same, for where QGIS draws it itself."""
        return str(_ICON)

    def load(self) -> bool:
        """Add the setting to QGIS's options, then the algorithms."""
        ProcessingConfig.settingIcons[self.name()] = self.icon()
        ProcessingConfig.addSetting(
            Setting(self.name(), FOLDER_SETTING, "Folder of fctl's programs (fctl-run)", "", valuetype=Setting.FOLDER)
        )
        ProcessingConfig.readSettings()
        self.refreshAlgorithms()
        return True

    def unload(self) -> None:
        """Take the setting away."""
        ProcessingConfig.removeSetting(FOLDER_SETTING)

    def loadAlgorithms(self) -> None:
        """Add the algorithms."""
        for algorithm in ALGORITHMS:
            self.addAlgorithm(algorithm())

    def supportedOutputRasterLayerExtensions(self) -> list[str]:
        """Masks are GeoTIFFs."""
        return ["tif"]

    def supportedOutputVectorLayerExtensions(self) -> list[str]:
        """What `fctl-run --vector` writes and every QGIS reads; the first is taken for temporary files."""
        return ["gpkg", "geojson", "fgb"]

    def supportsNonFileBasedOutput(self) -> bool:
        """A program writes files, no layers in QGIS's memory."""
        return False
