"""A hedge for slow realtime calls, through the whole system: it saves the answer's time, and both calls are in the books."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.databases import new_database
from tests.timing import until

from trivet.admin import AttemptRow
from trivet.testing import QUICK, RunningTrivet, running_trivet

TERMS: dict[str, Any] = {"model": "claude-sonnet-5-5", "max_tokens": 40, "latency": "realtime"}
SHARE = 0.2
RESULT_S = 60.0
SLOW_S = 2.0
"""Longer than a quick call takes on a busy machine."""


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def hedging(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTrivet]:
    """A Trivet that may give every fifth realtime call a hedge."""
    url = new_database(request, "hedging")
    folder: Path = tmp_path_factory.mktemp("hedging")
    # time enough for every call, on a machine however busy
    realtime = {"hedge_share": SHARE, "order": "priority", "budget_s": RESULT_S, "deadline_s": RESULT_S}
    sections = {**QUICK, "classes.realtime": realtime}
    first = {"anthropic": {"priority": 1}, "bedrock-us-east-1": {"priority": 2}, "vertex-global": {"priority": 3}}
    with running_trivet(folder, store_url=url, sections=sections, route_settings=first) as running:
        yield running


def test_a_slow_call_gets_a_hedge_and_the_first_answer_wins(hedging: RunningTrivet) -> None:
    for number in range(12):  # the route must be known before a call can be called slow
        assert hedging.client.submit(f"Known {number}", **TERMS).result(timeout=RESULT_S).route == "anthropic"
    hedging.simulator.fault("anthropic", "held")
    result = hedging.client.submit("Slow", **TERMS).result(timeout=RESULT_S)
    assert (result.status, result.route) == ("succeeded", "bedrock-us-east-1")
    found = _settled(hedging, result.id)
    assert (found["job"].route, found["hedge"].route) == ("anthropic", "bedrock-us-east-1")
    assert (found["job"].outcome, bool(found["job"].estimated)) == ("cancelled", True)
    assert (found["job"].cost_usd or 0) > 0, "nobody knows what the provider billed of the dropped call"
    assert (found["hedge"].outcome, bool(found["hedge"].estimated)) == ("succeeded", False)
    sent = {call.attempt for call in hedging.simulator.calls() if call.attempt}
    assert {attempt.id for attempt in result.attempts} <= sent


def _settled(trivet: RunningTrivet, job_id: str) -> dict[str, AttemptRow]:
    """The job's attempts by purpose, once all are settled: the loser's may be a moment later than the result."""
    rows = until(
        lambda: trivet.admin.jobs.life(job_id).attempts,
        "the end of all attempts",
        fits=lambda rows: all(row.outcome for row in rows),
    )
    return {row.purpose: row for row in rows}


def test_when_the_hedge_fails_the_first_call_still_counts(hedging: RunningTrivet) -> None:
    hedging.reset()
    for number in range(12):
        hedging.client.submit(f"Known again {number}", **TERMS).result(timeout=RESULT_S)
    hedging.simulator.fault("anthropic", "held")
    hedging.simulator.fault("bedrock", "server_error")
    job = hedging.client.submit("Slow too", **TERMS)
    hedging.simulator.wait_for_calls(1, RESULT_S, provider="bedrock")
    hedging.simulator.clear("anthropic")
    result = job.result(timeout=RESULT_S)
    assert (result.status, result.route) == ("succeeded", "anthropic")
    found = _settled(hedging, result.id)
    assert (found["job"].outcome, found["hedge"].outcome) == ("succeeded", "server_error")


def test_hedges_are_at_most_the_set_share_of_the_calls(hedging: RunningTrivet) -> None:
    hedging.reset()
    for number in range(6):
        hedging.client.submit(f"Quick {number}", **TERMS).result(timeout=RESULT_S)
    before = _by_purpose(hedging)
    hedging.simulator.fault("anthropic", "slow_first_byte", seconds=SLOW_S)
    slow = 6
    for number in range(slow):
        hedging.client.submit(f"Slow {number}", **TERMS).result(timeout=RESULT_S)
    after = _by_purpose(hedging)
    assert after["job"] - before["job"] >= slow
    assert 0 < after["hedge"] - before["hedge"] < slow, "each of them was slow, at first; not each got a hedge"
    assert after["hedge"] <= SHARE * after["job"]


def _by_purpose(trivet: RunningTrivet) -> Counter[str]:
    return Counter({row.group[0]: row.calls for row in trivet.admin.costs.report(["purpose"]).rows})
