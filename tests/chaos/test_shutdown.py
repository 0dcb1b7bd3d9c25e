"""SIGTERM: no new work, the grace for running calls, then everything is put down in order, in time whatever hangs."""

import signal
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from tests.chaos.outages import SECTIONS, TERMS, Outages, Worker, outages
from tests.timing import until

from trivet_routing.route_directory import FRESH_S

JOBS = 50
GRACE_S = SECTIONS["worker"]["shutdown_grace_s"]
NEVER_S = 100.0
"""A call that takes this long is still running when the test looks."""
LATE_S = 10.0
"""Seconds that a busy machine may add to any time here."""
GRACE = "TRIVET_WORKER__SHUTDOWN_GRACE_S"


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outages]:
    with outages(tmp_path_factory.mktemp("shutdown"), request.param) as system:
        yield system


@pytest.fixture
def system(running: Outages) -> Iterator[Outages]:
    running.slow(NEVER_S)
    yield running
    for progress in running.trivet.client.batches():
        running.trivet.client.batch(progress.name).cancel()
    running.audit()


def submit(system: Outages, name: str) -> None:
    system.trivet.client.submit_many([{"prompt": f"{name} {n}"} for n in range(JOBS)], name=name, **TERMS)


def busy(system: Outages, name: str) -> None:
    """Fifty calls in flight."""
    submit(system, name)
    until(lambda: len(system.attempts(name)) == JOBS, "every job to run")
    ids = {row.id for row in system.attempts(name)}
    until(lambda: ids <= system.under_way(), "every call to be made")


def finished_elsewhere(system: Outages, name: str, before: str) -> None:
    """Another worker does them; each has the dropped attempt and the good one, and nothing was doubled."""
    system.slow(0.05)
    with system.worker("second"):
        results = list(system.trivet.client.batch(name).results(timeout=60))
    assert Counter(result.status for result in results) == {"succeeded": JOBS}
    assert {tuple(attempt.outcome for attempt in result.attempts) for result in results} == {(before, "succeeded")}


def put_down(system: Outages, name: str) -> bool:
    """Return whether all its jobs wait and nothing is held against them."""
    found = {(job.state, job.round, job.crashes, job.tried, job.lease_id) for job in system.jobs(name)}
    return found == {("waiting", 0, 0, "", None)}


def test_calls_still_running_after_the_grace_are_dropped_and_their_jobs_run_elsewhere(system: Outages) -> None:
    with system.worker("first") as worker:
        busy(system, "dropped")
        took_s = worker.ended(worker.terminate())
    assert worker.process.returncode == 0, worker.said
    assert GRACE_S <= took_s < GRACE_S + LATE_S
    assert put_down(system, "dropped")
    booked = system.attempts("dropped")
    assert {(row.outcome, bool(row.estimated), row.cost_usd > 0) for row in booked} == {("cancelled", True, True)}
    assert system.rows("SELECT id FROM leases WHERE part = 'worker'") == []
    finished_elsewhere(system, "dropped", "cancelled")


def test_calls_that_end_within_the_grace_are_results_and_nothing_new_is_taken(system: Outages) -> None:
    system.slow(12.0)
    with system.worker("first", **{GRACE: "90"}) as worker:
        busy(system, "in-time")
        asked = worker.terminate()
        until(lambda: "It is stopping." in str(system.rows("SELECT impairment FROM leases")), "its lease to say so")
        submit(system, "later")
        took_s = worker.ended(asked)
    assert worker.process.returncode == 0, worker.said
    assert took_s < 12.0 + LATE_S
    assert system.states("in-time") == {"succeeded": JOBS}
    assert len(system.attempts("in-time")) == JOBS
    # a scheduler may have sent some before it knew; they are called back
    until(lambda: system.states("later") == {"waiting": JOBS}, "all of the rest to wait")
    assert system.attempts("later") == []


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_now(system: Outages, second: signal.Signals) -> None:
    name = f"now-{second.name}"
    with system.worker("first", **{GRACE: "90"}) as worker:
        busy(system, name)
        _hurry(system, worker, second)
    assert worker.process.returncode == 0, worker.said
    assert put_down(system, name)
    assert {row.outcome for row in system.attempts(name)} <= {"cancelled", "unknown"}


def _hurry(system: Outages, worker: Worker, second: signal.Signals) -> None:
    asked = worker.terminate()
    until(lambda: "may go on for" in worker.said, "the first signal to be heeded")
    if time.monotonic() < asked + 0.3:
        worker.terminate()  # so soon after the first it is the same: one that was sent to a whole group
    until(lambda: time.monotonic() > asked + 0.7, "a second one to count")
    until(lambda: "It is stopping." in str(system.rows("SELECT impairment FROM leases")), "its lease to say so")
    known = time.monotonic() + FRESH_S + 0.5  # by then no scheduler sends it the jobs again that it puts down
    until(lambda: time.monotonic() > known, "every scheduler to know")
    assert worker.process.poll() is None
    worker.process.send_signal(second)
    assert worker.ended(time.monotonic()) < 1.0 + LATE_S / 4


def test_it_ends_in_time_while_the_broker_hangs(system: Outages) -> None:
    with system.worker("first") as worker:
        busy(system, "broker")
        system.broker.suspend()
        try:
            took_s = worker.ended(worker.terminate())
        finally:
            system.broker.resume()
    assert took_s < GRACE_S + LATE_S
    assert worker.process.returncode == 0, worker.said
    assert put_down(system, "broker")


def test_it_ends_in_time_while_the_database_hangs_and_its_jobs_are_rescued(system: Outages) -> None:
    with system.worker("first") as worker:
        busy(system, "database")
        with system.locked_database():
            took_s = worker.ended(worker.terminate())
    assert took_s < GRACE_S + LATE_S
    assert worker.process.returncode == 1
    assert "the lease runs out by itself" in worker.said
    finished_elsewhere(system, "database", "unknown")


def test_a_scheduler_ends_in_time_while_the_database_hangs(system: Outages) -> None:
    supervisor = system.trivet.local.supervisor
    pid = supervisor.pid("scheduler")
    with system.locked_database():
        supervisor.signal("scheduler", signal.SIGTERM)
        asked = time.monotonic()
        until(lambda: supervisor.pid("scheduler") != pid, "the scheduler to end")
        assert time.monotonic() - asked < 2.0 + LATE_S
    until(lambda: supervisor.pid("scheduler"), "the next one")
