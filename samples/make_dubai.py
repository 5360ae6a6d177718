"""Cut the sample of `make demo` from the Dubai scenes: python samples/make_dubai.py DATA samples/dubai.tif."""

import sys
from pathlib import Path

import rasterio
from rasterio.transform import from_origin

from fctl.model.recipes.dubai import SAMPLE_SCENE, pixels_of, read_scene, sample_window

ROOT, OUT = Path(sys.argv[1]), Path(sys.argv[2])
pixels = read_scene(ROOT, SAMPLE_SCENE).pixels[pixels_of(sample_window(ROOT))]
height, width, _ = pixels.shape
profile = {
    "driver": "GTiff", "height": height, "width": width, "count": 3, "dtype": "uint8",
    "crs": "EPSG:32640", "transform": from_origin(316000, 2772000, 0.5, 0.5),  # invented: see samples/README.md
    "tiled": True, "blockxsize": 256, "blockysize": 256,
    "compress": "jpeg", "jpeg_quality": 90, "photometric": "ycbcr", "interleave": "pixel",
}  # fmt: skip
with rasterio.open(OUT, "w", **profile) as dataset:
    dataset.write(pixels.transpose(2, 0, 1))
