"""From a raster to its mask: networks on the host and on a GPU, the pipeline, and `Segmenter`."""
