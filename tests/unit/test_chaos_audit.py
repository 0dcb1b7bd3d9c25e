"""The chaos suite's audit reports each fault that it is there to find."""

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal

import pytest
from tests.chaos.audit import BatchRow, Death, Evidence, JobRow, audit
from tests.faults.ledger import HAIKU, Row

from trivet_simulator.calls import Call

NOW = 1_000_000.0
COST = Decimal("0.000060")  # 10 input tokens at 1 and 10 output tokens at 5 USD a million

JOB = JobRow("j1", 1, 1, "succeeded", "batch", False, 0, 0, 1, True, False, None, COST)
BATCH = BatchRow(1, "b", "open", 1, 1, 1, COST)
ROW = Row(
    id="a1",
    job_id="j1",
    lease_id="l1",
    route="r",
    model=HAIKU,
    outcome="succeeded",
    status=200,
    message=None,
    purpose="job",
    started_at=NOW,
    latency_s=0.5,
    input_tokens=10,
    output_tokens=10,
    cost_usd=COST,
    estimated=False,
    input_estimate=12,
    max_tokens=40,
)
CALL = Call(
    "r",
    HAIKU,
    "a1",
    NOW,
    finished=NOW + 0.5,
    status=200,
    complete=True,
    usage={"input_tokens": 10, "output_tokens": 10},
)
LOST = replace(ROW, id="a0", outcome="unknown", status=None, cost_usd=ROW.most_usd, estimated=True)
GOOD = Evidence(
    ["j1"], [JOB], [BATCH], [LOST, ROW], [CALL], deaths=[Death("worker-1-bulk", 7, NOW)], pid_of_lease={"l1": 7}
)


def test_what_is_as_it_must_be_has_no_fault_and_its_sums() -> None:
    found = audit(GOOD)
    assert found.good, found
    assert (found.jobs, found.ended, found.calls, found.unknown, found.uncalled) == (1, 1, 1, 1, 1)
    assert found.settled_usd == found.bill_usd == COST
    assert found.estimated_usd == LOST.most_usd


def test_a_job_that_was_answered_from_the_cache_needs_no_call() -> None:
    hit, batch = replace(JOB, cached=True, cost_usd=Decimal(0)), replace(BATCH, cost_usd=Decimal(0))
    found = audit(replace(GOOD, jobs=[hit], batches=[batch], rows=[], calls=[]))
    assert found.good, found
    assert (found.cached, found.settled_usd) == (1, Decimal(0))


BREAKAGES: dict[str, Callable[[Evidence], Evidence]] = {
    "is not there": lambda e: replace(e, accepted=["j1", "j2"]),
    "did not end once": lambda e: replace(e, jobs=[replace(JOB, state="running", results=0)]),
    "without an answer": lambda e: replace(e, jobs=[replace(JOB, answered=False)]),
    "or a good call": lambda e: replace(e, rows=[LOST], calls=[]),
    "did not succeed": lambda e: replace(e, jobs=[replace(JOB, state="failed")]),
    "taken for poison": lambda e: replace(e, jobs=[replace(JOB, isolated_crashes=1)]),
    "counts other jobs": lambda e: replace(e, batches=[replace(BATCH, ended=2)]),
    "end once each": lambda e: replace(e, jobs=[replace(JOB, batch_seq=2)]),
    "other successes": lambda e: replace(e, batches=[replace(BATCH, succeeded=0)]),
    "not that of its jobs": lambda e: replace(e, batches=[replace(BATCH, cost_usd=2 * COST)]),
    "called 2 times": lambda e: replace(e, calls=[CALL, CALL]),
    "call without a row": lambda e: replace(e, calls=[CALL, replace(CALL, attempt="a9")]),
    "has a row of": lambda e: replace(e, calls=[replace(CALL, provider="q")]),
    "never settled": lambda e: replace(e, rows=[replace(LOST, outcome=None), ROW]),
    "neither unknown nor free": lambda e: replace(e, rows=[replace(LOST, outcome="timeout"), ROW]),
    "not marked as an estimate": lambda e: replace(e, rows=[replace(LOST, estimated=False), ROW]),
    "not the most": lambda e: replace(e, rows=[replace(LOST, cost_usd=COST), ROW]),
    "was not killed": lambda e: replace(e, deaths=[]),
    "not in flight when": lambda e: replace(e, deaths=[Death("worker-1-bulk", 7, NOW + 60)]),
    "below what the provider bills": lambda e: replace(
        e, calls=[CALL, replace(CALL, attempt="a0", usage={"input_tokens": 10, "output_tokens": 4_000})]
    ),
    "the log says": lambda e: replace(e, rows=[LOST, replace(ROW, cost_usd=COST + Decimal("0.000000000001"))]),
    "the provider's log": lambda e: replace(e, rows=[LOST, replace(ROW, cost_usd=Decimal(0))]),
    "no whole answer": lambda e: replace(e, calls=[replace(CALL, complete=False)]),
    "its settled rows": lambda e: replace(e, jobs=[replace(JOB, cost_usd=Decimal(0))]),
    "priced as": lambda e: replace(e, calls=[replace(CALL, model="claude-sonnet-5-5")]),
    "beyond a limit": lambda e: replace(e, calls=[replace(CALL, fault="limit")]),
    "after being told to wait": lambda e: replace(
        e,
        pauses={"r": 10.0},
        calls=[CALL, replace(CALL, attempt="a0", fault="rate_limited", finished=NOW - 5, complete=False, status=429)],
    ),
}


@pytest.mark.parametrize("words", list(BREAKAGES))
def test_what_must_not_be_is_a_fault(words: str) -> None:
    found = audit(BREAKAGES[words](GOOD))
    assert words in str(found)
