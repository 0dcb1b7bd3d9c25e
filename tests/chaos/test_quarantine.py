"""Jobs that were in flight when a worker died: each runs alone, and only a job that kills its own process is given up."""

import os
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import text
from tests.databases import new_database
from tests.timing import until

from trivet.testing import QUICK, RunningTrivet, running_trivet
from trivet_store.database.engine import Store

TERMS: dict[str, Any] = {"model": "claude-haiku-4-5", "max_tokens": 40}
DEADLINE_S = 120.0
pytestmark = pytest.mark.timeout(400)
SECTIONS: Mapping[str, Mapping[str, Any]] = {
    **QUICK,
    "worker": {**QUICK["worker"], "isolated_processes": 1},
    "leases": {"ttl_s": 2.0, "heartbeat_s": 0.3},
    "classes.batch": {"budget_s": 12, "attempt_timeout_s": 6, "backoff_max_s": 1},
}


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTrivet]:
    """A Trivet whose workers may be killed."""
    url = new_database(request, "quarantined")
    with running_trivet(tmp_path_factory.mktemp("quarantined"), store_url=url, sections=SECTIONS) as trivet:
        yield trivet


@pytest.fixture
def store(running: RunningTrivet) -> Iterator[Store]:
    running.reset()
    store = Store(running.settings.store_url)
    yield store
    store.close()
    running.reset()


def holder(store: Store, job_id: str) -> tuple[int, str] | None:
    """The process that runs the job, by its lease: its id and lane."""
    with store.read() as connection:
        row = connection.execute(
            text(
                "SELECT l.worker, l.lane FROM jobs j JOIN leases l ON l.id = j.lease_id"
                " WHERE j.id = :id AND j.state = 'running'"
            ),
            {"id": job_id},
        ).one_or_none()
    return None if row is None else (int(row.worker.partition("@")[0].rpartition(".")[2]), row.lane)


def kill_holder(store: Store, job_id: str, lane: str, *, not_pid: int = 0) -> int:
    """Kill the process in which the job runs once it does, in this lane and in another process than before."""
    found: list[tuple[int, str]] = []

    def held() -> bool:
        now = holder(store, job_id)
        if now is None or now[1] != lane or now[0] == not_pid:
            return False
        found.append(now)
        return True

    until(held, f"the job to run in the lane {lane}")
    os.kill(found[-1][0], signal.SIGKILL)
    return found[-1][0]


def deaths(store: Store, job_id: str) -> tuple[int, int]:
    """In how many deaths it was in flight, and how many of these processes ran nothing else."""
    with store.read() as connection:
        row = connection.execute(
            text("SELECT crashes, isolated_crashes FROM jobs WHERE id = :id"), {"id": job_id}
        ).one()
    return row.crashes, row.isolated_crashes


def test_a_job_whose_own_process_dies_three_times_is_given_up_and_its_neighbours_are_not(
    running: RunningTrivet, store: Store
) -> None:
    for provider in ("anthropic", "bedrock", "vertex"):
        running.simulator.fault(provider, "hang")
    jobs = [running.client.submit(f"neighbour {n} {time.time_ns()}", latency="batch", **TERMS) for n in range(8)]
    bad, *others = jobs
    until(lambda: all(job.state == "running" for job in jobs), "all jobs to run")
    kill_holder(store, bad.id, "bulk")
    pid = 0
    for count in (1, 2, 3):
        pid = kill_holder(store, bad.id, "isolated", not_pid=pid)
        until(lambda count=count: deaths(store, bad.id)[1] == count, "the death to be counted")  # type: ignore[misc]
    result = bad.result(timeout=DEADLINE_S)
    assert (result.status, result.error and result.error.outcome) == ("failed", "unknown")
    assert result.error is not None
    assert "3 worker processes died while they ran this job and nothing else" in result.error.message
    assert [attempt.outcome for attempt in result.attempts] == ["unknown"] * 4
    running.simulator.reset()
    for job in others:
        good = job.result(timeout=DEADLINE_S)
        assert good.status == "succeeded"
        assert deaths(store, job.id) == (1, 0)


def test_an_orphaned_process_finishes_its_call_and_goes(running: RunningTrivet, store: Store) -> None:
    for provider in ("anthropic", "bedrock", "vertex"):
        running.simulator.fault(provider, "hang")
    job = running.client.submit(f"orphan {time.time_ns()}", latency="batch", **TERMS)
    kill_holder(store, job.id, "bulk")
    until(lambda: (holder(store, job.id) or (0, ""))[1] == "isolated", "it to run isolated")
    held = holder(store, job.id)
    assert held is not None
    pid = held[0]
    os.kill(parent_of(parent_of(pid)), signal.SIGKILL)  # the worker, whose fork server goes with it
    running.simulator.reset()
    assert job.result(timeout=DEADLINE_S).status == "succeeded"
    until(lambda: not Path(f"/proc/{pid}").exists(), "it stays")
    assert deaths(store, job.id)[1] == 0


def test_a_worker_whose_fork_server_was_killed_starts_another(running: RunningTrivet, store: Store) -> None:
    for provider in ("anthropic", "bedrock", "vertex"):
        running.simulator.fault(provider, "hang")
    job = running.client.submit(f"without a server {time.time_ns()}", latency="batch", **TERMS)
    until(lambda: holder(store, job.id) is not None, "it to run")
    for pid in workers(store):
        [server] = psutil.Process(pid).children()
        server.kill()
    kill_holder(store, job.id, "bulk")
    until(lambda: (holder(store, job.id) or (0, ""))[1] == "isolated", "it to run isolated")
    running.simulator.reset()
    assert job.result(timeout=DEADLINE_S).status == "succeeded"
    assert deaths(store, job.id) == (1, 0)


def workers(store: Store) -> list[int]:
    """The processes of the bulk lane, by their leases."""
    with store.read() as connection:
        rows = connection.execute(
            text("SELECT worker FROM leases WHERE lane = 'bulk' AND expires_at > :now"), {"now": store.now(connection)}
        ).scalars()
        return [int(worker.partition("@")[0].rpartition(".")[2]) for worker in rows]


def parent_of(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[1])
