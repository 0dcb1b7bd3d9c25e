"""A route that is down, and its way back, under load and with four workers at it."""

import itertools
import math

import pytest
from tests.faults.ledger import Cost, Row, check_cost
from tests.faults.legs import RESULT_S, Legs, overlapping
from tests.faults.pool import PROBE_S, STEP_S

from trivet_simulator.calls import Call

PER_S = 40.0
PATIENT = {"latency": "async"}
"""A class whose timeout no busy machine reaches: here calls fail for one reason only."""
UNDER_WAY_S = 0.5
"""Calls that had their permit when the route opened may still begin within this time."""
LONGER_THAN_INTERVAL_S = 1.2 * PROBE_S
"""Seconds of a probe: so long that a second one beside it would be seen."""
SHARES = (0.1, 0.25, 0.5)
"""Parts of its work that a route gets, step by step."""
JITTER = 0.8
"""Intervals between probes vary by a fifth, so that many routes are not probed in step."""


@pytest.mark.parametrize("delay_s", [0.0, LONGER_THAN_INTERVAL_S])
def test_a_route_that_is_down_for_good_gets_probes_and_no_jobs(legs: Legs, delay_s: float) -> None:
    legs.fault(legs.first, "unavailable", delay_s=delay_s)
    jobs = legs.load(PER_S, lambda: len(_after_opening(legs)) >= 5, limit_s=40, **PATIENT)
    for job in jobs:
        result = job.result(timeout=RESULT_S)
        *failed, _ = result.attempts
        assert len(failed) <= 1, legs.story(result)
        expected = [(legs.first, "overloaded", Cost.FREE) for _ in failed]
        legs.expect(result, *expected, (legs.second, "succeeded", Cost.BILLED))
    probes = _after_opening(legs)
    rows = {row.id: row for row in legs.rows(legs.first)}
    assert {rows[str(call.attempt)].purpose for call in probes} == {"probe"}
    assert overlapping(probes) == []
    watched_s = probes[-1].started - probes[0].started
    assert len(probes) <= watched_s / (JITTER * PROBE_S) + 1
    for row in rows.values():
        if row.outcome is not None:  # the last probe may be under way
            assert row.outcome == "overloaded"
            check_cost(row, None, Cost.FREE)


def test_a_route_comes_back_by_steps_under_load(legs: Legs) -> None:
    legs.fault(legs.first, "unavailable", delay_s=LONGER_THAN_INTERVAL_S)
    jobs = legs.load(PER_S, lambda: len(_after_opening(legs)) >= 2, limit_s=40, **PATIENT)
    legs.simulator.clear(legs.first)
    legs.simulator.latency(legs.first, median_s=LONGER_THAN_INTERVAL_S)  # good probes that overlap would be seen, too
    jobs += legs.load(PER_S, lambda: _steps(legs) != [], limit_s=40, **PATIENT)
    legs.simulator.latency(legs.first, median_s=0.03)
    jobs += legs.load(PER_S, lambda: _wholly_back(legs), limit_s=60, **PATIENT)
    for job in jobs:
        result = job.result(timeout=RESULT_S)
        assert result.status == "succeeded"
        assert [a.outcome for a in result.attempts[:-1]] in ([], ["overloaded"]), legs.story(result)

    steps = _steps(legs)
    healthy_at = next(at for at, kind, _ in legs.events(legs.first) if "healthy" in kind and at > steps[-1])
    rows = legs.rows()
    probes = [row for row in rows if row.purpose == "probe"]
    assert len([row for row in probes if row.outcome == "succeeded" and row.started_at < steps[0]]) == 3
    ids = {row.id for row in probes}
    assert overlapping([call for call in legs.calls(legs.first) if call.attempt in ids]) == []
    opened_at = _opened_at(legs.calls(legs.first))
    assert opened_at is not None
    early = [row for row in legs.job_rows(legs.first) if opened_at + UNDER_WAY_S < row.started_at < steps[0] - 0.5]
    assert early == [], "a job was sent to a route that was not back"

    assert len(steps) == 3
    borders = [*steps, healthy_at]
    assert all(later - earlier >= STEP_S - 0.2 for earlier, later in itertools.pairwise(borders)), borders
    shares = [_share(legs, rows, *span) for span in itertools.pairwise(borders)]
    for (ours, all_jobs), share in zip(shares, SHARES, strict=True):
        # each job is sent by chance: five deviations, and the jobs that were on their way at the borders
        spread = 5 * math.sqrt(all_jobs * share * (1 - share)) + 2
        assert abs(ours - all_jobs * share) <= spread, shares
    assert shares[0][0] / shares[0][1] < shares[2][0] / shares[2][1], shares


def test_a_route_that_hung_comes_back_when_it_answers_again(legs: Legs) -> None:
    legs.fault(legs.first, "hang")
    for job in [legs.submit() for _ in range(8)]:
        result = job.result(timeout=RESULT_S)
        *hung, _ = result.attempts
        assert len(hung) <= 1, legs.story(result)
        expected = [(legs.first, "timeout", Cost.ESTIMATED) for _ in hung]
        legs.expect(result, *expected, (legs.second, "succeeded", Cost.BILLED))
    assert any("open" in kind for _, kind, _ in legs.events(legs.first))
    legs.simulator.clear(legs.first)
    # good probes are the newer evidence: what it was like before must not keep it out
    legs.load(20, lambda: _steps(legs) != [], limit_s=20)
    recovering = legs.load(20, lambda: any(row.outcome == "succeeded" for row in legs.job_rows(legs.first)), limit_s=20)
    for job in recovering:
        assert job.result(timeout=RESULT_S).status == "succeeded"


def _opened_at(calls: list[Call]) -> float | None:
    """Return the time when a route must open: its third failure is known."""
    failed = sorted(call.finished for call in calls if call.status == 503 and call.finished is not None)
    return failed[2] if len(failed) >= 3 else None


def _after_opening(legs: Legs) -> list[Call]:
    """Calls that began after the route had opened."""
    calls = legs.calls(legs.first)
    opened_at = _opened_at(calls)
    return [call for call in calls if opened_at is not None and call.started > opened_at + UNDER_WAY_S]


def _steps(legs: Legs) -> list[float]:
    """Return the times when the route got its shares, as the operator reads them: one event a step."""
    return [at for at, kind, _ in legs.events(legs.first) if "recovering" in kind]


def _wholly_back(legs: Legs) -> bool:
    """Return whether the route is healthy and the last second's jobs all went there."""
    if not any("healthy" in kind for _, kind, _ in legs.events(legs.first)):
        return False
    rows = legs.job_rows()
    last = [row for row in rows if row.started_at > rows[-1].started_at - 1]
    return len(last) >= 5 and all(row.route == legs.first for row in last)


def _share(legs: Legs, rows: list[Row], since: float, until: float) -> tuple[int, int]:
    """Return the job attempts of a time that went to the first route, and all of them."""
    within = [row for row in rows if row.purpose == "job" and since <= row.started_at < until]
    assert within, "no jobs in this time: nothing is seen"
    return sum(row.route == legs.first for row in within), len(within)
