"""Integers and arrays: windows, the grid of tiles, context geometry, resampling, turns and merging."""
