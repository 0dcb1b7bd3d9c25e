"""kill -9 at each named step: between any two things that belong together."""

from pathlib import Path

import pytest
from tests.chaos import doomed
from tests.chaos.audit import Evidence, Findings
from tests.chaos.conftest import FAILOVER, MAIN
from tests.chaos.producer import Plan, accepted_path, done_path
from tests.chaos.running import Chaos

from trivet.client.submitting import GROUP_ROWS

JOBS = 24
LARGE = max(GROUP_ROWS.values()) + 30


def of_the_dead(found: Evidence) -> tuple[int, int]:
    """Return the number of rows the dead process left as unknown, and how many of them had a call."""
    dead = {death.pid for death in found.deaths}
    unknown = [
        row.id for row in found.rows if found.pid_of_lease.get(row.lease_id) in dead and row.outcome == "unknown"
    ]
    called = {call.attempt for call in found.calls}
    return len(unknown), len(called.intersection(unknown))


@pytest.mark.parametrize("step", [doomed.CLAIMED, doomed.CALLING, doomed.ANSWERED, doomed.UNTOLD])
def test_a_worker_dies_at_a_step_of_its_work(chaos: Chaos, step: str) -> None:
    chaos.latency(10.0 if step == doomed.CALLING else 0.3)
    if step != doomed.CALLING:
        chaos.arm(step)
    accepted = chaos.submit(JOBS, f"step-{step}", tag=MAIN.tag)
    if step == doomed.CALLING:
        chaos.wait_for(lambda: chaos.running_calls() >= JOBS, "every call at its provider")
        chaos.arm(step)
    chaos.wait_died(step)
    findings = chaos.settle(accepted)
    assert findings.good, findings
    unknown, called = of_the_dead(chaos.evidence(accepted))
    if step == doomed.CLAIMED:
        assert unknown > called, "at least a chunk was claimed and not called"
    elif step != doomed.UNTOLD:
        assert called > 0, "at least one call's fate is not known"
    assert findings.quarantined == unknown, "whoever was in flight is quarantined, and nobody else"


def test_a_worker_dies_between_the_record_of_a_failure_and_the_next_message(chaos: Chaos) -> None:
    chaos.latency(0.2)
    chaos.simulator.fault(FAILOVER.routes[0], "overloaded", times=4)
    chaos.arm(doomed.RECORDED)
    accepted = chaos.submit(4, "step-recorded", tag=FAILOVER.tag)
    chaos.wait_died(doomed.RECORDED)
    findings = chaos.settle(accepted)
    assert findings.good, findings
    failed = [row for row in chaos.evidence().rows if row.outcome == "overloaded" and row.purpose == "job"]
    assert failed, "no job had to go on"


def test_a_scheduler_dies_between_its_dispatch_and_the_message(chaos: Chaos) -> None:
    chaos.latency(0.1)
    chaos.arm(doomed.DISPATCHED)
    accepted = chaos.submit(JOBS, "step-dispatched", tag=MAIN.tag)
    chaos.wait_died(doomed.DISPATCHED)
    findings = chaos.settle(accepted)
    assert findings.good, findings
    assert findings.unknown == findings.quarantined == 0, "no call was under way"
    assert findings.job_calls == JOBS, "every job took one call"


@pytest.mark.parametrize(
    ("step", "plan"),
    [
        (doomed.INSERTED, Plan("one-batch", MAIN.tag, batches=2, size=5, realtime=2, pace_s=0)),
        (doomed.LOADING, Plan("large-batch", MAIN.tag, batches=1, size=LARGE, realtime=0, pace_s=0)),
    ],
)
def test_a_producer_dies_between_writing_and_telling(chaos: Chaos, step: str, plan: Plan) -> None:
    assert _survived(chaos, step, plan).job_calls <= plan.total


def test_a_producer_dies_between_a_realtime_job_and_its_message(chaos: Chaos) -> None:
    _survived(chaos, doomed.SENT_DIRECTLY, Plan("realtime-only", MAIN.tag, batches=1, size=0, realtime=2, pace_s=0))


def _survived(chaos: Chaos, step: str, plan: Plan) -> Findings:
    """Let a producer die at a step and try again; check that it accepted each job once."""
    config = Path(chaos.settings.source)
    chaos.latency(0.05)
    chaos.arm(step)
    chaos.start_producer("producer", *plan.words())
    try:
        chaos.wait_died(step)
        chaos.wait_for(done_path(config, plan.name).exists, "the second try of the producer")
    finally:
        chaos.local.supervisor.end("producer", 5)
    findings = chaos.settle(accepted_path(config, plan.name).read_text(encoding="ascii").split())
    assert findings.good, findings
    assert findings.jobs == plan.total, "a job was accepted twice, or never"
    return findings
