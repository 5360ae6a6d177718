"""Virtual rasters (.vrt): XML that says which parts of which files make up a raster.

GDAL opens the files that a VRT names with any of its drivers, and some elements name files that are no rasters at all.
So only elements and attributes that are listed here pass, and only one spelling of each: GDAL reads XML more leniently
than Python does, and takes an attribute for an element of that name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from ..errors import RasterError
from .access import TRUST, Access, check_limit

_MOST_BYTES = 64 << 20  # of a .vrt
_HEAD = 1024  # bytes in which GDAL looks for the root element
_FILES = ("SourceFilename", "SourceDataset")
_ELEMENTS = frozenset(
    re.findall(
        r"\w+",
        """
    VRTDataset SRS GeoTransform GCPList GCP Metadata MDI VRTRasterBand NoDataValue HideNoDataValue ColorInterp
    ColorTable Entry CategoryNames Category Description UnitType Offset Scale Histograms HistItem HistMin HistMax
    BucketCount IncludeOutOfRange Approximate HistCounts MaskBand Overview OverviewList
    SimpleSource ComplexSource AveragedSource KernelFilteredSource NoDataFromMaskSource SourceFilename SourceBand
    SourceProperties SrcRect DstRect NODATA UseMaskBand ScaleOffset ScaleRatio Exponent SrcMin SrcMax DstMin DstMax
    Clamp LUT ColorTableComponent Kernel Size Coefs MaskValueThreshold RemappedValue
    PixelFunctionType PixelFunctionArguments SourceTransferType
    BlockXSize BlockYSize GDALWarpOptions WarpMemoryLimit ResampleAlg WorkingDataType Options Option SourceDataset
    Transformer ApproxTransformer MaxError BaseTransformer GenImgProjTransformer SrcGeoTransform SrcInvGeoTransform
    DstGeoTransform DstInvGeoTransform ReprojectTransformer ReprojectionTransformer SourceCRS TargetCRS SourceSRS
    TargetSRS BandList BandMapping SrcNoDataReal SrcNoDataImag DstNoDataReal DstNoDataImag SrcAlphaBand DstAlphaBand
    """,
    )
)
_ATTRIBUTES = frozenset(
    re.findall(
        r"\w+",
        """
    rasterXSize rasterYSize subClass dataType band blockXSize blockYSize relativeToVRT shared xOff yOff xSize ySize
    RasterXSize RasterYSize DataType BlockXSize BlockYSize resampling key domain format dataAxisToSRSAxisMapping
    coordinateEpoch Id Info Pixel Line X Y Z Projection c1 c2 c3 c4 name normalized src dst buf
    """,
    )
)
_CLASSES = {None, "VRTWarpedDataset", "VRTSourcedRasterBand", "VRTWarpedRasterBand", "VRTDerivedRasterBand"}
_CRS = re.compile(
    r"\s*(EPSG|ESRI|OGC|IAU_\d+):[\w:.]+\s*|\s*[A-Z][A-Z0-9_]*\[.*|\s*\+(?!.*(init|grids)=).*|\s*", re.DOTALL
)
_OPTIONS = (
    "UNIFIED_SRC_NODATA", "INIT_DEST", "ERROR_OUT_IF_EMPTY_SOURCE_WINDOW", "NUM_THREADS", "SAMPLE_GRID", "SAMPLE_STEPS",
    "SOURCE_EXTRA", "OPTIMIZE_SIZE", "SKIP_NOSOURCE", "AREA_OF_INTEREST",
)  # fmt: skip
_CRS_ELEMENTS = ("SRS", "SourceCRS", "TargetCRS", "SourceSRS", "TargetSRS")


def is_virtual(path: Path) -> bool:
    """Whether GDAL would take a file for a VRT: its text names the root element early.

    Args:
        path: The file.

    Returns:
        Whether it is one.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return b"<vrtdataset" in file.read(_HEAD).split(b"\0")[0].lower()


