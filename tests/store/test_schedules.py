"""Schedules in the database: each time has one run, runs outlive their schedulers, and what was missed is made up or not."""

from collections.abc import Callable, Collection
from datetime import datetime
from typing import Any

import pytest
from tests.store.world import World, together

from trivet_store import retention, schedule_runs, schedules
from trivet_store.schedule_runs import MAX_LOST, ClaimedRun, Run, RunKey
from trivet_store.schedules import LATE_S
from trivet_tasks.config.schedules import ScheduleSettings
from trivet_tasks.errors import InvalidRequest, NotFound
from trivet_tasks.states import RunState

TTL_S = 15.0
HOUR_S = 3_600.0
ZURICH = {"timezone": "Europe/Zurich"}


def at(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def entry(name: str = "nightly", **terms: Any) -> ScheduleSettings:
    return ScheduleSettings.model_validate({"name": name, "crontab": "30 2 * * *", "bulk": "mails.jsonl", **terms})


class Schedulers:
    """Schedulers over one database, at a time that the test sets."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world = world
        self.now = at("2026-03-28T00:00Z")
        monkeypatch.setattr(world.store, "now", lambda _: self.now)

    def register(self, *entries: ScheduleSettings) -> list[str]:
        with self.world.store.write() as connection:
            return schedules.register(self.world.store, connection, entries)

    def look(
        self, *entries: ScheduleSettings, by: str = "one", limit: int = 9, without: Collection[RunKey] = ()
    ) -> list[ClaimedRun]:
        """Fire and claim, as a scheduler with this file does."""
        known = {one.name: one for one in entries}
        with self.world.store.read() as connection:
            if not schedules.work_is_due(self.world.store, connection, known):
                return []
        with self.world.store.write() as connection:
            schedules.fire(self.world.store, connection, known)
            return schedule_runs.claim(
                self.world.store, connection, known, by=by, ttl_s=TTL_S, limit=limit, without=without
            )

    def renew(self, run: RunKey, by: str) -> bool:
        with self.world.store.write() as connection:
            return not schedule_runs.renew(self.world.store, connection, [run], by=by, ttl_s=TTL_S)

    def end(self, run: RunKey, by: str = "one", **how: Any) -> bool:
        with self.world.store.write() as connection:
            return schedule_runs.end(self.world.store, connection, run, by=by, **how)

    def release(self, run: RunKey, by: str = "one", **how: Any) -> None:
        with self.world.store.write() as connection:
            schedule_runs.release(self.world.store, connection, run, by=by, **how)

    def change(self, what: Callable[..., Any], name: str = "nightly") -> Any:
        with self.world.store.write() as connection:
            return what(self.world.store, connection, name, by="ana@build-7")

    def runs(self, name: str = "nightly") -> list[Run]:
        with self.world.store.read() as connection:
            return schedules.runs(connection, name, 1_000)[::-1]

    def planned(self, name: str = "nightly") -> list[float]:
        return [run.planned_at for run in self.runs(name)] if self.world.value(
            "SELECT count(*) FROM schedule_runs WHERE name = :name", name=name
        ) else []  # fmt: skip


@pytest.fixture
def fleet(world: World, monkeypatch: pytest.MonkeyPatch) -> Schedulers:
    return Schedulers(world, monkeypatch)


def test_each_time_has_one_run_through_both_changes_of_the_clock(fleet: Schedulers) -> None:
    daily, quarters = entry(**ZURICH), entry("quarters", crontab="*/15 * * * *", **ZURICH)
    for begin, local in (("2026-03-28T12:00Z", "2026-03-29T03:00"), ("2026-10-24T12:00Z", "2026-10-25T02:30")):
        fleet.now = at(begin)
        fleet.world.sql("DELETE FROM schedules")
        fleet.world.sql("DELETE FROM schedule_runs")
        fleet.register(daily, quarters)
        for step in range(24 * 4):
            fleet.now = at(begin) + 900.0 * (step + 1) + 1
            for by in ("one", "two"):
                for run in fleet.look(daily, quarters, by=by):
                    assert fleet.end(run.key, by)
        assert len(fleet.planned()) == 1
        assert fleet.runs()[0].batch == f"nightly-{local}"
        assert fleet.planned("quarters") == [at(begin) + 900.0 * (step + 1) for step in range(24 * 4)]
        names = [run.batch for run in fleet.runs("quarters")]
        assert len(set(names)) == len(names), "no batch has the name of another"


def test_schedulers_that_look_at_once_begin_one_run(fleet: Schedulers) -> None:
    nightly = entry()
    fleet.register(nightly)
    claimed: list[ClaimedRun] = []
    for day in range(5):
        fleet.now = at("2026-03-28T02:30:01Z") + day * 24 * HOUR_S
        together(*(lambda by=by: claimed.extend(fleet.look(nightly, by=by)) for by in "abcd"))
        assert len(claimed) == day + 1
        assert any(fleet.end(claimed[-1].key, by) for by in "abcd")
    assert [run.key.planned_at for run in claimed] == fleet.planned()


def test_a_new_schedule_begins_with_its_next_time(fleet: Schedulers) -> None:
    fleet.now = at("2026-03-28T12:00Z")
    assert fleet.register(entry()) == ["nightly: bulk mails.jsonl, 30 2 * * * UTC"]
    assert fleet.register(entry()) == []
    assert fleet.look(entry()) == []
    with fleet.world.store.read() as connection:
        (found,) = schedules.every(connection)
    assert (found.next_at, found.last, found.work) == (at("2026-03-29T02:30Z"), None, "bulk mails.jsonl")


def test_a_run_of_a_scheduler_that_died_goes_on_elsewhere(fleet: Schedulers) -> None:
    nightly = entry()
    fleet.register(nightly)
    fleet.now = at("2026-03-28T02:30:01Z")
    (run,) = fleet.look(nightly, by="one")
    fleet.now += TTL_S - 1
    assert fleet.renew(run.key, "one")
    fleet.now += TTL_S - 1
    assert fleet.look(nightly, by="two") == [], "it is renewed"
    fleet.now += 1
    (again,) = fleet.look(nightly, by="two")
    assert (again.key, again.failures) == (run.key, 0), "its scheduler's death is no failed try"
    assert not fleet.renew(run.key, "one"), "it was only hung, and learns that another has it"
    assert not fleet.end(run.key, "one", error="late")
    assert fleet.end(run.key, "two", result="4 jobs")
    (done,) = fleet.runs()
    assert (done.state, done.result, done.error) == (RunState.DONE, "4 jobs", None)
    fleet.now += HOUR_S
    assert fleet.look(nightly) == []


def test_a_scheduler_whose_leases_ran_out_in_its_sleep_begins_nothing_twice(fleet: Schedulers) -> None:
    nightly = entry()
    fleet.register(nightly)
    fleet.now = at("2026-03-28T02:30:01Z")
    (run,) = fleet.look(nightly, by="one")
    fleet.now += 60
    assert fleet.look(nightly, by="one", without={run.key}) == []
    assert fleet.renew(run.key, "one")
    assert fleet.end(run.key, "one")


def test_a_run_whose_schedulers_all_die_is_given_up(fleet: Schedulers) -> None:
    nightly = entry()
    fleet.register(nightly)
    fleet.now = at("2026-03-28T02:30:01Z")
    for _ in range(MAX_LOST):
        assert [run.failures for run in fleet.look(nightly)] == [0]
        fleet.now += TTL_S
    assert fleet.look(nightly) == []
    assert fleet.runs()[0].error == f"{MAX_LOST} schedulers ended while they did it."


@pytest.mark.parametrize("missed", ["skip", "once"])
def test_times_without_a_scheduler_are_made_up_for_once_or_not_at_all(fleet: Schedulers, missed: str) -> None:
    nightly = entry(missed=missed)
    fleet.register(nightly)
    fleet.now = at("2026-03-31T12:00Z")
    latest = at("2026-03-31T02:30Z")
    begun = fleet.look(nightly)
    assert [run.key.planned_at for run in begun] == ([latest] if missed == "once" else [])
    assert all(fleet.end(run.key) for run in begun)
    assert fleet.look(nightly) == []
    (said,) = [line for line in fleet.world.events() if line.startswith("schedule missed")]
    if missed == "once":
        assert said.endswith("from 2026-03-28T02:30:00Z on, when no scheduler ran; runs once, for 2026-03-31T02:30:00Z")
    else:
        assert said.endswith("missed 2026-03-28T02:30:00Z to 2026-03-31T02:30:00Z, when no scheduler ran; skipped")
    fleet.now = at("2026-04-01T02:30Z")
    assert [run.key.planned_at for run in fleet.look(nightly)] == [fleet.now], "the next time is as ever"


def test_a_scheduler_that_restarts_around_a_time_still_begins_its_run(fleet: Schedulers) -> None:
    nightly = entry()
    fleet.register(nightly)
    fleet.now = at("2026-03-28T02:30Z") + LATE_S
    assert len(fleet.look(nightly)) == 1
    assert not any(line.startswith("schedule missed") for line in fleet.world.events())


def test_a_run_goes_on_when_only_the_times_of_its_entry_change(fleet: Schedulers) -> None:
    old, new = entry(), entry(crontab="0 12 * * *", missed="once", enabled=False)
    fleet.register(old)
    fleet.now = at("2026-03-28T02:30:01Z")
    (run,) = fleet.look(old)
    fleet.release(run.key, after_s=60.0, error="mails.jsonl: no such file.")
    fleet.register(new)
    fleet.now += 60
    assert fleet.look(new) == [ClaimedRun(run.key, by_hand=False, failures=1)]
    assert fleet.end(run.key)
    assert [(one.batch, one.state) for one in fleet.runs()] == [("nightly-2026-03-28T02:30", RunState.DONE)]


def test_a_run_whose_entry_has_other_work_is_superseded(fleet: Schedulers) -> None:
    old, new = entry(), entry(crontab="0 12 * * *", max_tokens=5)
    fleet.register(old)
    fleet.now = at("2026-03-28T02:30:01Z")
    (run,) = fleet.look(old)
    assert fleet.register(new) == ["nightly: bulk mails.jsonl, 0 12 * * * UTC"]
    assert fleet.renew(run.key, "one"), "what has begun goes on"
    fleet.now += TTL_S
    assert fleet.look(new) == []
    (superseded,) = fleet.runs()
    assert (superseded.state, superseded.error) == (RunState.SUPERSEDED, None)
    assert superseded.result is not None
    assert superseded.result.startswith("Its entry was changed to other work before it was done.")
    assert not any(line.startswith("schedule failed") for line in fleet.world.events())
    assert any(line.startswith("schedule superseded: nightly of 2026-03-28T02:30:00Z") for line in fleet.world.events())
    fleet.now = at("2026-03-28T12:00:01Z")
    assert fleet.look(old) == [], "a scheduler with the old file does nothing"
    (begun,) = fleet.look(new)
    assert begun.key.planned_at == at("2026-03-28T12:00Z")


def test_a_removed_schedule_leaves_no_open_run(fleet: Schedulers) -> None:
    fleet.register(entry())
    fleet.now = at("2026-03-28T02:30:01Z")
    (run,) = fleet.look(entry())
    assert fleet.register() == ["nightly: removed"]
    assert fleet.look() == []
    fleet.now += TTL_S
    fleet.look()
    assert fleet.runs()[0].state is RunState.SUPERSEDED
    assert fleet.runs()[0].result == "Its entry was removed before it was done."
    assert not fleet.end(run.key)


def test_a_paused_or_disabled_schedule_is_due_at_no_time(fleet: Schedulers) -> None:
    nightly = entry()
    fleet.register(nightly, entry("off", enabled=False))
    assert fleet.change(schedules.pause)
    assert not fleet.change(schedules.pause)
    fleet.now = at("2026-03-29T02:30:01Z")
    assert fleet.look(nightly, entry("off", enabled=False)) == []
    assert fleet.register(nightly, entry("off", enabled=False)) == [], "a restart changes nothing"
    assert fleet.change(schedules.resume)
    assert not fleet.change(schedules.resume)
    assert fleet.look(nightly) == []
    fleet.now = at("2026-03-30T02:30:01Z")
    assert [run.key.planned_at for run in fleet.look(nightly)] == [at("2026-03-30T02:30Z")]
    assert fleet.world.events()[-2:] == [
        "schedule paused: nightly by ana@build-7",
        "schedule resumed: nightly by ana@build-7",
    ]


def test_a_person_runs_a_schedule_also_a_disabled_one(fleet: Schedulers) -> None:
    off = entry(enabled=False)
    fleet.register(off)
    fleet.now = at("2026-03-28T12:00:07Z") + 0.4
    asked = fleet.change(schedules.ask)
    assert asked == RunKey("nightly", at("2026-03-28T12:00:07Z") + 0.5), "no time at which it is due"
    with pytest.raises(InvalidRequest, match="has a run of this second"):
        fleet.change(schedules.ask)
    (run,) = fleet.look(off)
    assert (run.key, run.by_hand) == (asked, True)
    assert [one.batch for one in fleet.runs()] == ["nightly-2026-03-28T12:00:07"]
    with pytest.raises(NotFound, match="No schedule is called 'none'"):
        fleet.change(schedules.ask, "none")


def test_a_run_that_is_given_back_counts_only_where_it_failed(fleet: Schedulers) -> None:
    nightly = entry()
    fleet.register(nightly)
    fleet.now = at("2026-03-28T02:30:01Z")
    (run,) = fleet.look(nightly)
    fleet.release(run.key)
    (run,) = fleet.look(nightly, by="two")
    assert run.failures == 0, "its scheduler stopped in order"
    fleet.release(run.key, "two", after_s=60.0, error="no such file: \x1b[31mmails.jsonl")
    assert fleet.look(nightly) == []
    assert (fleet.runs()[0].state, fleet.runs()[0].error) == (RunState.WAITING, "no such file: mails.jsonl")
    fleet.now += 60
    assert fleet.look(nightly)[0].failures == 1


def test_no_more_runs_are_claimed_than_asked_for(fleet: Schedulers) -> None:
    entries = [entry(f"s{number}") for number in range(5)]
    fleet.register(*entries)
    fleet.now = at("2026-03-28T02:30:01Z")
    assert [len(fleet.look(*entries, limit=limit)) for limit in (2, 0, 9)] == [2, 0, 3]


def test_old_runs_are_pruned_and_open_ones_stay(fleet: Schedulers) -> None:
    nightly = entry()
    fleet.register(nightly)
    for day in range(3):
        fleet.now = at("2026-03-28T02:30:01Z") + day * 24 * HOUR_S
        (run,) = fleet.look(nightly)
        if day < 2:
            fleet.end(run.key)
    terms = retention.Terms(fleet.now, forget_before=at("2026-03-29T00:00Z"))
    pruned = [step.pruned for step in retention.prune(fleet.world.store, terms, dry_run=True)]
    assert {"schedule_runs": 1} in pruned
    for _ in retention.prune(fleet.world.store, terms):
        pass
    assert fleet.planned() == [at("2026-03-29T02:30Z"), at("2026-03-30T02:30Z")]
    later = retention.Terms(fleet.now, forget_before=fleet.now + HOUR_S)
    for _ in retention.prune(fleet.world.store, later):
        pass
    assert fleet.planned() == [at("2026-03-30T02:30Z")], "it has not ended"
