"""Runs of schedules as processes: their results, files and faults; and the command line over them."""

import csv
import gzip
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from tests.command_line import Said
from tests.store.world import World
from tests.timing import until

from trivet_scheduler.schedules import ScheduleRunner
from trivet_store import schedules
from trivet_store.schedule_runs import Run
from trivet_tasks.config.settings import Settings, load_settings
from trivet_tasks.states import RunState

ENTRIES = """
[[schedules]]
name = "nightly"
crontab = "30 6 * * *"
timezone = "Europe/Zurich"
bulk = "mails"
model = "claude-sonnet-5-5"
max_tokens = 50
tenant = "acme"
tags = { team = "search" }
[[schedules]]
name = "broken"
crontab = "0 0 1 1 *"
bulk = "none.jsonl"
[[schedules]]
name = "money"
crontab = "0 0 1 1 *"
report = "costs"
out = "reports/{name}-{time}.csv"
[[schedules]]
name = "tidy"
crontab = "0 0 1 1 *"
prune = true
older_than = "30d"
"""


@pytest.fixture
def settings(world: World, store_url: str, tmp_path: Path) -> Settings:
    """A configuration with schedules over the world's database; no server listens where the shared state should be."""
    config = tmp_path / "trivet.toml"
    config.write_text(f'[store]\nurl = "{store_url}"\n[redis]\nurl = "redis://127.0.0.1:1/0"\n{ENTRIES}')
    settings = load_settings(config)
    with world.store.write() as connection:
        schedules.register(world.store, connection, settings.schedules)
    return settings


@pytest.fixture
def runner(world: World, settings: Settings) -> Iterator[ScheduleRunner]:
    runner = ScheduleRunner(world.store, settings, "scheduler.1@build-7")
    yield runner
    runner.close()


def ask(world: World, *names: str) -> None:
    with world.store.write() as connection:
        for name in names:
            schedules.ask(world.store, connection, name, by="ana@build-7")


def last(world: World, name: str) -> Run:
    with world.store.read() as connection:
        return schedules.runs(connection, name, 1)[0]


def look_until(runner: ScheduleRunner, world: World, name: str, state: RunState) -> Run:
    def look() -> Run:
        runner.look()
        return last(world, name)

    return until(look, f"{name} to be {state}", fits=lambda run: run.state is state)


def test_a_folder_is_submitted_as_one_batch_and_the_others_do_their_work(
    world: World, runner: ScheduleRunner, settings: Settings, tmp_path: Path
) -> None:
    folder = tmp_path / "mails"
    folder.mkdir()
    (folder / "a.jsonl").write_text('{"prompt": "Mail 1"}\n{"prompt": "Mail 2"}')
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(b'{"prompt": "Mail 3", "tenant": "beta"}\n'))
    (folder / "notes.txt").write_text("no request")
    ask(world, "nightly", "money", "tidy")
    nightly = look_until(runner, world, "nightly", RunState.DONE)
    assert nightly.result == "3 jobs"
    found = world.sql(
        "SELECT b.name, j.tenant, j.tags FROM jobs j JOIN batches b ON b.id = j.batch_id ORDER BY j.batch_index"
    )
    name = settings.schedules[0].run_name(nightly.planned_at, by_hand=True)
    assert [(row.name, row.tenant) for row in found] == [(name, "acme"), (name, "acme"), (name, "beta")]
    assert {row.tags for row in found} == {'{"team":"search"}'}
    assert look_until(runner, world, "tidy", RunState.DONE).result == "nothing to delete"
    money = look_until(runner, world, "money", RunState.DONE)
    (report,) = (tmp_path / "reports").iterdir()
    assert money.result == f"written to {report}"
    assert next(csv.reader(report.read_text().splitlines()))[:2] == ["route", "calls"]


