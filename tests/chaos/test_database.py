"""The database goes away, again and again, or has no room."""

import threading
import time

import pytest
from tests.chaos.audit import Outage
from tests.chaos.conftest import MAIN
from tests.chaos.running import Chaos
from tests.postgres import PostgresServer

JOBS = 200
RESTARTS = 4
EVERY_S = 3.0


@pytest.mark.parametrize("chaos_database", ["postgres"], indirect=True)
def test_postgres_that_starts_anew_every_few_seconds_loses_nothing(
    chaos: Chaos, chaos_postgres: PostgresServer
) -> None:
    chaos.latency(1.0, 2.0)
    accepted = chaos.submit(JOBS, "restarts", tag=MAIN.tag)
    pace = threading.Event()
    for number in range(RESTARTS):
        pace.wait(EVERY_S)
        begun = time.time()
        if number % 2:
            chaos_postgres.kill()
            chaos_postgres.start()
        else:
            chaos_postgres.restart()
        chaos.outages.append(Outage(begun, time.time()))
    chaos.wait_ended(accepted)
    findings = chaos.settle(accepted)
    assert findings.good, findings
    assert findings.unknown < JOBS / 2, "most calls were written down all the same"


def _nothing_moves(chaos: Chaos) -> bool:
    """Return whether no call is under way and none began for a second."""
    done = chaos.simulator.counts()["completed"]
    threading.Event().wait(1.0)
    return chaos.running_calls() == 0 and bool(chaos.simulator.counts()["completed"] == done)


@pytest.mark.parametrize("chaos_database", ["sqlite"], indirect=True)
def test_sqlite_without_room_keeps_what_is_done_and_goes_on(chaos: Chaos) -> None:
    chaos.latency(0.5)
    accepted = chaos.submit(JOBS, "no-room", tag=MAIN.tag)
    before = chaos.simulator.counts()["completed"]
    chaos.wait_for(lambda: chaos.simulator.counts()["completed"] > before + JOBS / 10, "some calls")
    with chaos.full_disk():
        # a call whose claim is written begins, however long its process is kept waiting for a core
        chaos.wait_for(lambda: _nothing_moves(chaos), "the end of all calls under way")
        done = int(chaos.simulator.counts()["completed"])
        threading.Event().wait(1.0)
        assert chaos.simulator.counts()["completed"] == done, "nobody begins what cannot be written down"
    chaos.wait_ended(accepted)
    findings = chaos.settle(accepted)
    assert findings.good, findings
