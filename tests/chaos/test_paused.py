"""SIGSTOP past the lease, then SIGCONT: late results are refused, and what they cost is booked."""

from tests.chaos.conftest import MAIN
from tests.chaos.evidence import lease_pids
from tests.chaos.running import BULK, SLOTS, TTL_S, Chaos

JOBS = 200
BUSY = 0.8


def test_two_workers_that_sleep_past_their_lease_find_their_results_refused_and_their_costs_booked(
    chaos: Chaos,
) -> None:
    sleepers = BULK[:2]
    chaos.latency(1.5)
    accepted = chaos.submit(JOBS, "paused", tag=MAIN.tag)
    chaos.wait_for(lambda: chaos.running_calls() > BUSY * len(BULK) * SLOTS, "calls at every worker")
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
