"""Exit codes of every command: 0 done, and these."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

FAILED = 1
"""Some jobs failed, or there is no result."""
USAGE = 2
"""Usage or configuration."""
HELD_UP = 3
"""Work is held up by something that is wrong. Limits, budgets and backoff are not: work goes on by itself."""
EPILOG = (
    "Exit codes: 0 done, 1 some jobs failed, 2 usage or configuration, 3 work is held up by something that is wrong."
)


@contextmanager
def reporting_status() -> Iterator[None]:
    """For commands that report how things stand: a server that is away is what they report, with `HELD_UP`."""
    from trivet.cli.tables import print_error
    from trivet_tasks.errors import BrokerUnavailable, StoreUnavailable

    try:
        yield
    except (BrokerUnavailable, StoreUnavailable) as error:
        print_error(f"trivet: {error}")
        raise typer.Exit(HELD_UP) from None
