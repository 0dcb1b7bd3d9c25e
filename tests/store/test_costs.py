"""Sums of what calls cost."""

from decimal import Decimal

import pytest
from tests.store.world import ESTIMATE, OTHER_ROUTE, ROUTE, WAIT, World, finished, specs

from trivet_tasks.errors import InvalidRequest
from trivet_tasks.outcomes import Outcome
from trivet_tasks.store import costs
from trivet_tasks.store.costs import CostRow


def _summed(world: World, *by: str, since: float = 0) -> list[CostRow]:
    with world.store.read() as connection:
        return costs.summed(connection, by, since)


def _work(world: World) -> None:
    """Two routes: one cheap with a timeout and a call that still runs, one dear; an answer without a price."""
    world.batch("contracts", *specs(6, tenant="acme"))
    lease = world.lease()
    jobs = world.take(lease, world.dispatch(4))
    world.end(lease, jobs[:1], cost="0.10")
    world.finish(finished(jobs[1], lease, WAIT, outcome=Outcome.TIMEOUT, cost="0.3", estimated=True))
    world.end(lease, jobs[2:3], cost=None)
    dear = world.take(lease, world.dispatch(2), route=OTHER_ROUTE)
    world.end(lease, dear, cost="2")


def test_settled_sums_estimates_and_what_has_no_price_stand_apart(world: World) -> None:
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
    world.end(lease, world.take(lease, world.dispatch(), route=OTHER_ROUTE), cost="1")
    assert [row.group for row in _summed(world, "route")] == [(OTHER_ROUTE,), (ROUTE,)]


@pytest.mark.parametrize("by", list(costs.GROUPINGS))
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


def test_nothing_costs_nothing(world: World) -> None:
    assert _summed(world) == [CostRow((), 0, 0, 0, 0, Decimal(0), Decimal(0), 0)]
    assert _summed(world, "route") == []


def test_an_unknown_grouping_is_an_error_naming_the_known(world: World) -> None:
    with pytest.raises(InvalidRequest, match="'colour'") as caught:
        _summed(world, "colour")
    assert "route" in caught.value.hint
