"""Figures of a failover run: records of jobs and calls in, the figures of the table out. Pure functions."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from outages import Outage, Window


@dataclass(frozen=True, slots=True)
class JobRecord:
    """One job as its submitter saw it. Times are seconds since the epoch."""

    submitted: float
    ended: float | None
    """None: there was no answer when the run was over."""
    ok: bool
    leg: str | None
    """The leg that answered."""
    error: str | None


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One call to a leg."""

    at: float
    leg: str
    probe: bool = False
    """True for a probe: it was made to see whether the leg is back, for no job."""


@dataclass(frozen=True, slots=True)
class Figures:
    """A contender in one outage. Times are seconds; infinite: it did not happen in this run."""

    jobs: float
    failed: float
    """Jobs that ended without an answer, or had none when the run was over."""
    unanswered: float
    """The latter alone."""
    first_success_s: float
    """From the outage to the first success of a job submitted after it."""
    back_s: float
    """From the return of the legs to the first success of a job there."""
    dead_calls: float
    """Calls to the legs that were out, while they were."""
    dead_probes: float
    """Of these, probes."""
    usual_s: float
    """Median time of a job before the outage."""
    median_s: float
    """Median time of the jobs submitted during the outage."""
    p99_s: float
    """Their 99th percentile."""
    longest_s: float
    """The longest job of the whole run."""
    late_s: float
    """Delay of submits, 95th percentile: the contender, or another program, had the core."""


def figures(
    outage: Outage, window: Window, jobs: Sequence[JobRecord], calls: Sequence[CallRecord], *, start: float, rate: float
) -> Figures:
    """The figures of one run. A job without an answer counts as infinitely long.

    Args:
        start: when the first job was due; `rate` more a second after it.
    """
    during = [job for job in jobs if window.down <= job.submitted < window.up]
    after = [job for job in jobs if job.submitted >= window.down]
    dead = [call for call in calls if call.leg in outage.legs and window.down <= call.at < window.up]
    return Figures(
        jobs=len(jobs),
        failed=sum(not job.ok for job in jobs),
        unanswered=sum(job.ended is None for job in jobs),
        first_success_s=_first(job.ended for job in after if job.ok) - window.down,
        back_s=_first(job.ended for job in jobs if _came_back(job, outage, window)) - window.up,
        dead_calls=len(dead),
        dead_probes=sum(call.probe for call in dead),
        usual_s=_quantile([_seconds(job) for job in jobs if job.submitted < window.down - 1], 0.5),
        median_s=_quantile([_seconds(job) for job in during], 0.5),
        p99_s=_quantile([_seconds(job) for job in during], 0.99),
        longest_s=max((_seconds(job) for job in jobs), default=math.inf),
        late_s=_quantile([job.submitted - start - number / rate for number, job in enumerate(jobs)], 0.95),
    )


def medians(runs: Sequence[Figures]) -> Figures:
    """Field by field the median over several runs."""
    return Figures(**{f.name: statistics.median(getattr(run, f.name) for run in runs) for f in fields(Figures)})


def _came_back(job: JobRecord, outage: Outage, window: Window) -> bool:
    return job.ok and job.leg in outage.legs and job.ended is not None and job.ended >= window.up


def _seconds(job: JobRecord) -> float:
    return math.inf if job.ended is None else job.ended - job.submitted


def _first(moments: Iterable[float | None]) -> float:
    return min((moment for moment in moments if moment is not None), default=math.inf)


def _quantile(values: list[float], share: float) -> float:
    if not values:
        return math.inf
    values.sort()
    return values[min(len(values) - 1, math.ceil(share * len(values)) - 1)]
