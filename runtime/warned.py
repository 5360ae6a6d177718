"""What fctl warns of, kept for whoever tells it elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

PROGRAM = "fctl"
"""The logger that all of ours are below."""


@contextmanager
def kept_warnings() -> Iterator[list[str]]:
    """Keep what is warned of while the block runs.

    Yields:
        The messages so far, with arguments in backticks.
    """
    keeper = _Keeper(logging.WARNING)
    logger = logging.getLogger(PROGRAM)
    logger.addHandler(keeper)
    try:
        yield keeper.messages
    finally:
        logger.removeHandler(keeper)


class _Keeper(logging.Handler):
    """Takes what is logged."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one record."""
        self.messages.append(record.getMessage())
