"""Segmentation that stays in the memory of a GPU between the raster and the finished rows."""
