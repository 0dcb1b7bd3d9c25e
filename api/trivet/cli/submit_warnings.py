"""Warnings about submitted jobs: printed by the command, once, and not logged."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from trivet.cli.output import print_warning


@contextmanager
def printed_instead_of_logged() -> Iterator[None]:
    """Keep the warnings of jobs, which the command prints, out of the log."""
    loggers = [logging.getLogger(name) for name in ("trivet.unattended", "trivet.requests")]
    for logger in loggers:
        logger.disabled = True
    try:
        yield
    finally:
        for logger in loggers:
            logger.disabled = False


def print_warnings(warnings: tuple[str, ...]) -> None:
    """Print the warnings of a job or a batch."""
    for warning in warnings:
        print_warning(warning)
