"""Waiting for a batch: progress while it runs, the reason if it does not, and its results as they come."""

import threading
from functools import partial
from shlex import quote
from typing import TYPE_CHECKING

from trivet.cli import output
from trivet.cli.output import print_error, print_warning
from trivet.cli.progress import Advance, Teller, bar, beside, telling

if TYPE_CHECKING:
    from trivet.admin import Progress
    from trivet.cli.results import ResultsFile
    from trivet.client.client import Client
    from trivet.client.jobs import Batch

SHOW_EVERY_S = 0.5
"""Seconds between two readings of a batch's progress."""


def wait_for(
    client: "Client",
    batch: "Batch",
    results: "ResultsFile | None" = None,
    *,
    timeout: float | None = None,
    command: str = "the same command",
) -> "Progress":
    """Wait for the end of the batch, show its progress, and write its results as they come.

    Args:
        timeout: maximum seconds; None waits as long as it takes.
        command: the command that goes on writing results after an interruption, in words.

    Raises:
        ResultTimeout: it has not ended by then.
    """
    progress = batch.progress()
    try:
        with (
            bar(batch.name, progress.total, progress.ended, unit="jobs") as advance,
            telling(client.settings, lambda admin: admin.batches.blocked(batch.name), told=batch.warnings) as teller,
            beside("trivet-progress", partial(_watch, batch, advance, teller)),
        ):
            if results is not None:
                _write(batch, results)
            return batch.wait(timeout)
    except KeyboardInterrupt:
        again = (
            f"run {command} again, and {results.path} appears when it is complete"
            if results
            else f"see `trivet batch wait {quote(batch.name)}`"
        )
        print_error(f"Interrupted. The jobs of {batch.name} go on: {again}.")
        raise


def _write(batch: "Batch", results: "ResultsFile") -> None:
    """Write every result except pruned ones: a line without text would be no result."""
    missing = 0
    for result in batch.results(with_request=results.with_request):
        if not result.pruned:
            results.write(result)
        elif result not in results:
            missing += 1
    if missing:
        print_warning(f"{missing:,} results were pruned and are not in {results.path}.")


def _watch(batch: "Batch", advance: Advance, teller: Teller, done: threading.Event) -> None:
    """Move the bar until told to stop, also while the database is away."""
    from trivet_tasks.errors import StoreError

    last = False
    while not last:
        last = done.wait(SHOW_EVERY_S)
        try:
            progress = batch.progress()
        except StoreError:
            continue
        failed = progress.failed + progress.expired + progress.cancelled
        note = f"{failed:,} failed, {output.usd_and_estimate(progress.cost_usd, progress.estimated_usd)}"
        advance(progress.ended, note, held=teller.held_by)
