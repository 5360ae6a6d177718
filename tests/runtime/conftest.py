from __future__ import annotations

from collections.abc import Iterator

import pytest

from fctl.runtime import Segmenter

from . import tiny


@pytest.fixture(scope="session")
def segmenter() -> Iterator[Segmenter]:
    """Three bands of uint8, two contexts, three classes."""
    with Segmenter(tiny.TINY, backend="onnxruntime", batch=16) as segmenter:
        yield segmenter


@pytest.fixture(scope="session")
def plain() -> Iterator[Segmenter]:
    """Four bands of uint16, no contexts, two classes."""
    with Segmenter(tiny.TINY_PLAIN, backend="onnxruntime", batch=16) as segmenter:
        yield segmenter
