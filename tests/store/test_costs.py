"""Sums of the costs of calls."""

from dataclasses import replace
from decimal import Decimal

import orjson
import pytest
from tests.store.world import ESTIMATE, MODEL, OTHER_ROUTE, ROUTE, SUCCESS, WAIT, World, finished, spec, specs

from trivet_store.jobs.claiming import add_attempt
from trivet_store.ledger import spending
from trivet_store.reports import cost_savings, costs
from trivet_store.reports.attempts import AttemptCounter
from trivet_store.reports.costs import GROUPINGS, CostRow, Span
from trivet_store.reports.spend_rate import spend_rate
from trivet_store.steps import CallTarget, End, Settlement, Transition
from trivet_tasks.errors import InvalidRequest
from trivet_tasks.latency import Latency
from trivet_tasks.outcomes import Outcome, Usage
from trivet_tasks.prices import price_records
from trivet_tasks.states import AttemptPurpose, JobState


def _summed(world: World, *by: str, since: float = 0, until: float = 1e12) -> list[CostRow]:
    with world.store.read() as connection:
        return costs.summed(connection, by, Span(since, until))


def _work(world: World) -> None:
    """Two routes: one cheap with a timeout and a call that still runs, one dear; an answer without a price."""
    world.batch("contracts", *specs(6, tenant="acme"))
    lease = world.lease()
    jobs = world.take(lease, world.dispatch(4))
    world.end(lease, jobs[:1], cost="0.10")
    world.finish(finished(jobs[1], lease, WAIT, outcome=Outcome.TIMEOUT, cost="0.3", estimated=True))
    world.end(lease, jobs[2:3], cost=None)
    dear = world.take(lease, world.dispatch(2, OTHER_ROUTE))
    world.end(lease, dear, cost="2")


def test_settled_sums_estimates_and_unpriced_calls_are_separate(world: World) -> None:
    _work(world)
    (total,) = _summed(world)
    assert (total.group, total.calls, total.jobs) == ((), 6, total.jobs)
    assert total.cost_usd == Decimal("4.1")
    assert total.estimated_usd == Decimal("0.3") + ESTIMATE, "the timeout and the call that runs"
    assert total.unpriced == 1
    assert (total.input_tokens, total.output_tokens) == (50, 25)


def test_groups_come_dearest_first(world: World) -> None:
    _work(world)
    by_route = _summed(world, "route")
    assert [(row.group, row.cost_usd) for row in by_route] == [
        ((OTHER_ROUTE,), Decimal(4)),
        ((ROUTE,), Decimal("0.1")),
    ]
    by_outcome = _summed(world, "outcome")
    assert by_outcome[0].group == ("succeeded",)
    assert {row.group[0] for row in by_outcome} == {"succeeded", "timeout", ""}


def test_groups_whose_calls_have_no_price_come_last(world: World) -> None:
    lease, jobs = world.running(1)
    world.end(lease, jobs, cost=None)
    world.add(*specs(1))
    world.end(lease, world.take(lease, world.dispatch(route=OTHER_ROUTE)), cost="1")
    assert [row.group for row in _summed(world, "route")] == [(OTHER_ROUTE,), (ROUTE,)]


@pytest.mark.parametrize("by", [*GROUPINGS, "tag:team"])
def test_every_grouping_adds_up_to_the_whole(world: World, by: str) -> None:
    _work(world)
    rows = _summed(world, by)
    assert sum(row.cost_usd for row in rows) == Decimal("4.1")
    assert sum(row.calls for row in rows) == 6
    assert all(len(row.group) == 1 for row in rows)


def test_several_groupings_at_once(world: World) -> None:
    _work(world)
    rows = _summed(world, "tenant", "batch", "class", "provider", "model")
    assert {row.group[:3] for row in rows} == {("acme", "contracts", "batch")}


def test_days_are_utc(world: World) -> None:
    lease, jobs = world.running(2)
    world.end(lease, jobs)
    one, two = (job.attempt_id for job in jobs)
    for attempt, at in ((one, 1_795_391_999.5), (two, 1_795_392_000.0)):
        world.sql("UPDATE attempts SET started_at = :at WHERE id = :id", at=at, id=attempt)
    assert sorted(row.group[0] for row in _summed(world, "day")) == ["2026-11-22", "2026-11-23"]
    assert [row.calls for row in _summed(world, since=1_795_392_000.0)] == [1]
    assert [row.group for row in _summed(world, "hour", "month")] == [
        ("2026-11-22T23:00Z", "2026-11"),
        ("2026-11-23T00:00Z", "2026-11"),
    ]


