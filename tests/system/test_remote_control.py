"""Celery's remote control over real workers: inspection is answered, and nothing can be changed unseen."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery.worker.control import Panel

from trivet.testing import RunningTrivet
from trivet_tasks.celery_app import make_app
from trivet_tasks.latency import Latency
from trivet_worker.process.consumer_steps import INSTEAD, handlers

DEADLINE_S = 60.0
ANSWER_S = 20.0
ROUTE = "anthropic"
ARGUMENTS: dict[str, dict[str, Any]] = {
    "add_consumer": {"queue": "elsewhere"},
    "cancel_consumer": {"queue": f"{ROUTE}.batch"},
    "rate_limit": {"task_name": "trivet.run.anthropic", "rate_limit": "1/h"},
    "time_limit": {"task_name": "trivet.run.anthropic", "hard": 1},
    "revoke": {"task_id": "1", "terminate": True},
    "revoke_by_stamped_headers": {"headers": {"a": "b"}},
    "terminate": {"task_id": "1", "signal": "KILL"},
    "autoscale": {"max": 1, "min": 0},
    "pool_shrink": {"n": 1_000},
    "election": {"id": "1", "topic": "t", "action": "a"},
}
REFUSED = sorted(name for name, about in Panel.meta.items() if about.type == "control")


@pytest.fixture
def control(system: RunningTrivet) -> Iterator[Any]:
    app = make_app(system.settings)
    yield app.control
    app.close()


def answers(ask: Callable[[], dict[str, Any] | None], count: int = 2) -> dict[str, Any]:
    """Return the answers of so many workers."""
    ends = time.monotonic() + DEADLINE_S
    while len(found := ask() or {}) < count:
        assert time.monotonic() < ends, f"only {sorted(found)} answered"
    return found


def queues(control: Any) -> set[str]:
    served = answers(control.inspect(timeout=ANSWER_S, limit=2).active_queues)
    return {queue["name"] for of_one in served.values() for queue in of_one}


def test_whatever_would_change_a_worker_is_refused_with_what_to_use(system: RunningTrivet, control: Any) -> None:
    before = queues(control)
    assert before == {f"{route}.{latency}" for route in system.settings.routes for latency in Latency}
    for command in REFUSED:
        replies = control.broadcast(
            command, arguments=ARGUMENTS.get(command, {}), reply=True, timeout=ANSWER_S, limit=2
        )
        assert len(replies) == 2, command
        for reply in replies:
            (answer,) = reply.values()
            assert answer["error"].startswith(f"Trivet's workers answer inspection only, and {command} was refused")
            assert INSTEAD.get(command, "") in answer["error"]
    assert queues(control) == before
    stats = answers(control.inspect(timeout=ANSWER_S, limit=2).stats)
    assert {one["pool"]["max-concurrency"] for one in stats.values()} == {system.settings.worker.slots}
    for latency in ("realtime", "batch"):
        job = system.client.submit(f"{latency} {time.time_ns()}", model="claude-sonnet-5-5", max_tokens=40, latency=latency)  # fmt: skip
        assert job.result(timeout=DEADLINE_S).status == "succeeded"


@pytest.mark.parametrize("command", ["ping", "active", "registered", "conf", "revoked", "clock", "report"])
def test_inspection_is_answered(control: Any, command: str) -> None:
    for answer in answers(getattr(control.inspect(timeout=ANSWER_S, limit=2), command)).values():
        assert "error" not in answer or command == "conf"


def test_other_applications_of_the_process_keep_their_commands() -> None:
    ours = handlers()
    assert set(ours) == set(Panel.data)
    assert ours["ping"] is Panel.data["ping"]
    assert [name for name in REFUSED if ours[name] is Panel.data[name]] == []
    assert Panel.data["shutdown"].__module__ == "celery.worker.control"
    assert set(INSTEAD) <= set(REFUSED)


def test_a_greeting_of_another_worker_revokes_nothing() -> None:
    from celery import Celery
    from celery.utils.collections import AttributeDict
    from celery.worker import state

    app = Celery("other", set_as_current=False)
    mailbox = AttributeDict(app=app, hostname="here")
    handlers()["hello"](mailbox, from_node="there", revoked={"a-chunk": time.time()})
    assert "a-chunk" not in state.revoked
