"""Knowledge of the routes survives the shared state losing everything."""

from typing import Any

from tests.builders import unique
from tests.databases import database_of, rows
from tests.timing import until

from trivet.testing import RunningTrivet
from trivet_store.cluster import health
from trivet_tasks.shared_state import connect

TERMS: dict[str, Any] = {"model": "claude-sonnet-5-5", "max_tokens": 40}
BEDROCK = "bedrock-us-east-1"


def forget_everything(system: RunningTrivet) -> float:
    """FLUSHALL: limits, health, queues, notices. Returns when, on the database's clock."""
    shared = connect(system.settings.redis_url)
    now = system.admin.now()
    shared.flushall()
    shared.close()
    return now


def calls_since(system: RunningTrivet, moment: float, route: str | None = None) -> list[tuple[str, str, float]]:
    """(route, purpose, seconds after the moment) of the attempts begun since."""
    begun = "SELECT route, purpose, started_at FROM attempts WHERE started_at > :moment"
    found = rows(system.settings, begun, moment=moment)
    return [(row.route, row.purpose, row.started_at - moment) for row in found if route in (None, row.route)]


def test_a_route_that_was_out_of_service_stays_out(system: RunningTrivet) -> None:
    system.simulator.fault("bedrock", "overloaded")
    batch = system.client.submit_many([{"prompt": f"Before {i}"} for i in range(30)], name=unique("before"), **TERMS)
    assert {result.status for result in batch.results(timeout=60)} == {"succeeded"}
    with database_of(system.settings) as store, store.read() as connection:
        states = {(row.route, row.state) for row in health.noted(connection)}
    assert (BEDROCK, "open") in states
    moment = forget_everything(system)
    batch = system.client.submit_many([{"prompt": f"After {i}"} for i in range(30)], name=unique("after"), **TERMS)
    assert {result.status for result in batch.results(timeout=60)} == {"succeeded"}
    assert {purpose for _, purpose, _ in calls_since(system, moment, BEDROCK)} <= {"probe"}


def test_no_call_is_made_inside_a_pause_that_a_provider_asked_for(system: RunningTrivet) -> None:
    for provider in ("anthropic", "bedrock", "vertex"):
        system.simulator.fault(provider, "rate_limited", for_s=6, retry_after_s=6)
    batch = system.client.submit_many([{"prompt": f"Paused {i}"} for i in range(6)], name=unique("paused"), **TERMS)
    system.simulator.wait_for_calls(3, 60)
    _until_paused(system)
    moment = forget_everything(system)
    assert {result.status for result in batch.results(timeout=60)} == {"succeeded"}
    found = rows(system.settings, "SELECT route, closed_until FROM route_limits")
    pauses = {row.route: row.closed_until - moment for row in found}
    assert min(pauses.values()) > 0.5, "the pauses were not over when everything was forgotten"
    for route, _, after_s in calls_since(system, moment):
        assert after_s >= pauses[route] - 0.05


def _until_paused(system: RunningTrivet) -> None:
    """Wait until SQL knows that all three routes are paused."""
    paused = "SELECT route FROM route_limits WHERE closed_until > :soon"
    until(lambda: len(rows(system.settings, paused, soon=system.admin.now() + 0.5)) == 3, "three paused routes")