def test_tokens_are_told_by_kind(world: World) -> None:
    lease, jobs = world.running(1)
    settled = finished(jobs[0], lease).settlement
    world.finish(Transition(jobs[0], replace(settled, usage=Usage(1, 2, 30, 400, 5_000)), SUCCESS))
    (row,) = _summed(world)
    assert (row.input_tokens, row.plain_input_tokens, row.output_tokens) == (5_431, 1, 2)
    assert (row.cache_read_tokens, row.cache_write_5m_tokens, row.cache_write_1h_tokens) == (30, 400, 5_000)


def test_the_present_rate_counts_calls_that_ended_lately(world: World) -> None:
    lease, jobs = world.running(3)
    world.end(lease, jobs, cost="0.5")
    now = world.now()
    for job, began, took in zip(jobs, (700.0, 100.0, 200.0), (100.0, 1.0, None), strict=True):
        world.sql(
            "UPDATE attempts SET started_at = :at, latency_s = :took WHERE id = :id",
            at=now - began, took=took, id=job.attempt_id,
        )  # fmt: skip
    world.sql("UPDATE attempts SET outcome = NULL WHERE latency_s IS NULL")
    with world.store.read() as connection:
        rate = spend_rate(connection, now)
        assert rate.by_route[ROUTE] == rate.usd_per_hour
        assert rate.over_s == pytest.approx(99, abs=0.01)
        assert rate.usd_per_hour == pytest.approx(Decimal("0.5") * 3_600 / 99, abs=Decimal("0.01"))
        assert spend_rate(connection, now + 400).by_route == {}
        soon = spend_rate(connection, now - 90)
        assert soon.over_s == 60, "one call is not an hour's rate"


def test_nothing_costs_nothing(world: World) -> None:
    nothing = Decimal(0)
    assert _summed(world) == [CostRow((), 0, 0, 0, 0, 0, 0, 0, nothing, nothing, nothing, nothing, 0)]
    assert _summed(world, "route") == []


def test_an_unknown_grouping_is_an_error_naming_the_known(world: World) -> None:
    with pytest.raises(InvalidRequest, match="'colour'") as caught:
        _summed(world, "colour")
    assert "route" in caught.value.hint


def test_a_tag_groups_by_its_value(world: World) -> None:
    lease = world.lease()
    odd = 'te"am.$[0]'
    for number, tags in enumerate(({"team": "red", odd: "x"}, {"team": "red"}, {"team": "blue"}, {"other": "red"}, {})):
        world.add(*specs(1, tags=tags, key=f"job {number}"))
        world.end(lease, world.take(lease, world.dispatch()), cost="1")
    assert {row.group: row.cost_usd for row in _summed(world, "tag:team")} == {("red",): 2, ("blue",): 1, ("",): 2}
    assert {row.group: row.calls for row in _summed(world, f"tag:{odd}", "route", "tag:team")} == {
        ("x", ROUTE, "red"): 1,
        ("", ROUTE, "red"): 1,
        ("", ROUTE, "blue"): 1,
        ("", ROUTE, ""): 2,
    }
    for name in ("tag", "tag:"):
        with pytest.raises(InvalidRequest, match="which tag"):
            _summed(world, name)


def test_a_span_has_an_end(world: World) -> None:
    lease, jobs = world.running(2)
    world.end(lease, jobs)
    for at, job in enumerate(jobs):
        world.sql("UPDATE attempts SET started_at = :at WHERE id = :id", at=1000.0 + at, id=job.attempt_id)
    assert [row.calls for row in _summed(world, since=1000, until=1001)] == [1]
    assert [row.calls for row in _summed(world, since=1000, until=1001.5)] == [2]


def test_what_no_list_knows_is_counted_and_named(world: World) -> None:
    lease, jobs = world.running(4)
    world.finish(
        finished(jobs[0], lease, outcome=Outcome.SUCCEEDED, cost=None),
        finished(jobs[1], lease, WAIT, outcome=Outcome.TIMEOUT, cost=None, estimated=True),
        finished(jobs[2], lease, WAIT, outcome=Outcome.RATE_LIMITED, cost="0"),
        finished(jobs[3], lease, cost="0.5"),
    )
    assert [(row.unpriced, row.cost_usd) for row in _summed(world)] == [(2, Decimal("0.5"))]
    with world.store.read() as connection:
        assert costs.unpriced(connection, Span()) == [("bedrock", MODEL, f"wire.{MODEL}", 2)]
        assert costs.unpriced(connection, Span(until=1.0)) == []
    world.sql(
        "UPDATE attempts SET price_terms = :noted", noted=price_records.write_terms(None, Usage(), "approximately")
    )
    assert [row.approximate_usd for row in _summed(world)] == [Decimal("0.5")]
    world.sql("UPDATE attempts SET price_terms = :plain", plain=price_records.write_terms('{"note":', Usage()))
    assert [row.approximate_usd for row in _summed(world)] == [Decimal(0)]