def sources_of(path: Path, access: Access) -> list[Path]:
    """The files that a VRT names, once its text has nothing in it but rasters made of parts of files.

    Args:
        path: The VRT.
        access: The limits: `max_bands` is held against it.

    Returns:
        The files, each once, as paths that need not exist.

    Raises:
        RasterError: It is no VRT, or names what is no file of this machine.
        OSError: It cannot be read.
    """
    root = _parsed(path)
    if root.tag != "VRTDataset":
        raise _refused(path, f"the element {root.tag}")
    check_limit(path, "max_bands", access.max_bands, sum(child.tag == "VRTRasterBand" for child in root), "bands")
    for element in root.iter():
        _check_element(path, element)
    return list(dict.fromkeys(_named(path, element) for element in root.iter() if element.tag in _FILES))


def existing_sources(path: Path) -> Iterator[Path]:
    """The files on this machine that a VRT names, whatever else it holds; none where it is no VRT.

    Args:
        path: The file.

    Yields:
        Files that exist, each once.
    """
    try:
        root = _parsed(path) if is_virtual(path) else None
    except (OSError, RasterError):
        return
    elements = [] if root is None else [element for element in root.iter() if element.tag in _FILES]
    for source in dict.fromkeys(_joined(path, element) for element in elements):
        try:
            found = source.is_file()
        except (OSError, ValueError):
            found = False
        if found:
            yield source


def _parsed(path: Path) -> ElementTree.Element:
    """The root of a VRT; documents with declarations, comments or CDATA are refused, which GDAL never writes."""
    with path.open("rb") as file:
        text = file.read(_MOST_BYTES + 1)
    if len(text) > _MOST_BYTES:
        raise RasterError(subject=path, expected=f"a VRT of at most {_MOST_BYTES} bytes", found="more")
    if b"<!" in text or text.count(b"<?") != text.startswith(b"<?xml") or b"\0" in text:
        raise _refused(path, "a declaration, a comment or CDATA")
    try:
        return ElementTree.fromstring(text.decode("utf-8-sig"))
    except (ElementTree.ParseError, UnicodeError, ValueError, RecursionError) as error:
        raise RasterError(subject=path, expected="an image that GDAL reads", found=f"damaged XML ({error})") from error


def _check_element(path: Path, element: ElementTree.Element) -> None:
    """Raise RasterError for an element or attribute that is not listed, a raw band, or a function in Python."""
    if element.tag not in _ELEMENTS:
        raise _refused(path, f"the element {element.tag}")
    odd = sorted(set(element.attrib) - _ATTRIBUTES) if element.tag != "PixelFunctionArguments" else []
    if odd:
        raise _refused(path, f"the attribute {odd[0]}")
    if element.get("subClass") not in _CLASSES:
        raise _refused(path, element.get("subClass", ""))
    if element.get("relativeToVRT", "0") not in ("0", "1"):
        raise _refused(path, f"relativeToVRT={element.get('relativeToVRT')}")
    option = {element.get("name"), element.get("key")} - {None, *_OPTIONS} if element.tag == "Option" else None
    if option:
        raise _refused(path, f"the option {option.pop()}")
    if element.tag == "PixelFunctionType" and not re.fullmatch(r"\w+", element.text or ""):
        raise _refused(path, f"the function {element.text}")
    if element.tag in _CRS_ELEMENTS and not _CRS.fullmatch(element.text or ""):
        raise _refused(path, f"the coordinate reference system {element.text}")


def _named(path: Path, element: ElementTree.Element) -> Path:
    """The file that an element names; RasterError for anything that is no plain path."""
    name = element.text or ""
    bare = name[2:] if os.name == "nt" and re.match(r"[A-Za-z]:", name) else name
    is_plain = bare == bare.strip() and bare.isprintable() and not re.search(r"[:<>]|^[\\/]+vsi", bare, re.IGNORECASE)
    if not bare or len(element) or not is_plain:
        raise _refused(path, f"the source {name!r}")
    return _joined(path, element)


def _joined(path: Path, element: ElementTree.Element) -> Path:
    """The file that an element names, which may lie beside the VRT: GDAL looks where a link to the VRT points."""
    name = element.text or ""
    return path.resolve().parent / name if element.get("relativeToVRT") == "1" else Path(name)


def _refused(path: Path, found: str) -> RasterError:
    return RasterError(subject=path, expected="a VRT of plain files in its own folder", found=found, remedy=TRUST)
