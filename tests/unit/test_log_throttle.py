"""A log of a long outage stays short, and says how much it left out."""

import logging
import time

import pytest
import redis.exceptions

from trivet_tasks.processes import log_throttle
from trivet_tasks.processes.log_throttle import ALIKE, ALIKE_OF_CELERY, LogThrottle


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.written: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.written.append(record.getMessage())


@pytest.fixture
def lines() -> Lines:
    handler = Lines()
    handler.addFilter(LogThrottle())
    return handler


def logger(name: str, lines: Lines) -> logging.Logger:
    found = logging.Logger(name)
    found.addHandler(lines)
    return found


def test_lines_of_one_place_are_bounded_and_counted(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    log, clock = logger("trivet.worker", lines), [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def fail(job: int) -> None:
        log.error("job %s cannot be written", job)

    for job in range(1_000):
        fail(job)
    log.error("something else")
    assert lines.written == [*(f"job {job} cannot be written" for job in range(ALIKE)), "something else"]
    clock[0] = log_throttle.WINDOW_S + 1
    fail(7)
    fail(8)
    assert lines.written[-2:] == [
        f"job 7 cannot be written ({1_000 - ALIKE} more like this were left out)",
        "job 8 cannot be written",
    ]


def test_of_celery_fewer_are_enough(lines: Lines) -> None:
    log = logger("celery.worker.consumer.consumer", lines)
    for attempt in range(20):
        log.error("Cannot connect, %s", attempt)
    assert len(lines.written) == ALIKE_OF_CELERY


@pytest.mark.parametrize(
    ("name", "error", "told"),
    [
        ("celery.worker.request", redis.exceptions.ConnectionError("Connection closed by server."), False),
        ("celery.worker.request", BrokenPipeError(32, "Broken pipe"), False),
        ("celery.worker.request", KeyError("a fault"), True),
        ("trivet.worker", BrokenPipeError(32, "Broken pipe"), True),
    ],
)
def test_celery_tells_of_a_lost_broker_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, name: str, error: Exception, told: bool
) -> None:
    records: list[logging.LogRecord] = []
    handler = Lines()
    handler.addFilter(LogThrottle())
    monkeypatch.setattr(handler, "emit", records.append)
    try:
        raise error
    except Exception:
        logger(name, handler).critical("Couldn't ack", exc_info=True)
    [record] = records
    assert bool(record.exc_info) is told
