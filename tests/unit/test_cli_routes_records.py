"""Events as an operator reads them, and probes as nobody's jobs."""

import pytest
from sqlalchemy import text

from trivet.cli.routes_remarks import event_lines
from trivet.client.result import to_result
from trivet_store import events
from trivet_store.cluster import health
from trivet_store.database.engine import Store
from trivet_store.events import Event
from trivet_store.jobs.enqueue import insert_probe
from trivet_store.reports import backlog, costs, results
from trivet_store.reports.results import AttemptRow, JobRow
from trivet_tasks.latency import Latency
from trivet_tasks.outcomes import Outcome
from trivet_tasks.states import AttemptPurpose, JobState, RouteState

AT = 1_800_000_000.0
MODEL = "claude-sonnet-5-5"
SEVERAL = [
    Event(AT, "route limited", "vertex", MODEL, "for 2 s: rate_limited: Quota exceeded"),
    Event(AT + 1, "route open", "bedrock-us-east-1", "*", "unusable: " + "long words " * 12),
    Event(AT + 2, "route limited", "vertex", MODEL, "for 4 s: rate_limited: Quota exceeded"),
    Event(AT + 3, "route limited", "vertex", MODEL, "for 8 s: rate_limited: Quota exceeded"),
    Event(AT + 4, "route drained", "vertex", "*", "by an operator: maintenance"),
]


@pytest.mark.parametrize("room", [80, 100, 160, None])
def test_events_fit_and_repeated_pauses_are_one_line(room: int | None) -> None:
    lines = [line.plain for line in event_lines(SEVERAL, room)]
    assert room is None or max(map(len, lines)) <= room
    said = " ".join(" ".join(lines).split())
    assert said.count("limited vertex") + said.count("limited for") == 1
    assert "(3 times, the last at 08:00:03Z)" in said
    at = [said.index(word) for word in ("Quota exceeded", "long words", "maintenance")]
    assert at == sorted(at)


def test_events_are_read_newest_last_by_time_and_route(store: Store) -> None:
    with store.write() as connection:
        now = store.now(connection)
        health.note(connection, "a", MODEL, RouteState.OPEN, "overloaded: x", now - 50, 5)
        health.note(connection, "b", MODEL, RouteState.LIMITED, "rate_limited: y", now - 40, 12.5)
        health.note(connection, "a", MODEL, RouteState.RECOVERING, "good probes", now - 30, 0, 0.1)
        events.note(connection, "route drained", "by an operator: why", now - 20, route="a")
        events.note(connection, "route restored", "by an operator", now - 10, route="a")
        events.note(connection, "route drained", "by an operator: again", now, route="a")
    with store.read() as connection:
        assert [(e.kind, e.text) for e in events.latest(connection, since=0, route="a")] == [
            ("route open", "overloaded: x"),
            ("route recovering", "10% of its work: good probes"),
            ("route drained", "by an operator: why"),
            ("route restored", "by an operator"),
            ("route drained", "by an operator: again"),
        ]
        (limited,) = events.latest(connection, since=now - 45, route="b")
        assert limited.text == "for 12.5 s: rate_limited: y"
        assert [e.kind for e in events.latest(connection, since=0, limit=2)] == ["route restored", "route drained"]
        assert events.latest(connection, since=now + 1) == []
        assert {name: event.text for name, event in events.last_drains(connection).items()} == {
            "a": "by an operator: again"
        }


def test_a_probe_is_nobodys_job_and_its_cost_is_known(store: Store) -> None:
    with store.write() as connection:
        probe = insert_probe(store, connection, route="a", model=MODEL, latency=Latency.BATCH, taken_within_s=15)
        connection.execute(
            text(
                "INSERT INTO attempts (id, job_id, claim, round, lease_id, route, provider, model, wire_model, latency,"
                " started_at, outcome, cost_usd, estimated, purpose)"
                " VALUES ('at', :job, 1, 0, 'l', 'a', 'anthropic', :model, 'w', 'batch', 5, 'succeeded', 28000000, false, 'probe')"
            ),
            {"job": probe.id, "model": MODEL},
        )
    with store.read() as connection:
        assert backlog.by_route(connection) == []
        assert backlog.models_in_use(connection) == []
        assert results.recent_jobs(connection, state=None, batch_id=None, limit=5) == []
        assert results.recent_jobs(connection, state=JobState.DISPATCHED, batch_id=None, limit=5) == []
        assert results.jobs_by_id(connection, [probe.id])[probe.id].probe
        assert [call.purpose for call in results.attempts_of(connection, [probe.id])[probe.id]] == ["probe"]
        (row,) = costs.summed(connection, ["purpose"], costs.Span())
    assert (row.group, row.calls, row.jobs, str(row.cost_usd)) == (("probe",), 1, 0, "0.000028000000")
    with store.write() as connection:  # a worker without a permit gives it back
        connection.execute(text("UPDATE jobs SET state = 'waiting'"))
    with store.read() as connection:
        assert backlog.by_class(connection) == []
        assert backlog.by_batch(connection, 5) == []
        assert backlog.requirements_of_waiting(connection) == []


def row(state: str, message: str) -> JobRow:
    return JobRow(
        id="j", key=None, state=JobState(state), latency="realtime", model=MODEL, batch=None, created_at=AT, deadline_at=None,
        not_before=None, ended_at=AT + 3, batch_seq=None, index=None, round=0, last_outcome=None, last_error=None, tenant=None,
        tags={}, metadata={}, message=None, stop_reason=None, error_outcome=Outcome.OVERLOADED, error_message=message, route=None,
        cost_usd=None, latency_s=3.0, cached=False, probe=False, crashes=0, isolated_crashes=0,
    )  # fmt: skip


def call(route: str, outcome: str, message: str | None) -> AttemptRow:
    return AttemptRow(
        "a",
        "j",
        route,
        Outcome(outcome),
        AT,
        0.1,
        None,
        None,
        message,
        None,
        None,
        None,
        False,
        AttemptPurpose.JOB,
        "bedrock",
    )


def test_a_failed_job_names_every_route_it_was_at() -> None:
    calls = [
        call("a", "timeout", "no whole answer within 1 s."),
        call("b", "overloaded", "x" * 50 + " y" * 100),
        call("a", "server_error", None),
        call("c", "overloaded", "busy"),
    ]
    found = to_result(row("failed", "No route answered. Last word: c: overloaded: busy"), calls)
    assert found.error is not None
    assert found.error.message.startswith(
        "No route answered. Last word: c: overloaded: busy Asked before: a: server_error; b: overloaded: xxx"
    )
    assert found.error.message.endswith("y ….")
    only = to_result(row("failed", "Last word: c: overloaded: busy"), calls[-1:])
    assert only.error is not None
    assert only.error.message == "Last word: c: overloaded: busy"
