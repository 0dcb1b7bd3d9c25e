"""One clock for all processes: a wall clock that jumps moves nothing, a database's that does costs no lease."""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Self, cast

import orjson
import pytest
from sqlalchemy import Connection
from tests.builders import call
from tests.command_line import Said
from tests.store.world import MODEL, ROUTE, World
from tests.timing import moved_clock

from trivet import Client
from trivet.times import moment
from trivet_routing.limits import Limits
from trivet_scheduler import housekeeping
from trivet_scheduler.housekeeping import Housekeeping
from trivet_store.cluster import registry
from trivet_store.database.clock import Clock
from trivet_store.database.engine import Store
from trivet_store.migrations.schema_version import ensure
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.config.settings import LeaseSettings
from trivet_tasks.outcomes import Usage
from trivet_tasks.prices.cost_model import CostModel
from trivet_worker.adapters.protocol import Answer
from trivet_worker.run.pricing import Pricing

HOUR_S = 3_600.0
DAY_S = 24 * HOUR_S
OPUS = "claude-opus-4-6"
KEYS = ("submit", "submit_many", "bulk")


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves this process's wall clock."""
    real = time.time

    def move(by_s: float) -> None:
        monkeypatch.setattr("trivet_store.database.clock.time.time", lambda: real() + by_s)

    return move


@pytest.mark.parametrize("by_s", [HOUR_S, -HOUR_S])
def test_a_wall_clock_that_jumps_moves_nothing(world: World, wall: Callable[[float], None], by_s: float) -> None:
    before = world.now()
    world.lease()
    wall(by_s)
    assert before <= world.now() < before + 60
    assert before <= world.store.clock.reckoned() < before + 60
    ensure(world.store)  # a process that starts while a worker lives
    assert before <= world.now() < before + 60


@pytest.mark.parametrize("by_s", [HOUR_S, -HOUR_S])
def test_deadlines_count_from_the_database_s_time_however_a_job_is_submitted(
    world: World,
    trivet: Callable[..., Said],
    wall: Callable[[float], None],
    tmp_path: Path,
    by_s: float,
) -> None:
    world.lease()  # somebody works: the database's clock stays as it is
    wall(-by_s)
    request: dict[str, Any] = {
        "model": MODEL,
        "max_tokens": 10,
        "messages": [{"role": "user", "content": "Hi"}],
        "deadline": 600,
    }
    (tmp_path / "one.jsonl").write_bytes(orjson.dumps({**request, "key": "bulk"}))
    before = world.now()
    with Client(tmp_path / "trivet.toml") as client:
        client.submit(**request, key="submit")
        client.submit_many([{**request, "key": "submit_many"}], name="many")
    assert trivet("bulk", str(tmp_path / "one.jsonl")).code == 0
    after = world.now()
    deadlines = {key: world.value("SELECT deadline_at FROM jobs WHERE key = :key", key=key) for key in KEYS}
    assert {key: before + 600 <= at <= after + 600 for key, at in deadlines.items()} == dict.fromkeys(KEYS, True)


class DatabaseAt:
    """A connection to a PostgreSQL at this time."""

    def __init__(self, now: float) -> None:
        self._now = now

    def execute(self, _statement: object) -> Self:
        return self

    def scalar_one(self) -> float:
        return self._now


@pytest.mark.parametrize(("days", "cost"), [(0, "3"), (1, "1.5")])
def test_a_call_has_the_price_of_the_database_s_day(days: int, cost: str) -> None:
    """Opus 4.6 lost its premium for long prompts on 2026-03-13; the machine's clock says another day."""
    noon = datetime(2026, 3, 12, 12, tzinfo=UTC).timestamp()
    clock = Clock(sqlite=False)
    now = clock.now(cast("Connection", DatabaseAt(noon + days * DAY_S)))
    settings = RouteSettings(provider="anthropic")
    priced = replace(call(model=OPUS, wire_model=OPUS), route=settings)
    costs = CostModel()
    pricing = Pricing(costs, clock.reckoned)
    assert pricing.settled(priced, Answer(b"{}", "end_turn", Usage(300_000), None), 0.5).cost_usd == Decimal(cost)
    assert pricing.maximum_cost(priced.target, settings, 300_000, 0) == Decimal(cost)
    assert costs.maximum(settings, OPUS, OPUS, now, 300_000, 0) == Decimal(cost)


@pytest.mark.parametrize("by_s", [HOUR_S, -HOUR_S])
def test_times_of_the_command_line_are_the_database_s(
    world: World, trivet: Callable[..., Said], wall: Callable[[float], None], by_s: float
) -> None:
    with world.store.write() as connection:
        registry.register(world.store, connection, {ROUTE: RouteSettings(provider="anthropic")}, by="a test")
    world.lease()
    wall(by_s)
    end = world.now() + HOUR_S / 2
    given = trivet("route", "limit", ROUTE, "--requests", "600", "--until", moment(end), "--json")
    assert given.json["overrides"][0]["until"] == pytest.approx(end, abs=30)
    events = trivet("routes", "events", "--since", "30m", "--json").json
    assert [event["kind"] for event in events] == ["route override"]


def test_a_clock_that_is_off_is_set_when_nobody_works(sqlite_world: World, wall: Callable[[float], None]) -> None:
    before = sqlite_world.now()
    wall(HOUR_S)
    ensure(sqlite_world.store)
    assert before + HOUR_S <= sqlite_world.now() < before + HOUR_S + 60
    again = Store(sqlite_world.store.url)
    with again.read() as connection:
        assert again.now(connection) == pytest.approx(sqlite_world.now(), abs=60)
    again.close()


def test_after_a_boot_the_clock_is_set_anew(sqlite_world: World) -> None:
    sqlite_world.lease()
    this_boot = sqlite_world.value("SELECT boot FROM boot_clock")
    sqlite_world.sql('UPDATE boot_clock SET boot = \'an earlier boot\', "offset" = "offset" - 86400')
    assert sqlite_world.now() == pytest.approx(time.time(), abs=60), "until it is set, the wall clock's"
    ensure(sqlite_world.store)
    assert sqlite_world.value("SELECT boot FROM boot_clock") == this_boot
    assert sqlite_world.now() == pytest.approx(time.time(), abs=60)


def test_a_clock_that_jumps_ahead_is_no_death_of_workers(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lease, (job,) = world.running(1)
    rescued: list[str] = []
    limits = cast("Limits", type("Given", (), {"release_all": lambda _, lease_id: rescued.append(lease_id)})())
    keeper = Housekeeping(world.store, limits, lambda jobs, batches: None, LeaseSettings())
    keeper.run()
    moved = moved_clock(monkeypatch, housekeeping)
    now = Clock.now
    monkeypatch.setattr(Clock, "now", lambda self, connection: now(self, connection) + HOUR_S)
    monkeypatch.setattr(Clock, "ahead", property(lambda self: self.reckoned() - time.monotonic() + HOUR_S))
    with caplog.at_level(logging.WARNING, "trivet.scheduler"):
        keeper.run()
    assert "clock jumped by +3600.0 s" in caplog.text
    assert (world.job(job.id).state, rescued) == ("running", [])
    moved.now += LeaseSettings().ttl_s + housekeeping.RENEWED_WITHIN_S  # the term is over, and nobody renewed it
    keeper.run()
    assert (world.job(job.id).state, rescued) == ("waiting", [lease])
