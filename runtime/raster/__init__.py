"""Rasters on disk: pixels and validity in, finished rows out. The only place that imports rasterio."""
