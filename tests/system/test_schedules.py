"""A schedule over two schedulers, one of which is killed: on SQLite through the change to summer time.

The clock of PostgreSQL cannot be moved, so there the schedule's next time is moved to now.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import psutil
import pytest
from sqlalchemy import text
from tests.databases import database_of, new_database
from tests.timing import until

from trivet.admin import Run
from trivet.testing import QUICK, RunningTrivet, running_trivet
from trivet_tasks.states import RunState

SCHEDULERS = ("scheduler", "scheduler-2")
BEFORE = datetime.fromisoformat("2027-03-28T01:59:57+01:00").timestamp()
"""Three seconds before the clocks of Zurich go from 02:00 to 03:00."""
CHANGE = BEFORE + 3
NAME = "nightly-2027-03-28T03:00"


@pytest.fixture
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunningTrivet]:
    """Two schedulers and no worker, with a schedule whose file is a pipe: a run lasts until the test writes to it."""
    url = new_database(request, "schedules")
    os.mkfifo(tmp_path / "mails.jsonl")
    schedule = {
        "name": "nightly", "crontab": "30 2 * * *", "timezone": "Europe/Zurich", "bulk": str(tmp_path / "mails.jsonl"),
        "model": "claude-sonnet-5-5", "max_tokens": 40,
    }  # fmt: skip
    sections: dict[str, Any] = {**QUICK, "leases": {"ttl_s": 10.0, "heartbeat_s": 0.5}, "schedules": [schedule]}
    with running_trivet(tmp_path, store_url=url, workers=0, sections=sections) as running:
        running.local.start_part(SCHEDULERS[1], "scheduler")
        running.local.supervisor.wait_ready(SCHEDULERS[1], 150)
        yield running


def move_clock(fleet: RunningTrivet, to: float) -> None:
    """Set the database's clock."""
    with database_of(fleet.settings) as store, store.write() as connection:
        ahead = to - store.now(connection)
        connection.execute(text('UPDATE boot_clock SET "offset" = "offset" + :ahead'), {"ahead": ahead})


def make_due(fleet: RunningTrivet) -> float:
    """Let the schedule be due since the last full minute of the database's clock; returns that time."""
    with database_of(fleet.settings) as store, store.write() as connection:
        minute = store.now(connection) // 60 * 60
        connection.execute(text("UPDATE schedules SET next_at = :minute"), {"minute": minute})
    return minute


def last_run(fleet: RunningTrivet) -> Run | None:
    (schedule,) = fleet.admin.schedules.list().schedules
    return schedule.last


def does_it(fleet: RunningTrivet, batch: str) -> dict[int, psutil.Process]:
    """Return the processes of the run, by the scheduler that started each."""
    found = {}
    for name in SCHEDULERS:
        pid = fleet.local.supervisor.pid(name)
        with contextlib.suppress(psutil.Error):  # it ends at this moment
            for child in psutil.Process(pid).children() if pid else []:
                if batch in child.cmdline():
                    found[child.ppid()] = child
    return found


def is_gone(process: psutil.Process) -> bool:
    """Return whether a process has ended, also one that nobody has asked for its exit code."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def kill_and_go_on(fleet: RunningTrivet, folder: Path, batch: str) -> Run:
    """Kill the scheduler that does the run, and let another end it. Returns the run."""
    before = until(lambda: does_it(fleet, batch), "a scheduler to begin the run")
    ((killed, child),) = before.items()
    os.kill(killed, signal.SIGKILL)
    until(lambda: is_gone(child), "its process to end with it")
    after = until(lambda: does_it(fleet, batch), "another to go on with it")
    assert len(after) == 1
    assert killed not in after
    (folder / "mails.jsonl").write_text("".join(f'{{"prompt": "Mail {number}"}}\n' for number in range(3)))
    run = until(lambda: last_run(fleet), "its end", fits=lambda run: run is not None and run.state is RunState.DONE)
    assert run is not None
    assert (run.batch, run.result) == (batch, "3 jobs")
    assert [one.planned_at for one in fleet.admin.schedules.runs("nightly")] == [run.planned_at]
    assert [(one.name, one.total) for one in fleet.admin.batches.list()] == [(batch, 3)]
    return run


@pytest.mark.parametrize("fleet", ["sqlite"], indirect=True)
def test_a_time_in_the_gap_runs_once_though_its_scheduler_is_killed(fleet: RunningTrivet, tmp_path: Path) -> None:
    move_clock(fleet, BEFORE)
    assert kill_and_go_on(fleet, tmp_path, NAME).planned_at == CHANGE
    (schedule,) = fleet.admin.schedules.list().schedules
    assert schedule.next_at == datetime.fromisoformat("2027-03-29T02:30:00+02:00").timestamp()


@pytest.mark.parametrize("fleet", ["postgres"], indirect=True)
def test_a_time_runs_once_on_postgres_though_its_scheduler_is_killed(fleet: RunningTrivet, tmp_path: Path) -> None:
    due_at = make_due(fleet)
    local = datetime.fromtimestamp(due_at, ZoneInfo("Europe/Zurich"))
    assert kill_and_go_on(fleet, tmp_path, f"nightly-{local:%Y-%m-%dT%H:%M}").planned_at == due_at
    (schedule,) = fleet.admin.schedules.list().schedules
    assert schedule.next_at is not None
    assert schedule.next_at > due_at
