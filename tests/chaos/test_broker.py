"""The broker, which is the shared state, too, loses its memory or dies in the middle of the work."""

import time

from tests.chaos.audit import TOLD_S
from tests.chaos.conftest import CONCURRENCY, LIMITED, PAUSED, REQUESTS_PER_MINUTE
from tests.chaos.running import Chaos

JOBS = 200
LATENCY_S = 0.35
LATE_S = 30.0
"""By how much the end may come later than it would have."""
PAUSE_S = 12.0


def test_all_jobs_end_soon_after_a_flush_and_a_kill_and_nobody_breaks_a_limit_or_a_pause(chaos: Chaos) -> None:
    limited, parked = LIMITED.routes[0], PAUSED.routes[0]
    chaos.latency(LATENCY_S)
    # the provider would answer any call that is one too many with a refusal, and the audit would see it
    chaos.simulator.limits(
        limited, concurrency=CONCURRENCY, requests_per_minute=REQUESTS_PER_MINUTE, burst_s=3, each_model=True
    )
    chaos.simulator.fault(parked, "rate_limited", times=1, retry_after_s=PAUSE_S)
    chaos.pauses[parked] = PAUSE_S
    try:
        accepted = chaos.submit(1, "parked", tag=PAUSED.tag) + chaos.submit(JOBS, "limited", tag=LIMITED.tag)
        begun = time.monotonic()
        chaos.simulator.wait_for_calls(1, 60, provider=parked)
        refused_at = time.monotonic()
        before = chaos.simulator.counts()["providers"][limited]["finished"]
        chaos.simulator.wait_for_calls(before + JOBS // 5, 60, provider=limited)
        chaos.wait_for(lambda: time.monotonic() > refused_at + TOLD_S, "the refusal to be known")
        with chaos.shared() as shared:
            shared.flushall()
        assert time.monotonic() < refused_at + PAUSE_S / 2, "too late to show anything"
        before = chaos.simulator.counts()["providers"][limited]["finished"]
        chaos.simulator.wait_for_calls(before + JOBS // 5, 60, provider=limited)
        chaos.kill_broker()
        chaos.wait_ended(accepted)
        took_s = time.monotonic() - begun
    finally:
        chaos.simulator.limits(limited)
    needed_s = max(JOBS * LATENCY_S / CONCURRENCY, 60 * JOBS / REQUESTS_PER_MINUTE, PAUSE_S)
    assert took_s < needed_s + LATE_S
    findings = chaos.settle(accepted)
    assert findings.good, findings
    assert findings.unknown == 0, "no process died that held a call"
    assert chaos.refused() == 0
