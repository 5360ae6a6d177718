"""Checks the plugin in Debian's QGIS without windows: /usr/bin/python3 check.py PLUGINS IMAGE OUT. See test.sh."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from qgis.core import (
    QgsApplication,
    QgsPalettedRasterRenderer,
    QgsProcessingContext,
    QgsProcessingFeedback,
    QgsProject,
    QgsRasterLayer,
    QgsSettings,
)

PLUGINS, IMAGE, OUT = sys.argv[1:]
QgsApplication.setPrefixPath("/usr", True)
application = QgsApplication([], False)
application.initQgis()
sys.path[:0] = [str(Path(QgsApplication.pkgDataPath()) / "python" / "plugins"), PLUGINS]

import processing  # noqa: E402
from fctl_qgis.algorithms import FOLDER_SETTING, Segment  # noqa: E402
from fctl_qgis.provider import Provider  # noqa: E402
from processing.core.Processing import Processing  # noqa: E402
from processing.core.ProcessingConfig import ProcessingConfig  # noqa: E402

NAMES = ["building", "land", "road", "vegetation", "water"]


class Impatient(QgsProcessingFeedback):
    """Cancels at the first sign of progress."""

    def __init__(self) -> None:
        super().__init__()
        self.progressChanged.connect(lambda percent: self.cancel() if percent > 0 else None)


def check_folder_setting() -> None:
    """The folder of the programs is a setting, which the environment overrules."""
    folder = os.environ.pop("FCTL_BIN")
    assert ProcessingConfig.getSetting(FOLDER_SETTING) == "", "a new profile names a folder"
    ProcessingConfig.setSettingValue(FOLDER_SETTING, folder)
    assert QgsSettings().value(f"Processing/Configuration/{FOLDER_SETTING}") == folder
    assert Segment().canExecute() == (True, "")
    os.environ["FCTL_BIN"] = "/nowhere"
    able, why = Segment().canExecute()
    assert not able and why.startswith("/nowhere has no fctl-run"), why
    del os.environ["FCTL_BIN"]  # from here on, the setting counts
    print("setting: kept in QgsSettings, found by the algorithms")


def legend(layer: QgsRasterLayer) -> list[tuple[str, str]]:
    """Names and colours that QGIS shows."""
    renderer = layer.renderer()
    assert isinstance(renderer, QgsPalettedRasterRenderer), renderer
    return [(entry.label, entry.color.name()) for entry in renderer.classes()]


def check_layers() -> None:
    """A run from the toolbox loads the mask in its colours, and confidence beside it."""
    processing.runAndLoadResults(
        "fctl:segment", {"INPUT": IMAGE, "MASK": f"{OUT}/loaded.tif", "CONFIDENCE": True, "PRECISION": "fp32"}
    )
    layers = {layer.name(): layer for layer in QgsProject.instance().mapLayers().values()}
    assert set(layers) == {"Mask", "Confidence"}, set(layers)
    found = legend(layers["Mask"])
    assert found == legend(QgsRasterLayer(f"{OUT}/mask.tif")), "dragged into QGIS, the mask looks different"
    assert [name for name, _ in found] == NAMES, found
    print("loaded:", ", ".join(f"{name} {colour}" for name, colour in found))


def check_cancelling() -> None:
    """A run that is cancelled ends soon, and what was finished can be gone on with."""
    mask = Path(OUT) / "cancelled.tif"
    asked = {"INPUT": IMAGE, "MASK": str(mask), "TTA": True}
    feedback, began = Impatient(), time.monotonic()
    algorithm = QgsApplication.processingRegistry().algorithmById("fctl:segment").create()
    results, _ = algorithm.run(asked, QgsProcessingContext(), feedback)
    assert feedback.isCanceled() and results == {}, results
    assert not mask.exists()
    print(f"cancelled: the program ended {time.monotonic() - began:.0f} s after it began; no mask was left")


Processing.initialize()
provider = Provider()
QgsApplication.processingRegistry().addProvider(provider)
check_folder_setting()
check_layers()
check_cancelling()
QgsApplication.processingRegistry().removeProvider(provider)
application.exitQgis()
