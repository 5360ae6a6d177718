"""Every error that fctl raises on purpose: one tree, each also the builtin that fits.

A message says what was expected, what was found and what to do, in one line.
"""

from __future__ import annotations


class FctlError(Exception):
    """Base of all of them; the command lines print its message and exit with 1."""


class BundleError(FctlError, ValueError):
    """A bundle that is missing, damaged or not understood."""


class RasterError(FctlError, OSError):
    """A raster that cannot be read, or does not fit the bundle."""


class OutputError(FctlError, OSError):
    """An output that exists already or cannot be written."""


class EngineError(FctlError, RuntimeError):
    """An inference engine that is not installed, or cannot do what was asked."""


class DeviceMemoryError(EngineError, MemoryError):
    """The GPU's memory is too small for what was asked."""


class InputError(FctlError, ValueError):
    """An argument that does not fit."""


class CheckpointError(FctlError, ValueError):
    """A checkpoint that cannot be read, or belongs to another network."""


class ParityError(FctlError, ArithmeticError):
    """An export whose numbers do not agree with the network's."""
