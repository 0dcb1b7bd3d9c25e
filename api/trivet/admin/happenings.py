"""The live feed of what happens: ends of jobs and batches as workers announce them, and events as the database has them."""

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

import orjson
import redis
from cachetools import TTLCache

from trivet.client.connections import Connections
from trivet_store import events
from trivet_store.events import Event
from trivet_store.jobs import batches
from trivet_store.jobs.batches import Progress
from trivet_store.reports import results
from trivet_store.reports.results import JobEnd
from trivet_tasks.errors import StoreError
from trivet_tasks.shared_state import FINISHED_CHANNEL, connect

LISTEN_S = 0.25
"""Seconds for which one look waits for an announcement; within them `stop` is noticed."""
NOTICES = 200
"""Announcements that are read together."""
EVENTS_EVERY = 4
"""Looks between two readings of the events in the database."""
MAX_EVENTS = 1_000
OVERLAP = 100
"""Ids before the last that are read again: a transaction with a smaller id may commit later."""
DONE_BATCHES = 10_000
DONE_S = 600.0
"""Seconds for which the end of a batch is not told a second time."""
RETRY_S = 1.0


class Happening(NamedTuple):
    """Something that happened. `id` is that of an event in the database; of the end of a job or batch None."""

    id: int | None
    what: "JobEnd | Progress | Event"


Happenings: TypeAlias = Sequence[Happening]


def past(connections: Connections, after: int) -> Happenings:
    """Return the events that were recorded after the one of this id, the newest 1,000 at most."""
    with connections.store.read() as connection:
        newest = events.last_id(connection)
        found = events.after(connection, max(after, newest - MAX_EVENTS), MAX_EVENTS)
    return [Happening(event_id, event) for event_id, event in found]


def follow(connections: Connections, stop: threading.Event) -> Iterator[Happenings]:
    """Yield what happens from now on, in groups, until `stop` is set. Blocks; a group may be empty.

    While the shared state or the database is away, the ends of jobs are not told; events are told later.
    """
    follower = _Follower(connections)
    client = connect(connections.settings.redis_url)
    try:
        while not stop.is_set():
            try:
                with client.pubsub() as subscription:  # type: ignore[no-untyped-call]
                    subscription.subscribe(FINISHED_CHANNEL)
                    while not stop.is_set():
                        yield follower.look(_notices(subscription))
            except redis.RedisError:
                yield follower.look([])
                stop.wait(RETRY_S)
    finally:
        client.close()


class _Follower:
    """Reads what announcements are about, and new events."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._last: int | None = None
        self._told: deque[int] = deque(maxlen=2 * OVERLAP)
        self._done: TTLCache[str, bool] = TTLCache(DONE_BATCHES, DONE_S)
        self._looks = 0

    def look(self, notices: Sequence[bytes]) -> Happenings:
        """Return what is new."""
        jobs, batch_ids = _subjects(notices)
        due = self._looks % EVENTS_EVERY == 0
        self._looks += 1
        if not jobs and not batch_ids and not due:
            return []
        try:
            with self._connections.store.read() as connection:
                found = [Happening(None, end) for end in results.ends_of(connection, jobs)] if jobs else []
                done = batches.done_among(connection, batch_ids) if batch_ids else []
                if self._last is None:
                    self._last = events.last_id(connection)
                    self._told.extend(range(self._last - OVERLAP, self._last + 1))
                recorded = events.after(connection, self._last - OVERLAP, MAX_EVENTS) if due else []
        except StoreError:
            return []
        for progress in done:
            end = f"{progress.name} {progress.created_at} {progress.total} {progress.succeeded}"
            if end not in self._done:
                self._done[end] = True
                found.append(Happening(None, progress))
        for event_id, event in recorded:
            if event_id not in self._told:
                self._told.append(event_id)
                self._last = max(self._last, event_id)
                found.append(Happening(event_id, event))
        return found


def _notices(subscription: "redis.client.PubSub") -> list[bytes]:
    """Return announcements: those that are there, or the first that comes within `LISTEN_S`."""
    found: list[bytes] = []
    timeout = LISTEN_S
    while len(found) < NOTICES:
        message = subscription.get_message(timeout=timeout)
        if message is None:
            break
        if message["type"] == "message":
            found.append(message["data"])
            timeout = 0.0
    return found


def _subjects(notices: Sequence[bytes]) -> tuple[list[str], list[int]]:
    """Return the ids of jobs and the row ids of batches that announcements name; what is none of Trivet's is left out."""
    jobs: dict[str, None] = {}
    batch_ids: dict[int, None] = {}
    for data in notices:
        try:
            notice = orjson.loads(data)
            jobs.update((job_id, None) for job_id in notice["jobs"] if isinstance(job_id, str))
            batch_ids.update((batch, None) for batch in notice["batches"] if isinstance(batch, int))
        except (ValueError, TypeError, KeyError):
            continue
    return list(jobs), list(batch_ids)
