"""Messages come twice, out of order, and long after their time."""

import random

from redis import Redis
from tests.chaos.conftest import MAIN
from tests.chaos.running import BULK, Chaos

from trivet_tasks.latency import Latency
from trivet_tasks.messages import queue_name

JOBS = 80


def test_messages_that_come_twice_out_of_order_and_too_late_make_no_second_call(chaos: Chaos, seed: int) -> None:
    rng = random.Random(seed)
    chaos.latency(0.2)
    kept: dict[str, list[bytes | str]] = {}
    with chaos.shared() as shared:
        with chaos.paused(*BULK):
            accepted = chaos.submit(JOBS, "twice", tag=MAIN.tag)
            chaos.wait_for(lambda: sum(len(found) for found in _queued(shared).values()) >= 3, "messages", 30)
            for queue, messages in _queued(shared).items():
                kept[queue] = messages
                doubled = messages * 2
                rng.shuffle(doubled)
                shared.delete(queue)
                shared.rpush(queue, *doubled)
        chaos.wait_ended(accepted)
        for queue, messages in kept.items():
            shared.rpush(queue, *messages)  # and once more, when all is over
        chaos.wait_for(lambda: not _queued(shared), "the last stale message")
    findings = chaos.settle(accepted)
    assert findings.good, findings
    assert kept
    assert findings.job_calls == JOBS, "one call a job"


def _queued(shared: Redis) -> dict[str, list[bytes | str]]:
    """The messages that wait for a worker, by queue."""
    found = {}
    for route in MAIN.routes:
        queue = queue_name(route, Latency.BATCH)
        if messages := shared.lrange(queue, 0, -1):
            found[queue] = list(messages)
    return found
