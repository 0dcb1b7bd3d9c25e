"""Calls of another Celery application: refused with a sentence, once, counted, and without an effect."""

import time

import pytest
from tests.databases import database_of
from tests.foreign_calls import MARK, QUEUE, other_app, send_wrong_calls
from tests.timing import until

from trivet.testing import RunningTrivet
from trivet_store import events
from trivet_tasks.celery_app import make_app
from trivet_tasks.shared_state import connect

DEADLINE_S = 60.0


def refused(system: RunningTrivet) -> int:
    with database_of(system.settings) as store, store.read() as connection:
        return sum(one.times for one in events.drops(connection) if one.kind == "unreadable")


def logs(system: RunningTrivet) -> str:
    folder = system.local.log_path("worker-1-bulk").parent
    return "".join(path.read_text(encoding="utf-8") for path in folder.glob("worker-*.log"))


@pytest.mark.habit("send_task")
def test_wrong_calls_are_refused_once_and_counted_and_nothing_stalls(system: RunningTrivet) -> None:
    before, said, calls = refused(system), len(logs(system)), len(system.simulator.calls())
    app = other_app(make_app(system.settings).conf.broker_url)
    sent = send_wrong_calls(app)
    until(lambda: refused(system) >= before + sent, "all to be counted", DEADLINE_S)
    job = system.client.submit(f"after {time.time_ns()}", model="claude-haiku-4-5", max_tokens=20)
    assert job.result(timeout=DEADLINE_S).status == "succeeded"
    assert refused(system) == before + sent, "each once"
    assert len(system.simulator.calls()) == calls + 1
    shared = connect(system.settings.redis_url)
    assert (shared.llen(QUEUE), shared.hlen("unacked")) == (0, 0)
    shared.close()
    app.close()
    log = logs(system)[said:]
    assert "Traceback" not in log
    assert MARK not in log
