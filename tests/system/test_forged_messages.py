"""Foreign writes to Redis: forged messages, malformed elements, answers that no provider gave.

None is run or returned, the worker lives, and real jobs end.
"""

import json
import time
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from tests.command_line import run_trivet
from tests.databases import database_of, new_database, rows
from tests.stopped_workers import BULK, stopped
from tests.timing import until

from trivet.client.jobs import Job
from trivet.client.result import Result
from trivet.testing import QUICK, RunningTrivet, running_trivet
from trivet_routing.response_cache import ANSWERS
from trivet_store import events
from trivet_tasks.celery_app import make_app
from trivet_tasks.jobs import DispatchedJob
from trivet_tasks.latency import Latency
from trivet_tasks.messages import Chunk, publish, queue_name, task_name
from trivet_tasks.shared_state import connect

DEADLINE_S = 90.0
HAIKU, OPUS = "claude-haiku-4-5", "claude-opus-5"
TERMS: dict[str, Any] = {"model": HAIKU, "max_tokens": 1_000, "latency": "batch"}
US, EU = "bedrock-us-east-1", "vertex-global"
ROUTES = {US: {"residency": ["us"]}, EU: {"residency": ["eu"]}}
SECTIONS = {
    **QUICK,
    "dispatch": {"interval_s": 0.1, "taken_within_s": 12},
    "cache": {"enabled": True},
    "classes.deferred": {"cache_ttl_s": 2},
}


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTrivet]:
    """One worker on each database; one route in the EU, one in the US, one that says nothing of it."""
    url = new_database(request, "forged")
    folder: Path = tmp_path_factory.mktemp("forged")
    with running_trivet(folder, store_url=url, sections=SECTIONS, route_settings=ROUTES) as trivet:
        yield trivet


@pytest.fixture
def shared(system: RunningTrivet) -> Iterator[redis.Redis]:
    client = connect(system.settings.redis_url)
    yield client
    client.close()


def drops(system: RunningTrivet) -> Counter[tuple[str, str]]:
    with database_of(system.settings) as store, store.read() as connection:
        return Counter({(one.kind.value, one.route): one.times for one in events.drops(connection)})


def dispatched(system: RunningTrivet, ids: Collection[str]) -> dict[str, tuple[str, DispatchedJob]]:
    """The jobs once all are dispatched: where to, and what a message says of each."""
    found: dict[str, tuple[str, DispatchedJob]] = {}

    def all_are() -> bool:
        for row in rows(system.settings, "SELECT * FROM jobs WHERE state = 'dispatched'"):
            if row.id in ids:
                claimed = DispatchedJob(row.id, row.claim, row.input_estimate, row.max_tokens, row.cache_key)
                found[row.id] = (row.route, claimed)
        return len(found) == len(ids)

    until(all_are, "all jobs to be dispatched")
    return found


def take_messages(system: RunningTrivet, shared: redis.Redis, jobs: Collection[str]) -> list[dict[str, Any]]:
    """Take the true messages out of the queues, once they name all of these jobs."""
    queues = [queue_name(route, Latency.BATCH) for route in system.settings.routes]
    found: list[dict[str, Any]] = []

    def all_are() -> bool:
        found[:] = [json.loads(element) for queue in queues for element in shared.lrange(queue, 0, -1)]
        args = [json.loads(b64decode(message["body"]))[0] for message in found]
        return {job[0] for _, _, _, named, *_ in args for job in named} >= set(jobs)

    until(all_are, "all messages")
    shared.delete(*queues)
    return found


def cache_key(system: RunningTrivet, job: Job) -> str:
    (row,) = rows(system.settings, "SELECT cache_key FROM jobs WHERE id = :id", id=job.id)
    return str(row.cache_key)


def unread(shared: redis.Redis, *queues: str) -> int:
    return sum(shared.llen(queue) for queue in queues)


