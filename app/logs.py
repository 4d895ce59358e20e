"""Structured logs: one line an event, JSON or text, on standard error."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import structlog

from app.config import Settings


def configure_logging(settings: Settings) -> None:
    """Send the service's and the libraries' log lines through one formatter to standard error."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level_number),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(settings.log_level_number, 30), force=True)


@contextmanager
def surviving(part: str) -> Iterator[None]:
    """Log what the block raises, and go on.

    It is for what runs once a write is committed (counting, logging, headers): the answer is true
    then, and no failure there may replace it. Even the log itself may fail, when its disk is full.
    """
    try:
        yield
    except Exception as error:
        with suppress(Exception):
            structlog.get_logger("agenthub").error("survived", part=part, exc_info=error)
