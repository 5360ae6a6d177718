"""Experiments on the Dubai data set, run from the root of a checkout: python -m experiments.NAME."""
