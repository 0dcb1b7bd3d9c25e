"""Messages of another Celery application to Trivet's queues: wrong calls, each refused once and without an effect."""

import datetime
import pickle
from collections.abc import Iterator
from typing import Any

from celery import Celery
from kombu import Exchange, Queue

RUN = "trivet.run.anthropic"
QUEUE = "anthropic.batch"
MARK = "foreign-words"
"""Words of the sender that must be in no log."""
NEVER = 3_600.0
_JOB = ["a" * 32, 1, 10, 10, None]
LIKE_OURS = ["anthropic", "batch", "claude-haiku-4-5", [_JOB], "", False]
"""Arguments in the form of Trivet's own, of a job that there is not."""


def other_app(url: str) -> Celery:
    """Return an application of somebody else on Trivet's broker."""
    return Celery("other", broker=url, set_as_current=False, fixups=[])


def send_wrong_calls(app: Celery) -> int:
    """Send one of each kind. Returns their number."""
    queue = Queue(QUEUE, Exchange("", type="direct"), QUEUE, no_declare=True)
    sent = 0
    for name, options in _wrong(app):
        app.send_task(name, queue=queue, **options)
        sent += 1
    with app.producer_pool.acquire(block=True) as producer:
        for body, headers, encoding in _raw():
            producer.publish(
                body, exchange="", routing_key=QUEUE, headers=headers,
                content_type=encoding, content_encoding="binary",
            )  # fmt: skip
            sent += 1
    return sent


def _wrong(app: Celery) -> Iterator[tuple[str, dict[str, Any]]]:
    def of(*args: Any, **options: Any) -> tuple[str, dict[str, Any]]:
        return RUN, {"args": args, **options}

    nested: list[Any] = [MARK]
    for _ in range(400):
        nested = [nested]
    callback = app.signature(RUN, args=LIKE_OURS, queue=QUEUE, immutable=True)
    yield of()
    yield of(MARK)
    yield of(*LIKE_OURS, MARK)
    yield of(*LIKE_OURS[:3], [[MARK, 1, 10, 10, None]], "", False)
    yield of(*LIKE_OURS[:3], [], "", False)
    yield of(nested)
    yield of(MARK * 100_000)
    yield of(*LIKE_OURS, kwargs={"prompt": MARK})
    yield RUN, {"kwargs": {"route": "anthropic"}}
    yield "no.such.task", {"args": [MARK]}
    yield "celery.chord_unlock", {"args": [MARK, callback]}
    yield "celery.map", {"args": [callback, [1]]}
    yield "celery.backend_cleanup", {}
    for serializer in ("pickle", "yaml"):
        yield of(*LIKE_OURS, serializer=serializer)
    for compression in ("zlib", "bzip2"):
        yield of(*LIKE_OURS, compression=compression)
    yield of(*LIKE_OURS, link=callback)
    yield of(*LIKE_OURS, link_error=callback)
    yield of(*LIKE_OURS, chain=[callback])
    yield of(*LIKE_OURS, chord=callback)
    # times: the wrong arguments are refused now, and not held for later
    yield of(MARK, eta=datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=NEVER))
    yield of(MARK, countdown=NEVER, expires=2 * NEVER, priority=9, time_limit=1, shadow=MARK, argsrepr=MARK)


def _raw() -> Iterator[tuple[bytes, dict[str, Any], str]]:
    protocol_1 = b'{"task": "trivet.run.anthropic", "id": "1", "args": ["%s"], "kwargs": {}}' % MARK.encode()
    yield protocol_1, {}, "application/json"
    yield pickle.dumps({"args": MARK}), {"task": RUN, "id": "1"}, "application/x-python-serialize"
    yield b"\x81\xa4args\xa1x", {"task": RUN, "id": "1"}, "application/x-msgpack"
