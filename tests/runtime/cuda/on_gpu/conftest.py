from __future__ import annotations

import gc

import pytest


@pytest.fixture(autouse=True)
def nothing_of_others() -> None:
    """What earlier tests left in circles is freed: errors that were caught keep frames, and these hold memory."""
    gc.collect()