def test_messages_that_lie_about_true_jobs_run_nothing(system: RunningTrivet, shared: redis.Redis) -> None:
    pid = system.local.supervisor.pid(BULK)
    before, calls_before = drops(system), len(system.simulator.calls())
    answered = system.client.submit(f"answered {time.time_ns()}", residency=["us"], **TERMS)
    assert answered.result(timeout=DEADLINE_S).status == "succeeded"
    kinds = ("route", "model", "provider", "class", "probe", "isolated", "figures", "answer", "residency")
    with stopped(system, shared):
        jobs = {
            kind: system.client.submit(
                f"{kind} {time.time_ns()}", residency=["eu"] if kind == "residency" else ["us"], **TERMS
            )
            for kind in kinds
        }
        found = dispatched(system, [job.id for job in jobs.values()])
        take_messages(system, shared, found)
        assert {found[job.id][0] for kind, job in jobs.items() if kind != "residency"} == {US}
        assert found[jobs["residency"].id][0] == EU

        def lie(kind: str, **lies: Any) -> Chunk:
            true = Chunk(US, "bedrock", Latency.BATCH, HAIKU, (found[jobs[kind].id][1],))
            return replace(true, **lies)

        less = found[jobs["figures"].id][1]._replace(input_estimate=0, max_tokens=1)
        forged = [
            lie("route", route="anthropic", provider="anthropic"),
            lie("model", model=OPUS),
            lie("provider", provider="anthropic"),
            lie("class", latency=Latency.ASYNC),
            lie("probe", probe="0192f0c1"),
            lie("isolated", isolated=True),
            lie("figures", jobs=(less,)),
            lie("answer", jobs=(found[jobs["answer"].id][1]._replace(cache_key=cache_key(system, answered)),)),
            lie("residency"),
        ]
        app = make_app(system.settings)
        publish(app, forged)
        app.close()
    results = {kind: job.result(timeout=DEADLINE_S) for kind, job in jobs.items()}
    assert {result.status for result in results.values()} == {"succeeded"}
    for kind, result in results.items():
        made = [(attempt.route, attempt.outcome) for attempt in result.attempts]
        assert made == [(EU if kind == "residency" else US, "succeeded")], kind
    ids = {job.id for job in jobs.values()}
    assert not [
        row for row in rows(system.settings, "SELECT job_id FROM attempts WHERE claim < 2") if row.job_id in ids
    ]
    assert len(system.simulator.calls()) == calls_before + len(jobs) + 1
    # a process for a job marked isolated may start after the job went out again: then its message is an old one
    until(lambda: (drops(system) - before)["forged", US] >= len(kinds) - 2, "the lies to be counted")
    until(lambda: (drops(system) - before)["forged", "anthropic"] == 1, "so is that of another route")
    assert system.local.supervisor.pid(BULK) == pid


def test_what_is_no_message_of_ours_is_dropped_and_the_worker_lives(system: RunningTrivet, shared: redis.Redis) -> None:
    pid, before = system.local.supervisor.pid(BULK), drops(system)
    with stopped(system, shared):
        job = system.client.submit(f"true {time.time_ns()}", residency=["us"], **TERMS)
        (true,) = take_messages(system, shared, [job.id])
        junk = [*_RAW, *(json.dumps(one).encode() for one in _changed(true))]
        queues = [queue_name(US, Latency.BATCH), queue_name(EU, Latency.BATCH)]
        for queue in queues:
            shared.lpush(queue, *junk)
        # what a worker that died left behind, and what it hears beside its queues
        shared.hset("unacked", mapping={"t1": b"\xff", "t2": b"[1]", "t3": b'{"a": 1}'})
        shared.zadd("unacked_index", {"t1": 1, "t2": 1, "t3": 1})
        for notice in (b"\xff", b"pwned", b"[1]", b"{}", b'{"properties": 1}', b"[" * 200_000):
            shared.publish("/0.celery.pidbox", notice)
    assert job.result(timeout=DEADLINE_S).status == "succeeded"
    until(lambda: unread(shared, *queues) == 0, "all to be read")
    until(lambda: (drops(system) - before).total() >= 2 * len(junk) + 6, "all to be counted")
    assert system.local.supervisor.pid(BULK) == pid
    log = system.local.log_path(BULK).read_text(encoding="utf-8")
    assert "Traceback" not in log
    assert _MARK not in log
    again = [system.client.submit(f"{n} {time.time_ns()}", **TERMS) for n in range(5)]
    assert {one.result(timeout=DEADLINE_S).status for one in again} == {"succeeded"}
    assert not rows(system.settings, "SELECT id FROM jobs WHERE state NOT IN ('succeeded', 'expired')")


