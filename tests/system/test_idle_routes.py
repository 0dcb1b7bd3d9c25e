"""Idle routes are proven by probes: a standby that would refuse its first job shows before there is one."""

from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tests.command_line import Said
from tests.databases import new_database, rows
from tests.timing import until

from trivet.testing import QUICK, RunningTrivet, running_trivet

IDLE_S = 3.0
DEADLINE_S = 60.0
SHOWN_WITHIN_S = IDLE_S + 10
"""The interval, and what a probe may need beside it on a machine that is busy with other tests."""
SECTIONS = {**QUICK, "health": {**QUICK["health"], "idle_probe_s": IDLE_S}}
TERMS: dict[str, Any] = {"model": "claude-sonnet-5-5", "max_tokens": 40}
NEVER, STANDBY, OTHER = "anthropic", "vertex-global", "bedrock-us-east-1"


@pytest.fixture(params=["sqlite", "postgres"])
def system(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunningTrivet]:
    """Three routes that no job was sent to yet; one of them is never probed while it is idle."""
    url = new_database(request, "idle_routes")
    routes = {NEVER: {"idle_probe_s": 0}}
    with running_trivet(tmp_path, store_url=url, sections=SECTIONS, route_settings=routes, workers=1) as trivet:
        yield trivet


def calls(system: RunningTrivet) -> dict[tuple[str, str], tuple[int, Decimal]]:
    """By route and purpose: how many calls were booked, and what they cost."""
    found = rows(
        system.settings,
        "SELECT route, purpose, count(*) AS calls, sum(cost_usd) AS usd FROM attempts"
        " WHERE outcome IS NOT NULL GROUP BY route, purpose",
    )
    return {(row.route, row.purpose): (row.calls, Decimal(str(row.usd or 0))) for row in found}


def test_a_standby_that_refuses_shows_within_its_interval_before_any_job_goes_there(
    system: RunningTrivet, trivet: Callable[..., Said]
) -> None:
    def route(name: str) -> dict[str, Any]:
        found = trivet("routes", "--json").json["routes"]
        return next(entry for entry in found if entry["route"] == name)

    def state(name: str) -> str:
        return str(route(name)["models"][0]["shown_as"])

    system.client.submit("later", not_before=3_600, **TERMS)  # so its model is the one that is probed
    until(lambda: state(STANDBY) == state(OTHER) == "healthy", "probes of the idle routes")
    assert state(NEVER) == "unproven"
    assert route(NEVER)["proven_at"] is None
    assert trivet("routes", "--json").json["now"] - route(STANDBY)["proven_at"] < SHOWN_WITHIN_S
    shown = trivet("routes").out
    assert "PROVEN" in shown
    assert "unproven" in next(line for line in shown.splitlines() if line.startswith(NEVER))

    system.simulator.fault("vertex", "auth")
    system.simulator.down("bedrock")
    until(lambda: state(STANDBY) == "open", "the revoked key to show", within_s=SHOWN_WITHIN_S)
    until(lambda: state(OTHER) == "open", "the closed port to show")
    assert "next probe" in trivet("routes").out
    booked = calls(system)
    assert {purpose for _, purpose in booked} == {"probe"}, "no job was sent anywhere"
    assert {name for name, _ in booked} == {STANDBY, OTHER}
    assert all(usd > 0 for _, usd in booked.values()), "probes are paid for"

    batch = system.client.submit_many(({"prompt": f"document {n}"} for n in range(20)), **TERMS)
    found = list(batch.results(timeout=DEADLINE_S))
    assert {result.status for result in found} == {"succeeded"}
    assert {attempt.route for result in found for attempt in result.attempts} == {NEVER}, "none met an open route"
    assert state(NEVER) == "healthy"
    assert route(NEVER)["proven_at"] is not None

    system.simulator.clear("vertex")
    system.simulator.up("bedrock")
    until(lambda: {state(STANDBY), state(OTHER)} <= {"recovering", "healthy"}, "both to come back")
    made = [call.attempt for call in system.simulator.calls()]
    assert len(set(made)) == len(made)
    assert set(made) <= {row.id for row in rows(system.settings, "SELECT id FROM attempts")}, (
        "every call is one in the ledger"
    )