def test_a_run_that_fails_says_why_and_is_tried_again_later(world: World, runner: ScheduleRunner) -> None:
    ask(world, "broken")
    runner.look()
    failed = look_until(runner, world, "broken", RunState.WAITING)
    assert failed.error == "none.jsonl: no such file."
    runner.look()
    assert last(world, "broken").state is RunState.WAITING, "not at once"
    world.sql(
        "UPDATE schedule_runs SET claimed_until = 0, failures = 2"
    )  # the time passes, and the second try fails, too
    runner.look()
    failed = look_until(runner, world, "broken", RunState.FAILED)
    assert failed.error == "none.jsonl: no such file."
    assert any(
        line.startswith("schedule failed: broken of ") and line.endswith(": none.jsonl: no such file.")
        for line in world.events()
    )


def test_a_run_that_begins_again_keeps_its_batch_though_the_file_has_changed(
    world: World, runner: ScheduleRunner, settings: Settings, tmp_path: Path
) -> None:
    """Its scheduler dies when the batch is complete and the run is not."""
    folder = tmp_path / "mails"
    folder.mkdir()
    (folder / "a.jsonl").write_text('{"prompt": "Mail 1"}\n{"prompt": "Mail 2"}\n')
    ask(world, "nightly")
    first = look_until(runner, world, "nightly", RunState.DONE)
    (folder / "a.jsonl").write_text('{"prompt": "Another"}\n')
    world.sql("UPDATE schedule_runs SET done_at = NULL, result = NULL, claimed_by = 'dead@build-8', claimed_until = 0")
    again = look_until(runner, world, "nightly", RunState.DONE)
    assert (again.error, again.result, again.batch) == (None, "2 jobs", first.batch)
    assert world.value("SELECT count(*) FROM jobs") == 2


def test_a_scheduler_that_stops_ends_its_runs_and_gives_them_back(
    world: World, runner: ScheduleRunner, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "none.jsonl")  # it is read until somebody writes
    ask(world, "broken")
    runner.look()
    before = psutil.Process().children(recursive=True)
    (child,) = [one for one in before if "bulk" in one.cmdline()]
    assert last(world, "broken").claimed_by == "scheduler.1@build-7"
    runner.close()
    assert not child.is_running()
    given_back = last(world, "broken")
    assert (given_back.state, given_back.error) == (RunState.WAITING, None)


def test_schedules_are_listed_run_paused_and_resumed(
    world: World, settings: Settings, trivet: Callable[..., Said]
) -> None:
    listed = trivet("schedules").out.splitlines()
    assert listed[0].split()[:2] == ["SCHEDULE", "WORK"]
    assert [line.split()[0] for line in listed[1:]] == ["broken", "money", "nightly", "tidy"]
    assert "06:30 +01" in listed[3] or "06:30 +02" in listed[3]
    assert trivet("schedules", "pause", "nightly").out == "nightly is paused.\n"
    assert trivet("schedules", "pause", "nightly").out == "nightly was paused before.\n"
    assert "paused by " in trivet("schedules").out
    assert trivet("schedules", "resume", "nightly", "--json").json == {
        "name": "nightly",
        "changed": True,
        "paused": False,
    }
    assert trivet("schedules", "runs", "nightly").out == "nightly has not run yet.\n"
    assert "as soon as a scheduler takes it" in trivet("schedules", "run", "nightly").out
    (run,) = trivet("schedules", "runs", "nightly", "--json").json
    assert (run["state"], run["done_at"], run["asked_by"] is None) == ("waiting", None, False)
    found = {one["name"]: one for one in trivet("schedules", "--json").json["schedules"]}
    assert found["nightly"]["last"] == run
    assert found["nightly"]["next_at"].endswith(":30:00.000Z")
    unknown = trivet("schedules", "run", "nigthly")
    assert unknown.code == 2
    assert "No schedule is called 'nigthly'. There are: broken, money, nightly, tidy." in unknown.err


def test_without_schedules_the_list_says_how_to_make_one(world: World, trivet: Callable[..., Said]) -> None:
    assert trivet("schedules").out.startswith("There is no schedule: [[schedules]]")
    assert json.loads(trivet("schedules", "--json").out)["schedules"] == []
