"""Widgets and values: what `options` says of an option, in QGIS's words."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from qgis.core import (
    QgsCoordinateReferenceSystem,
    QgsProcessing,
    QgsProcessingAlgorithm,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingParameterBoolean,
    QgsProcessingParameterDefinition,
    QgsProcessingParameterEnum,
    QgsProcessingParameterExtent,
    QgsProcessingParameterFeatureSource,
    QgsProcessingParameterField,
    QgsProcessingParameterFile,
    QgsProcessingParameterFileDestination,
    QgsProcessingParameterFolderDestination,
    QgsProcessingParameterNumber,
    QgsProcessingParameterRasterDestination,
    QgsProcessingParameterRasterLayer,
    QgsProcessingParameterString,
    QgsProcessingParameterVectorDestination,
)

from .options import Option

_POLYGON_FILES = ["gpkg", "geojson", "fgb", "shp", "kml"]  # which `fctl-run --aoi` reads


# Widgets


def parameter_of(option: Option) -> QgsProcessingParameterDefinition:
    """The widget of an option."""
    parameter = _WIDGETS[option.kind](option)
    if option.advanced:
        parameter.setFlags(parameter.flags() | QgsProcessingParameterDefinition.FlagAdvanced)
    return parameter


def _file(option: Option) -> QgsProcessingParameterFile:
    folder = option.kind != "file"
    behaviour = QgsProcessingParameterFile.Folder if folder else QgsProcessingParameterFile.File
    return QgsProcessingParameterFile(
        option.name, option.text, behavior=behaviour, defaultValue=option.default, optional=not option.needed
    )


def _text(option: Option) -> QgsProcessingParameterString:
    return QgsProcessingParameterString(option.name, option.text, defaultValue=option.default, optional=True)


def _number(option: Option) -> QgsProcessingParameterNumber:
    whole = option.kind == "count"
    kind = QgsProcessingParameterNumber.Integer if whole else QgsProcessingParameterNumber.Double
    return QgsProcessingParameterNumber(
        option.name, option.text, kind, defaultValue=option.default, optional=option.default is None, minValue=0
    )


def _choice(option: Option) -> QgsProcessingParameterEnum:
    several = option.kind == "choices"
    default = list(option.default) if isinstance(option.default, tuple) else option.default
    return QgsProcessingParameterEnum(
        option.name, option.text, list(option.choices), several, default, False, usesStaticStrings=True
    )


def _polygons(option: Option) -> QgsProcessingParameterFeatureSource:
    return QgsProcessingParameterFeatureSource(
        option.name, option.text, [QgsProcessing.TypeVectorPolygon], optional=True
    )


def _field(option: Option) -> QgsProcessingParameterField:
    return QgsProcessingParameterField(option.name, option.text, parentLayerParameterName=option.parent, optional=True)


def _raster(option: Option) -> QgsProcessingParameterRasterLayer:
    return QgsProcessingParameterRasterLayer(option.name, option.text)


def _extent(option: Option) -> QgsProcessingParameterExtent:
    return QgsProcessingParameterExtent(option.name, option.text, optional=True)


def _flag(option: Option) -> QgsProcessingParameterBoolean:
    return QgsProcessingParameterBoolean(option.name, option.text, defaultValue=bool(option.default))


def _mask(option: Option) -> QgsProcessingParameterRasterDestination:
    return QgsProcessingParameterRasterDestination(option.name, option.text)


def _vector(option: Option) -> QgsProcessingParameterVectorDestination:
    return QgsProcessingParameterVectorDestination(
        option.name, option.text, QgsProcessing.TypeVectorPolygon, optional=True, createByDefault=False
    )


def _table(option: Option) -> QgsProcessingParameterFileDestination:
    return QgsProcessingParameterFileDestination(
        option.name, option.text, "CSV (*.csv);;JSON (*.json)", optional=True, createByDefault=False
    )


def _new_folder(option: Option) -> QgsProcessingParameterFolderDestination:
    return QgsProcessingParameterFolderDestination(option.name, option.text)


_WIDGETS: Mapping[str, Callable[[Option], QgsProcessingParameterDefinition]] = {
    "raster": _raster, "polygons": _polygons, "field": _field, "extent": _extent, "bundle": _file, "folder": _file,
    "file": _file, "text": _text, "extra": _text, "choice": _choice, "choices": _choice, "flag": _flag,
    "number": _number, "count": _number, "mask": _mask, "vector": _vector, "table": _table, "new folder": _new_folder,
}  # fmt: skip


# Values


class Given:
    """What a user chose in a dialog, as plain values.

    Args:
        algorithm: The algorithm.
        parameters: What QGIS hands over.
        context: Where layers are found.
        feedback: Told where layers are converted.
    """

    def __init__(
        self,
        algorithm: QgsProcessingAlgorithm,
        parameters: Mapping[str, object],
        context: QgsProcessingContext,
        feedback: QgsProcessingFeedback,
    ) -> None:
        self._algorithm, self._parameters, self._context, self._feedback = algorithm, parameters, context, feedback

    def values(self, options: tuple[Option, ...]) -> dict[str, object]:
        """The values by name.

        Raises:
            QgsProcessingException: A layer is none that a program can read.
        """
        return {option.name: self._value(option, options) for option in options}

    def _value(self, option: Option, options: tuple[Option, ...]) -> object:
        """The value of one option; None where it was left alone."""
        algorithm, asked = self._algorithm, (self._parameters, option.name, self._context)
        if option.kind == "raster":
            return self._image(option.name)
        if option.kind == "extent":
            return self._box(option.name, next(other.name for other in options if other.kind == "raster"))
        if option.kind == "polygons":
            return self._polygons(option.name)
        if option.kind == "flag":
            return algorithm.parameterAsBool(*asked)
        if option.kind == "choice":
            return algorithm.parameterAsEnumString(*asked)
        if option.kind == "choices":
            return algorithm.parameterAsEnumStrings(*asked)
        if option.kind in ("number", "count"):
            return self._number(option)
        if option.kind in ("mask", "vector"):
            return algorithm.parameterAsOutputLayer(*asked)
        if option.kind in ("table", "new folder"):
            return algorithm.parameterAsFileOutput(*asked)
        if option.kind == "field":
            return ",".join(algorithm.parameterAsFields(*asked))
        return algorithm.parameterAsString(*asked)

    def _number(self, option: Option) -> object:
        asked = (self._parameters, option.name, self._context)
        if self._parameters.get(option.name, option.default) is None:
            return None
        whole = option.kind == "count"
        return self._algorithm.parameterAsInt(*asked) if whole else self._algorithm.parameterAsDouble(*asked)

    def _image(self, name: str) -> str:
        """The file of a raster layer."""
        layer = self._algorithm.parameterAsRasterLayer(self._parameters, name, self._context)
        if layer is None:
            raise QgsProcessingException(self._algorithm.invalidRasterError(self._parameters, name))
        if layer.providerType() != "gdal":
            raise QgsProcessingException(
                f"{layer.name()}: expected a raster in a file, found a layer of {layer.providerType()}; "
                "export it as GeoTIFF"
            )
        return str(layer.source())

    def _crs(self, image: str) -> QgsCoordinateReferenceSystem:
        return self._algorithm.parameterAsRasterLayer(self._parameters, image, self._context).crs()

    def _box(self, name: str, image: str) -> str | None:
        """An extent as numbers with commas, in the image's reference system."""
        if not self._parameters.get(name):
            return None
        box = self._algorithm.parameterAsExtent(self._parameters, name, self._context, self._crs(image))
        if box.isNull():
            return None
        return ",".join(map(repr, (box.xMinimum(), box.yMinimum(), box.xMaximum(), box.yMaximum())))

    def _polygons(self, name: str) -> str | None:
        """A file with the polygons, of selected features alone where that was asked."""
        if not self._parameters.get(name):
            return None
        return str(
            self._algorithm.parameterAsCompatibleSourceLayerPath(
                self._parameters, name, self._context, _POLYGON_FILES, "gpkg", self._feedback
            )
        )
