"""Celery's remote control over real workers: inspection is answered, and nothing can be changed unseen."""

import json
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery.worker.control import Panel
from tests.foreign_calls import MARK, other_app

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


NOT_UNDERSTOOD: list[object] = [
    "text",
    [1],
    {},
    {"arguments": {}},
    {"method": ["ping"]},
    {"method": "ping", "arguments": "many"},
    {"method": "ping", "destination": 7},
    {"method": "ping", "pattern": "(", "matcher": "pcre"},
    {"method": "ping", "reply_to": "me"},
]


def test_commands_of_another_application_harm_nothing(system: RunningTrivet) -> None:
    bulk = "worker-1-bulk"
    pid, said = system.local.supervisor.pid(bulk), len(system.local.log_path(bulk).read_text(encoding="utf-8"))
    app = other_app(make_app(system.settings).conf.broker_url)

    def answered(command: str, **arguments: Any) -> list[Any]:
        replies = app.control.broadcast(command, arguments, reply=True, timeout=ANSWER_S, limit=2)
        return [answer for reply in replies for answer in reply.values()]

    for command in ("pool_shrink", "rate_limit", "shutdown", "revoke", "objgraph", f"of {MARK}"):
        for answer in answered(command, **ARGUMENTS.get(command, {})):
            assert "was refused" in answer["error"]
    for answer in (*answered("query_task"), *answered("clock", state=MARK)):
        assert answer["error"].endswith("(TypeError). Check its arguments.")
    with app.connection_for_write() as connection:
        mailbox = connection.Producer(exchange=app.control.mailbox.exchange)
        for body in NOT_UNDERSTOOD:
            mailbox.publish(body, serializer="json", declare=[app.control.mailbox.exchange])
    assert len(answered("ping")) == 2
    job = system.client.submit(f"after them {time.time_ns()}", model="claude-sonnet-5-5", max_tokens=40)
    assert job.result(timeout=DEADLINE_S).status == "succeeded"
    app.close()
    assert system.local.supervisor.pid(bulk) == pid
    log = system.local.log_path(bulk).read_text(encoding="utf-8")[said:]
    assert "A remote command has not the form of one" in log
    assert "Traceback" not in log
    assert MARK not in log


def test_other_applications_of_the_process_keep_their_commands() -> None:
    ours = handlers()
    assert set(ours) == set(Panel.data)
    assert ours["ping"](None) == {"ok": "pong"}
    assert [name for name in REFUSED if ours[name] is Panel.data[name]] == []
    assert Panel.data["shutdown"].__module__ == "celery.worker.control"
    assert set(INSTEAD) <= {*REFUSED, "objgraph"}


def test_statistics_show_no_secrets_and_are_json() -> None:
    options = {"socket_timeout": 5, "sentinel_kwargs": {"password": "s3cret"}, "tls": object()}
    broker = {"hostname": "s1", "transport_options": options, "ssl": {"ssl_certfile": "/s3cret"}, "alternates": []}
    worker = SimpleNamespace(stats=lambda: {"broker": broker, "pid": 1})
    shown = handlers()["stats"](SimpleNamespace(consumer=SimpleNamespace(controller=worker)))
    assert json.loads(json.dumps(shown)) == shown
    assert "s3cret" not in str(shown)
    assert shown["broker"]["transport_options"] == {"socket_timeout": 5}
    assert broker["transport_options"] is options, "the connection keeps what it needs"


def test_a_greeting_of_another_worker_revokes_nothing() -> None:
    from celery import Celery
    from celery.utils.collections import AttributeDict
    from celery.worker import state

    app = Celery("other", set_as_current=False)
    mailbox = AttributeDict(app=app, hostname="here")
    handlers()["hello"](mailbox, from_node="there", revoked={"a-chunk": time.time()})
    assert "a-chunk" not in state.revoked
