"""A backlog of waiting jobs, put into a database through the store's own insert, in large groups."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from load import MAX_TOKENS, MODEL, messages
from sqlalchemy import text

from trivet_store.database.engine import Store
from trivet_store.jobs import batches
from trivet_store.jobs.enqueue import BatchRef, insert
from trivet_tasks.config.settings import Settings
from trivet_tasks.jobs import JobSpec
from trivet_tasks.latency import DEFAULTS
from trivet_tasks.requests.reading import parse_request

GROUP = 2_000
"""Jobs of one transaction, few enough that no other process waits long for the lock."""
BATCHES = 10
"""Number of batches in the backlog, each a flow of its own."""

_RECALL = text("UPDATE jobs SET state = 'waiting', route = NULL, dispatched_until = NULL WHERE state = 'dispatched'")
"""Messages that a stopped Trivet left in its queues; a scheduler would find them after 15 seconds."""
_HOLD = text("UPDATE flows SET held = :held WHERE batch_id IS NOT NULL")


def specs(settings: Settings, first: int, count: int) -> Iterator[JobSpec]:
    """Requests as a client makes them. A thousand are validated, the rest are copies of theirs: bodies differ no more."""
    request = {"model": MODEL, "max_tokens": MAX_TOKENS}
    made = [
        parse_request({**request, "messages": messages(number)}, settings=settings, now=0.0)
        for number in range(min(1_000, count))
    ]
    return (made[number % len(made)] for number in range(first, first + count))


def waiting(store: Store) -> int:
    """Jobs that wait."""
    with store.read() as connection:
        return int(connection.execute(text("SELECT count(*) FROM jobs WHERE state = 'waiting'")).scalar_one())


@contextmanager
def held(store: Store) -> Iterator[Callable[[], None]]:
    """Nothing of the backlog is dispatched until what is handed out is called, or the block ends."""

    def hold(now: bool) -> None:
        with store.write() as connection:
            connection.execute(_HOLD, {"held": now})

    hold(True)
    try:
        yield lambda: hold(False)
    finally:
        hold(False)


def fill(store: Store, settings: Settings, wanted: int) -> int:
    """Top the backlog up to so many waiting jobs; returns how many were inserted."""
    with store.write() as connection:
        connection.execute(_RECALL)
    missing = wanted - waiting(store)
    each = -(-max(0, missing) // BATCHES)
    for number in range(BATCHES if missing > 0 else 0):
        name = f"backlog-{number}-{time.time_ns()}"
        with store.write() as connection:
            loading = batches.begin_loading(store, connection, name)
        reference = BatchRef(loading.id, name)
        stream = specs(settings, 0, each)
        for at in range(0, each, GROUP):
            group = [next(stream) for _ in range(min(GROUP, each - at))]
            with store.write() as connection:
                insert(store, connection, group, classes=DEFAULTS, batch=reference)
                loading = batches.advance(connection, loading, [spec.fingerprint for spec in group])
        with store.write() as connection:
            batches.open_batch(store, connection, loading.id)
    if not store.sqlite:
        with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("ANALYZE"))
    return max(0, missing)
