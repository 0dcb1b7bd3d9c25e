"""SIGSTOP past the lease, then SIGCONT: late results are refused, and what they cost is booked."""

from tests.chaos.audit import RECORD_S
from tests.chaos.conftest import MAIN
from tests.chaos.evidence import lease_pids
from tests.chaos.running import BULK, TTL_S, Chaos

JOBS = 60


def test_two_workers_that_sleep_past_their_lease_find_their_results_refused_and_their_costs_booked(
    chaos: Chaos,
) -> None:
    chaos.latency(1.5)
    accepted = chaos.submit(JOBS, "paused", tag=MAIN.tag)
    sleepers = [name for name in BULK if _holds_calls(chaos, name)][:2] if _all_busy(chaos) else []
    pids = {chaos.local.supervisor.pid(name) for name in sleepers}
    leases = {lease for lease, pid in lease_pids(chaos.store).items() if pid in pids}
    with chaos.paused(*sleepers):
        in_flight = {row.id for row in chaos.evidence().rows if row.lease_id in leases and row.outcome is None}
        assert in_flight, "they had nothing to do"
        chaos.wait_for(lambda: not leases & set(lease_pids(chaos.store)), "the rescue", TTL_S + 30)
    chaos.wait_ended(accepted)
    # their calls were answered while they slept, so nothing about them is unknown in the end
    findings = chaos.settle(accepted)
    assert findings.good, findings
    assert findings.unknown == 0
    late = [row for row in chaos.evidence().rows if row.id in in_flight]
    assert all(row.outcome == "succeeded" and not row.estimated and row.cost_usd for row in late), late
    assert chaos.refused() == len(late) > 0
    assert findings.job_calls == JOBS + len(late), "what they held was done again, once"


def _all_busy(chaos: Chaos) -> bool:
    return bool(chaos.wait_for(lambda: all(_holds_calls(chaos, name) for name in BULK[:2]), "calls", 10 * RECORD_S))


def _holds_calls(chaos: Chaos, name: str) -> bool:
    pid = chaos.local.supervisor.pid(name)
    leases = {lease for lease, holder in lease_pids(chaos.store).items() if holder == pid}
    running = {call.attempt for call in chaos.evidence().calls if call.finished is None}
    return any(row.lease_id in leases and row.id in running for row in chaos.evidence().rows)
