"""The clock of one process jumps by an hour (libfaketime), forward or back, while the others' go on."""

import os
import threading
from pathlib import Path

import pytest
from tests.chaos.conftest import MAIN
from tests.chaos.running import READY_S, Chaos

from trivet_scheduler.service import HOUSEKEEPING_S

JOBS = 60
JUMPS = {"forward": "+1h", "back": "-1h"}
NEEDED = "TRIVET_CHAOS_NEEDS_FAKETIME"
"""Set in continuous integration: there the library must not be missing."""
FOLDERS = ("/usr/lib", "/usr/local/lib", "/opt/homebrew/lib")


def faketime_library() -> str | None:
    """The library that changes a process's clock; None where it is not installed."""
    for folder in FOLDERS:
        found = sorted(Path(folder).glob("**/faketime/libfaketimeMT.so.1"))
        if found:
            return str(found[0])
    return None


@pytest.mark.parametrize("jump", list(JUMPS))
@pytest.mark.parametrize("kind", ["worker", "scheduler"])
def test_one_process_whose_clock_is_an_hour_off_harms_nobody(chaos: Chaos, kind: str, jump: str) -> None:
    library = faketime_library()
    if library is None and not os.environ.get(NEEDED):
        pytest.skip("libfaketime is not installed (Debian: apt-get install libfaketime)")
    assert library is not None, f"{NEEDED} is set, and libfaketime is not installed"
    chaos.latency(0.5)
    name, words = (f"{kind}-{jump}", ("worker", "--lane", "bulk") if kind == "worker" else ("scheduler",))
    chaos.local.start_part(
        name, *words, env={"LD_PRELOAD": library, "FAKETIME": JUMPS[jump], "DONT_FAKE_MONOTONIC": "1"}
    )
    try:
        chaos.local.supervisor.wait_ready(name, READY_S)
        accepted = chaos.submit(JOBS, f"{kind}-{jump}", tag=MAIN.tag)
        chaos.wait_ended(accepted)
        if kind == "scheduler":
            # it is not needed for these; what it does to others it has done within a look for what is due
            threading.Event().wait(2 * HOUSEKEEPING_S)
        pid = chaos.local.supervisor.pid(name)
    finally:
        chaos.local.supervisor.end(name, 10)
        chaos.local.parts.remove(name)
    findings, evidence = chaos.settle(accepted), chaos.evidence()
    assert findings.good, findings
    assert findings.quarantined == 0, "nobody died"
    assert findings.job_calls == JOBS, "one call a job"
    assert chaos.refused() == 0
    if kind == "worker":
        own = {lease for lease, holder in evidence.pid_of_lease.items() if holder == pid}
        assert [row for row in evidence.rows if row.lease_id in own], "it had no work"
