"""Cut the sample of `make demo` from the Dubai scenes: python samples/make_dubai.py DATA samples/dubai.tif."""

import sys
from pathlib import Path

import numpy as np
import rasterio
from PIL import Image
from rasterio.transform import from_origin

ROWS = 2000  # part 7 of scene 8, and what lies above it in part 4
PARTS, OUT = Path(sys.argv[1]) / "tile8" / "images", Path(sys.argv[2])
above, below = (np.asarray(Image.open(PARTS / f"image_part_{part:03d}.jpg").convert("RGB")) for part in (4, 7))
height, width = (min(sides) for sides in zip(above.shape[:2], below.shape[:2], strict=True))  # they may differ by 1
pixels = np.concatenate([above[:height, :width], below[:height, :width]])[-ROWS:]
profile = {
    "driver": "GTiff", "height": ROWS, "width": width, "count": 3, "dtype": "uint8",
    "crs": "EPSG:32640", "transform": from_origin(316000, 2772000, 0.5, 0.5),  # invented: see samples/README.md
    "tiled": True, "blockxsize": 256, "blockysize": 256,
    "compress": "jpeg", "jpeg_quality": 90, "photometric": "ycbcr", "interleave": "pixel",
}  # fmt: skip
with rasterio.open(OUT, "w", **profile) as dataset:
    dataset.write(pixels.transpose(2, 0, 1))