def test_the_role_tells_the_result_from_what_failover_cost(world: World) -> None:
    late = world.lease()
    world.add(spec("rescued"))
    (slept,) = world.take(late, world.dispatch())
    world.let_die(late)
    world.rescue()
    lease = world.lease()
    (again,) = world.take(lease, world.dispatch())
    world.end(lease, [again], cost="1")
    world.finish(finished(slept, late, cost="2"))

    # a realtime call and its hedge that both came to an end: the hedge was first
    world.add(spec("raced", latency=Latency.REALTIME))
    (first,) = world.take(lease, world.dispatch())
    target = CallTarget(lease, OTHER_ROUTE, "vertex", MODEL, MODEL, Latency.REALTIME)
    hedge = first._replace(target=target, attempt_id="r" * 32)
    with world.store.write() as connection:
        assert add_attempt(connection, hedge, now=1000, estimate=None, purpose=AttemptPurpose.HEDGE)
    world.sql("UPDATE attempts SET latency = 'realtime' WHERE job_id = :id", id=first.id)
    world.finish(finished(hedge, lease, cost="4"))
    world.finish(replace(finished(first, lease, cost="8"), next=None))

    world.add(spec("failed"), spec("lost"), spec("runs"))
    failed, lost, _ = world.take(lease, world.dispatch())
    world.finish(finished(failed, lease, End(JobState.FAILED), outcome=Outcome.SERVER_ERROR, cost="16"))
    world.finish(finished(lost, lease, WAIT, outcome=Outcome.CANCELLED, cost="32", estimated=True))
    probe = world.take(lease, [world.probe()])
    world.end(lease, probe, cost="64")
    roles = {row.group[0]: (row.cost_usd, row.estimated_usd) for row in _summed(world, "role")}
    assert roles == {
        "result": (Decimal(1 + 4), Decimal(0)),
        "late": (Decimal(2 + 8), Decimal(0)),
        "failed": (Decimal(16), Decimal(0)),
        "lost": (Decimal(0), Decimal(32)),
        "probe": (Decimal(64), Decimal(0)),
        "": (Decimal(0), ESTIMATE),
    }
    assert [row.cost_usd for row in costs_without_probes(world)] == [1 + 2 + 4 + 8 + 16]


def costs_without_probes(world: World) -> list[CostRow]:
    with world.store.read() as connection:
        return costs.summed(connection, [], Span(), probes=False)


def test_what_prompt_caches_saved_is_exact(world: World) -> None:
    _, jobs = world.running(3)
    listed = orjson.dumps(
        {"input": "2", "output": "10", "cache_read": "0.1", "cache_write_5m": "2.5", "cache_write_1h": "4"}
    ).decode()
    for job, usage, factors in zip(
        jobs, (Usage(5, 5, 1_000, 300, 7), Usage(5, 5, 3), Usage(5, 5)), ('{"regional":"1.1"}', "{}", "{}"), strict=True
    ):
        settlement = Settlement(
            job.attempt_id,
            Outcome.SUCCEEDED,
            1,
            usage=usage,
            cost_usd=Decimal(1),
            list_price=listed,
            multipliers=factors,
        )
        world.finish(Transition(job, settlement, SUCCESS))
    world.sql("UPDATE attempts SET started_at = 1795391999")
    with world.store.read() as connection:
        (saving,) = cost_savings.cache_savings(connection, Span())
        assert cost_savings.cache_savings(connection, Span(until=5)) == []
    # 1,000 x (2 - 0.1) x 1.1 + 3 x (2 - 0.1) = 2095.7; (300 x (2.5 - 2) + 7 x (4 - 2)) x 1.1 = 180.4
    assert saving == cost_savings.CacheSaving(
        "2026-11-22", MODEL, 1_003, 307, Decimal("0.0020957"), Decimal("0.0001804")
    )


def test_no_sum_overflows(world: World) -> None:
    """SQLite's own sum fails at 9.2 million USD."""
    world.batch("absurd", *specs(4, tenant="acme"))
    lease = world.lease()
    for job in world.take(lease, world.dispatch(4)):
        world.end(lease, [job], cost="4000000.000000000001")
    (total,) = _summed(world)
    assert total.cost_usd == Decimal("16000000.000000000004")
    assert world.progress("absurd").cost_usd == pytest.approx(Decimal(16_000_000))
    with world.store.read() as connection:
        (spent,) = spending.by_route(connection, world.store.now(connection)).values()
    assert spent.settled_usd == pytest.approx(Decimal(16_000_000))
    with world.store.read() as connection:
        (tally,) = AttemptCounter().read(connection, world.store.now(connection)).values()
    assert tally.cost_usd == Decimal("16000000.000000000004")