def test_answers_that_this_installation_did_not_give_are_returned_to_nobody(
    system: RunningTrivet, shared: redis.Redis
) -> None:
    def asked(prompt: str, latency: str = "async") -> tuple[Result, str]:
        job = system.client.submit(prompt, **{**TERMS, "latency": latency})
        return job.result(timeout=DEADLINE_S), ANSWERS + cache_key(system, job)

    def called_for(prompt: str, what: str, latency: str = "async", *, foreign: bool = True) -> None:
        calls, counted = len(system.simulator.calls()), answers()
        result, _ = asked(prompt, latency)
        assert (result.status, result.cached) == ("succeeded", False), what
        assert _MARK not in json.dumps(result.message)
        assert len(system.simulator.calls()) == calls + 1
        until(lambda: answers() == counted + foreign, "it to be counted, if it is foreign")

    def answers() -> int:
        return sum(times for (kind, _), times in drops(system).items() if kind == "answer")

    prompt, other = f"mine {time.time_ns()}", f"other {time.time_ns()}"
    mine, key = asked(prompt)
    assert asked(prompt)[0].cached, "true ones are returned"
    _, other_key = asked(other)
    sealed = shared.get(key)
    assert isinstance(sealed, bytes)
    message = json.dumps({**(mine.message or {}), "content": [{"type": "text", "text": _MARK}]}).encode()
    old = b'["end_turn","anthropic",null]\n' + message
    new = b'["end_turn","anthropic",null,null,4000000000.0]\n' + message
    for what, entry in {
        "without a signature": old,
        "a signature of nothing": b"0" * 64 + b"\n" + new,
        "another answer behind a true signature": sealed[:65] + new,
        "junk": b"\xff\x00",
    }.items():
        shared.set(key, entry)
        called_for(prompt, what)
    shared.set(other_key, sealed)
    called_for(other, "an answer to another request")
    # its time is over, by the database's clock
    brief = f"brief {time.time_ns()}"
    _, brief_key = asked(brief, "deferred")
    expiring = shared.get(brief_key)
    assert expiring is not None
    until(lambda: not shared.exists(brief_key), "it to expire")
    shared.set(brief_key, expiring)
    called_for(brief, "an answer whose time is over", "deferred", foreign=False)
    report = run_trivet("--config", system.settings.source, "routes", "--json").json
    assert {one["kind"] for one in report["dropped"]} >= {"answer"}


_MARK = "pwned"
_RAW = [
    b"\xff\xfe\x00",
    b"",
    b"not json",
    b"null",
    b"7",
    b'"text"',
    b"[1, 2]",
    b"{}",
    b'{"properties": {}}',
    b'{"__type__": "datetime", "__value__": "pwned"}',
    b'{"__type__": ["list"], "__value__": 1}',
    b'{"__type__": "decimal", "__value__": "pwned"}',
    b"[" * 200_000,
    b"1" * 5_000,
]


def _changed(true: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A true message with one thing changed."""

    def copy() -> dict[str, Any]:
        return json.loads(json.dumps(true))  # type: ignore[no-any-return]

    for path, value in (
        (("content-type",), "application/x-python-serialize"),
        (("content-encoding",), "utf-7"),
        (("body",), None),
        (("body",), "%%% pwned"),
        (("body",), _body("pwned")),
        (("body",), _body([["pwned"], {}, {}])),
        (("body",), _body([[{"pwned": 1}] * 4, {}, {}])),
        (("body",), _body([[], {"pwned": 1}, {}])),
        (("body",), _body([["a", "batch", HAIKU, [["pwned", 1, 1, 1]]], {}, {}])),
        (("headers",), None),
        (("headers",), [1]),
        (("headers", "task"), None),
        (("headers", "task"), "celery.accumulate"),
        (("headers", "task"), ["pwned"]),
        (("headers", "task"), "trivet.run.openai"),
        (("headers", "id"), {"pwned": 1}),
        (("headers", "compression"), "application/x-gzip"),
        (("properties",), None),
        (("properties", "delivery_tag"), ["pwned"]),
        (("properties", "delivery_info"), "pwned"),
        (("properties", "delivery_info", "routing_key"), {"pwned": 1}),
        (("properties", "body_encoding"), "pwned"),
    ):
        changed: Any = copy()
        place = changed
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = value
        yield changed
    embedded = copy()
    args, named, _ = json.loads(b64decode(embedded["body"]))
    callback = {"task": task_name("bedrock"), "args": args, "kwargs": {}, "options": {}}
    embedded["body"] = _body([args, named, {"callbacks": [callback], "errbacks": None, "chain": None, "chord": None}])
    yield embedded


def _body(content: object) -> str:
    return b64encode(json.dumps(content).encode()).decode()
