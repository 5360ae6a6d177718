"""Bundles scored on labelled images: data sets, metrics, reports and pictures."""
