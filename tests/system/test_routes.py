"""Operating routes by hand, through the whole system: look, drain, probe, restore, and read what happened."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import text
from tests.builders import unique
from tests.command_line import Said
from tests.timing import until

from trivet.testing import RunningTrivet
from trivet_store import events
from trivet_store.cluster import registry
from trivet_store.database.engine import Store
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.config.settings import load_settings
from trivet_tasks.errors import ProbeNotMade
from trivet_tasks.states import END_STATES

MODEL = "claude-sonnet-5-5"
TERMS: dict[str, Any] = {"model": MODEL, "max_tokens": 40}
PROVIDERS = ("anthropic", "bedrock", "vertex")
ROUTES = ("anthropic", "bedrock-us-east-1", "vertex-global")
DEADLINE_S = 60.0
DRAINED_WITHIN_S = 2.0


@pytest.fixture
def trivet(trivet: Callable[..., Said]) -> Iterator[Callable[..., Said]]:
    """Runs the command line in this process; every route is in service again at the end."""
    yield trivet
    for name in ROUTES:
        trivet("route", "restore", name)


@pytest.fixture
def store(system: RunningTrivet) -> Iterator[Store]:
    store = Store(load_settings(system.local.config_path).store_url)
    yield store
    store.close()


def state_of(trivet: Callable[..., Said], route: str, model: str = MODEL) -> dict[str, Any]:
    (found,) = [entry for entry in trivet("routes", "--json").json["routes"] if entry["route"] == route]
    return next((entry for entry in found["models"] if entry["model"] == model), found["models"][0])


def open_up(system: RunningTrivet, trivet: Callable[..., Said], provider: str, route: str) -> None:
    """Fail calls of a provider until its route is open; the others are drained meanwhile."""
    system.simulator.fault(provider, "overloaded")
    for other in ROUTES:
        if other != route:
            trivet("route", "drain", other)
    jobs = [system.client.submit(unique("open"), latency="batch", **TERMS)]

    def opened() -> bool:
        if jobs[-1].state in END_STATES:  # a worker may not know of the drains for a second: another served it
            jobs.append(system.client.submit(unique("open"), latency="batch", **TERMS))
        return bool(state_of(trivet, route)["state"] == "open")

    try:
        until(opened, "an open route")
    finally:
        jobs[-1].cancel()


def test_a_drain_empties_the_queue_within_two_seconds_and_nothing_new_begins_there(
    trivet: Callable[..., Said], system: RunningTrivet, store: Store
) -> None:
    for provider in PROVIDERS:
        system.simulator.latency(provider, median_s=0.6)
    batch = system.client.submit_many(
        ({"prompt": f"drain {number}"} for number in range(900)), name=unique("drain"), **TERMS
    )

    def outstanding() -> tuple[str, int]:
        with store.read() as connection:
            rows = connection.execute(
                text(
                    "SELECT route, count(*) AS queued FROM jobs WHERE state = 'dispatched' AND route IS NOT NULL"
                    " GROUP BY route ORDER BY count(*) DESC"
                )
            ).all()
        return (str(rows[0].route), int(rows[0].queued)) if rows else ("", 0)

    until(lambda: outstanding()[1] > 5, "a queue to fill up")
    route = outstanding()[0]
    said = trivet("route", "drain", route, "--why", "a test", "--json").json
    assert (said["route"], said["drained"], said["was_drained"]) == (route, True, False)
    assert said["queued"] + said["running"] > 0

    def left() -> tuple[int, float, float]:
        with store.read() as connection:
            queued = connection.execute(
                text("SELECT count(*) FROM jobs WHERE state = 'dispatched' AND route = :route"), {"route": route}
            ).scalar_one()
            return queued, store.now(connection), events.last_drains(connection)[route].at

    until(lambda: left()[0] == 0, "the drained route to be empty")
    _, emptied_at, drained_at = left()
    assert emptied_at - drained_at < DRAINED_WITHIN_S + 2  # two more for a machine that is busy with other tests
    entry = next(one for one in trivet("routes", "--json").json["routes"] if one["route"] == route)
    assert (entry["drained"], entry["drained_why"]) == (True, "by an operator: a test")
    again = trivet("route", "drain", route)
    assert f"{route} was drained before" in again.out

    found = list(batch.results(timeout=DEADLINE_S))
    assert {result.status for result in found} == {"succeeded"}
    late = [
        attempt
        for result in found
        for attempt in result.attempts
        if attempt.route == route and attempt.started_at > drained_at + DRAINED_WITHIN_S
    ]
    assert late == []
    assert max(attempt.started_at for result in found for attempt in result.attempts) > drained_at + DRAINED_WITHIN_S


def test_a_probe_by_hand_says_what_came_of_it_and_is_nobodys_job(trivet: Callable[..., Said]) -> None:
    newest = trivet("job", "list", "--limit", "1", "--json").json
    said = trivet("route", "probe", "bedrock-us-east-1", "--model", MODEL, "--json")
    assert said.code == 0
    probed = said.json
    assert (probed["made"], probed["good"], probed["outcome"], probed["state"]) == (True, True, "succeeded", "healthy")
    assert probed["request_id"]
    assert float(probed["cost_usd"]) > 0
    assert trivet("job", "list", "--limit", "1", "--json").json == newest
    life = trivet("job", "show", probed["job_id"])
    assert "a probe of Trivet's own" in life.out
    assert "probe 1 on bedrock-us-east-1: succeeded" in life.out
    rows = {row["purpose"]: row for row in trivet("costs", "--by", "purpose", "--since", "1h", "--json").json["rows"]}
    assert rows["probe"]["calls"] >= 1
    assert rows["probe"]["jobs"] == 0
    in_words = trivet("route", "probe", "bedrock-us-east-1")
    assert (in_words.code, in_words.err) == (0, "")
    assert "outcome  succeeded" in in_words.out
    assert "Next: it gets all of its work." in in_words.out


def test_probes_by_hand_work_on_drained_and_open_routes(trivet: Callable[..., Said], system: RunningTrivet) -> None:
    open_up(system, trivet, "anthropic", "anthropic")
    until(lambda: trivet("route", "probe", "anthropic", "--model", MODEL).out != "")  # none of the fleet's under way
    failed = trivet("route", "probe", "anthropic", "--model", MODEL)
    assert failed.code == 1
    if failed.out:  # else the fleet's own probe was quicker
        assert "outcome  overloaded (529)" in failed.out
        assert "Next: 3 good probes in a row" in failed.out
    trivet("route", "drain", "anthropic")
    system.simulator.clear("anthropic")
    until(lambda: trivet("route", "probe", "anthropic", "--model", MODEL).code == 0)
    until(lambda: state_of(trivet, "anthropic")["state"] in ("probing", "recovering"))
    said = trivet("route", "probe", "vertex-global")
    assert said.code == 0
    assert "It is drained" in said.out


def test_a_probe_that_cannot_be_made_says_why(trivet: Callable[..., Said], system: RunningTrivet, store: Store) -> None:
    assert "does not serve claude-nonsense" in trivet("route", "probe", "anthropic", "--model", "claude-nonsense").err
    assert "Did you mean anthropic?" in trivet("route", "probe", "antropic").err
    with store.write() as connection:
        registry.register(store, connection, {"lonely": RouteSettings(provider="anthropic")})
    try:
        lonely = trivet("route", "probe", "lonely", "--json")
        assert lonely.code == 1
        assert lonely.json["made"] is False
        assert lonely.json["why"].startswith("No living worker serves lonely.")
    finally:
        with store.write() as connection:
            connection.execute(text("DELETE FROM routes WHERE name = 'lonely'"))
    open_up(system, trivet, "bedrock", "bedrock-us-east-1")
    system.simulator.fault("bedrock", "hang")

    def first() -> None:
        with contextlib.suppress(ProbeNotMade):  # the fleet's own is under way
            system.admin.routes.probe("bedrock-us-east-1", model=MODEL)

    def second_is_refused() -> bool:
        beside.submit(first)  # it hangs for a second, this one or the fleet's own
        return "is under way already" in trivet("route", "probe", "bedrock-us-east-1", "--model", MODEL).err

    with ThreadPoolExecutor(1) as beside:
        until(second_is_refused, "a second probe to be refused")


def test_no_probe_is_made_inside_a_pause_that_the_provider_asked_for(
    trivet: Callable[..., Said], system: RunningTrivet
) -> None:
    for provider in PROVIDERS:
        system.simulator.fault(provider, "rate_limited", for_s=30, retry_after_s=30)
    name = unique("throttled")
    batch = system.client.submit_many([{"prompt": f"Patient {i}"} for i in range(6)], name=name, **TERMS)
    until(lambda: all(state_of(trivet, route)["state"] == "limited" for route in ROUTES))
    said = trivet("route", "probe", "vertex-global", "--model", MODEL)
    assert said.code == 1
    assert "vertex-global is limited for " in said.err
    assert "No call is made before, not even a probe." in said.err

    until(lambda: (trivet("batch", "status", name, "--json").json["note"] or "").startswith("Throttled, next headroom"))
    status = trivet("batch", "status", name, "--json").json
    assert status["note"].endswith(tuple(f" s on {route}." for route in ROUTES))
    assert {reason.split(":")[0] for reason in status["reasons"]} == set(ROUTES)
    assert "Throttled, next headroom in " in trivet("batch", "status", name).out
    shown = trivet("routes")
    assert f"(batch {MODEL})." in shown.out
    assert "Throttled, next headroom in " in shown.out
    (held,) = trivet("routes", "--json").json["held_up"]
    assert held["kind"] == "throttled"
    batch.cancel()


def test_events_tell_what_happened_and_why_in_order(trivet: Callable[..., Said], system: RunningTrivet) -> None:
    route = "vertex-global"
    since = datetime.now(UTC).isoformat()
    open_up(system, trivet, "vertex", route)
    trivet("route", "drain", route, "--why", "waiting for the provider")
    trivet("route", "restore", route)
    found = trivet("routes", "events", route, "--since", since, "--json").json
    kinds = [event["kind"] for event in found if event["model"] in (MODEL, "*")]
    assert kinds[0] == "route open"
    assert kinds[-3:] == ["route drained", "route restored", "route healthy"]
    assert [event["at"] for event in found] == sorted(event["at"] for event in found)
    assert all(event["route"] == route for event in found)
    opened = next(event for event in found if event["kind"] == "route open")
    assert opened["text"].startswith("overloaded: ")
    in_words = trivet("routes", "events", "--since", since).out
    assert "by an operator: waiting for the provider" in in_words
    assert in_words.splitlines()[0].split() == ["AT", "ROUTE", "MODEL", "WHAT", "CAUSE"]
    assert trivet("routes", "events", "--since", "0s").out.startswith("Nothing happened since ")


def test_a_realtime_job_that_fails_names_every_route_and_why(
    trivet: Callable[..., Said], system: RunningTrivet
) -> None:
    trivet("route", "drain", "anthropic")
    for provider in ("bedrock", "vertex"):
        system.simulator.fault(provider, "overloaded")
    results = [_asked(system)]
    while results[-1].error is None:  # a worker may not know of the drain for a second
        assert len(results) < 100
        results.append(_asked(system))
    result = results[-1]
    for words in ("anthropic: drained by an operator", "bedrock-us-east-1: overloaded", "vertex-global: overloaded"):
        assert words in result.error.message
    until(lambda: _asked(system).error.message.count("next probe in") == 2)  # both open by now
    for provider in PROVIDERS:
        system.simulator.fault(provider, "rate_limited", for_s=30, retry_after_s=30)
    for name in ROUTES:
        trivet("route", "restore", name)
    until(lambda: _asked(system).error.message.count("next headroom in") == 3, "three limited routes")


def _asked(system: RunningTrivet) -> Any:
    return system.client.submit(unique("asked"), latency="realtime", **TERMS).result(timeout=60)
