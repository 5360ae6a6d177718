"""Checks the plugin in Debian's QGIS without windows: /usr/bin/python3 check.py PLUGINS IMAGE OUT. See test.sh."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from qgis.core import (
    QgsApplication,
    QgsCoordinateReferenceSystem,
    QgsCoordinateTransform,
    QgsFeature,
    QgsGeometry,
    QgsPalettedRasterRenderer,
    QgsProcessingContext,
    QgsProcessingFeatureSourceDefinition,
    QgsProcessingFeedback,
    QgsProject,
    QgsRasterLayer,
    QgsRectangle,
    QgsSettings,
    QgsVectorLayer,
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
        self.cancelled = 0.0
        self.progressChanged.connect(self._end)

    def _end(self, percent: float) -> None:
        if percent > 0 and not self.isCanceled():
            self.cancelled = time.monotonic()
            self.cancel()


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


def check_area() -> None:
    """Of a layer in memory, in another reference system, the selected polygon alone is segmented; or an extent."""
    fields = QgsVectorLayer("Polygon?crs=EPSG:4326&field=name:string", "fields", "memory")
    to_degrees = QgsCoordinateTransform(
        QgsCoordinateReferenceSystem("EPSG:32640"), fields.crs(), QgsProject.instance().transformContext()
    )
    for name, box in (("park", QgsRectangle(316100, 2771700, 316300, 2771900)), ("sea", QgsRectangle(0, 0, 1, 1))):
        feature = QgsFeature(fields.fields())
        shape = QgsGeometry.fromRect(box)
        shape.transform(to_degrees)
        feature.setGeometry(shape)
        feature["name"] = name
        fields.dataProvider().addFeature(feature)
    QgsProject.instance().addMapLayer(fields)
    fields.selectByExpression("name = 'park'")
    asked = {"INPUT": IMAGE, "AOI": QgsProcessingFeatureSourceDefinition(fields.id(), True), "AOI_NAME": "name"}
    found = processing.run("fctl:segment", {**asked, "MASK": "TEMPORARY_OUTPUT", "STATS": f"{OUT}/area.csv"})
    mask = QgsRasterLayer(found["MASK"])
    park = QgsRectangle(316100, 2771700, 316300, 2771900)
    assert mask.extent().buffered(1).contains(park) and park.buffered(2).contains(mask.extent()), mask.extent()
    assert ",park," in Path(f"{OUT}/area.csv").read_text()
    extent = "316100,316200,2771500,2771700 [EPSG:32640]"
    found = processing.run("fctl:segment", {"INPUT": IMAGE, "EXTENT": extent, "MASK": "TEMPORARY_OUTPUT"})
    box = QgsRasterLayer(found["MASK"]).extent()
    assert box == QgsRectangle(316100, 2771500, 316200, 2771700), box
    print("area: selected polygons of a layer in memory, and an extent")


def check_cancelling() -> None:
    """A run that is cancelled ends soon, and what was finished can be gone on with."""
    mask = Path(OUT) / "cancelled.tif"
    asked = {"INPUT": IMAGE, "MASK": str(mask), "TTA": True}
    feedback = Impatient()
    algorithm = QgsApplication.processingRegistry().algorithmById("fctl:segment").create()
    results, _ = algorithm.run(asked, QgsProcessingContext(), feedback)
    assert feedback.isCanceled() and results == {}, results
    took = time.monotonic() - feedback.cancelled
    assert not mask.exists()
    print(f"cancelled: the program ended {took:.1f} s later; no mask was left")


Processing.initialize()
provider = Provider()
QgsApplication.processingRegistry().addProvider(provider)
check_folder_setting()
check_layers()
check_area()
check_cancelling()
QgsApplication.processingRegistry().removeProvider(provider)
application.exitQgis()
