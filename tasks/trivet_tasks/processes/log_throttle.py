"""Log throttle of a long-running process: a maximum number of similar lines a minute."""

import logging
import time
from dataclasses import dataclass

import redis.exceptions
from amqp.exceptions import AMQPError
from cachetools import LRUCache
from kombu.exceptions import OperationalError

ALIKE = 20
"""Maximum number of lines of one kind within `WINDOW_S`."""
ALIKE_OF_CELERY = 3
"""The same for Celery, which reports every few seconds that the broker is away; Trivet has reported it by then."""
WINDOW_S = 60.0
MAX_KINDS = 1_000

_LOST = (OSError, redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OperationalError, AMQPError)
"""A broker that went away."""


@dataclass(slots=True)
class _Kind:
    since: float
    lines: int = 0


class LogThrottle(logging.Filter):
    """Filter for a log handler. Lines are similar when they come from the same place in the code.

    An outage makes some lines for every job it touches; a log that fills the disk helps nobody. Suppressed lines are
    counted in the next line of their kind.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kinds: LRUCache[tuple[str, int], _Kind] = LRUCache(MAX_KINDS)

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether this line is written. Called under its handler's lock."""
        if record.exc_info and record.name.startswith("celery") and isinstance(record.exc_info[1], _LOST):
            record.exc_info = record.exc_text = None  # the line names the error; where Celery met it helps nobody
        place = (record.pathname, record.lineno)
        kind = self._kinds.get(place)
        if kind is None:
            kind = self._kinds[place] = _Kind(time.monotonic())
        most = ALIKE_OF_CELERY if record.name.startswith("celery") else ALIKE
        left_out = 0
        if time.monotonic() - kind.since > WINDOW_S:
            left_out = max(0, kind.lines - most)
            kind.since, kind.lines = time.monotonic(), 0
        kind.lines += 1
        if left_out:
            record.msg, record.args = f"{record.getMessage()} ({left_out:,} more like this were left out)", None
        return kind.lines <= most
