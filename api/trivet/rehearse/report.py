"""Results of a rehearsal: by latency class and by route, with remarks on what it does not show and what would help.

Times are seconds of the rehearsed time, as the user's clock would have them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from trivet.admin import BatchEnds, RouteAttempts
from trivet.plan.planner import Planner
from trivet.rehearse.outages import HANG, Outage
from trivet.rehearse.pace import Workplan, able, binding, first_token_mean_s, planned
from trivet.times import seconds
from trivet_tasks.config.settings import Settings
from trivet_tasks.latency import Latency
from trivet_tasks.states import END_STATES, JobState

BUSY = 1.25
"""Factor by which calls may take longer than they were to be, before the machine counts as too slow."""


@dataclass(frozen=True, slots=True)
class ClassReport:
    """Jobs of one latency class."""

    latency: Latency
    jobs: int
    succeeded: int
    late: int
    """Ended after their deadline, or longer after their first call than the latency budget of their class allows, however
    they ended."""
    failed: int
    expired: int
    """Ended without an answer, because their deadline had passed; among the late ones."""
    waiting: int
    """Not ended when the rehearsal did."""
    longest_s: float
    """From the submit to the end of the job that took longest."""
    reasons: tuple[str, ...]
    """Reasons of those that failed or were late, each with its number of jobs."""


@dataclass(frozen=True, slots=True)
class RouteReport:
    """Calls of one route."""

    route: str
    outages: tuple[Outage, ...]
    attempts: RouteAttempts
    held_open_s: float
    """Time for which its circuit breaker let only probes through."""


@dataclass(frozen=True, slots=True)
class RehearsalReport:
    """Everything that a rehearsal found."""

    requests: int
    """Jobs of the whole file."""
    rehearsed: int
    """Jobs that were submitted: all, or a sample."""
    speed: float
    took_s: float
    """From the first job to the last end, or until it was broken off."""
    planned_s: float
    """Planned time of the file without an outage."""
    planned_usd: Decimal | None
    """Planned cost of the rehearsed jobs, in USD."""
    classes: tuple[ClassReport, ...]
    routes: tuple[RouteReport, ...]
    broken_off: str
    """Reason for which it ended before every job had; empty: it did not."""
    interrupted: bool
    """True if a signal was that reason."""
    remarks: tuple[str, ...]
    """Sentences: inaccuracies of this rehearsal first, then what to change."""

    @property
    def cost_usd(self) -> Decimal:
        """Settled cost of all calls, probes included."""
        return sum((one.attempts.cost_usd for one in self.routes), Decimal(0))

    @property
    def estimated_usd(self) -> Decimal:
        """Maximum further cost: calls whose end is not known, such as timeouts."""
        return sum((one.attempts.estimated_usd for one in self.routes), Decimal(0))

    @property
    def good(self) -> bool:
        """True if every job succeeded."""
        return bool(self.classes) and all(one.succeeded == one.jobs for one in self.classes)


def class_reports(ends: Sequence[BatchEnds], speed: float) -> tuple[ClassReport, ...]:
    """Return the jobs of a batch by latency class."""
    return tuple(
        _class_report(latency, [one for one in ends if one.latency is latency], speed)
        for latency in Latency
        if any(one.latency is latency for one in ends)
    )


def _class_report(latency: Latency, ends: Sequence[BatchEnds], speed: float) -> ClassReport:
    def jobs(*states: JobState) -> int:
        return sum(one.jobs for one in ends if one.state in states)

    bad = [one for one in ends if one.state in END_STATES and one.state is not JobState.SUCCEEDED]
    return ClassReport(
        latency,
        jobs=jobs(*JobState),
        succeeded=jobs(JobState.SUCCEEDED),
        late=sum(one.late for one in ends),
        failed=jobs(JobState.FAILED, JobState.CANCELLED),
        expired=jobs(JobState.EXPIRED),
        waiting=jobs(*(state for state in JobState if state not in END_STATES)),
        longest_s=max(one.longest_s for one in ends) * speed,
        reasons=tuple(
            f"{one.jobs:,} {one.state}: {one.message or one.outcome or 'no reason is on record'}"
            for one in sorted(bad, key=lambda one: -one.jobs)
        ),
    )


def inaccuracies(
    settings: Settings, workplan: Workplan, routes: Sequence[RouteReport], speed: float, share: float
) -> Iterator[str]:
    """Yield what this rehearsal does not show, or shows only roughly."""
    leases = settings.leases
    yield (
        f"Not scaled: Trivet's own steps (some hundredths of a second are {seconds(0.05 * speed)} here) and the leases of "
        f"its processes ({leases.ttl_s:g} s are {seconds(leases.ttl_s * speed)})."
    )
    if any(outage.kind == HANG for one in routes for outage in one.outages):
        yield f"A provider that hangs is left after {_patience(settings, workplan)}."
    if (slower := slowness(workplan, routes, speed)) > BUSY:
        yield (
            f"This machine was too slow for speed {speed:g}: calls took {slower:.1f} times as long as they were to. "
            "Times are too long here; a lower --speed or a --sample is truer."
        )
    if share < 1:
        yield (
            f"A sample: 1 request in {1 / share:,.0f}, with limits and calls in flight smaller by as much. Limits of few calls "
            "bind in coarser steps than those of the whole."
        )
    yield (
        f"Answers have about {workplan.output_tokens:,} tokens where max_tokens allows them (--output-tokens), at "
        f"{workplan.tokens_per_s:.0f} tokens a second; providers hold the configured limits exactly. Budgets begin unspent, and "
        "windows of the day stay as they are now."
    )


def _patience(settings: Settings, workplan: Workplan) -> str:
    """Return for how long calls of each class wait for a provider that hangs, and why, in words."""
    words = []
    for latency, allowed in workplan.times.items():
        silence_s = settings.of_class(latency).first_token_timeout_s or workplan.silence_s.get(latency)
        if silence_s is not None and silence_s < allowed.attempt_s:
            words.append(f"{seconds(silence_s)} without a byte (class {latency}, streamed)")
        else:
            words.append(f"{seconds(allowed.attempt_s)}, the time of a call (class {latency})")
    return ", ".join(words)


def slowness(workplan: Workplan, routes: Sequence[RouteReport], speed: float) -> float:
    """Return the duration of the successful calls as a multiple of what the simulator was to take for them."""
    calls = sum(one.attempts.succeeded for one in routes)
    tokens = sum(one.attempts.output_tokens for one in routes)
    took_s = sum(one.attempts.succeeded_s for one in routes) * speed
    return took_s / (calls * first_token_mean_s() + tokens / workplan.tokens_per_s) if calls else 1.0


def advice(
    planner: Planner, workplan: Workplan, classes: Sequence[ClassReport], routes: Sequence[RouteReport]
) -> Iterator[str]:
    """Yield what would have helped."""
    configured = planner.settings.routes
    for requirements, stranded in workplan.stranded.items():
        yield f"{stranded.requests:,} request{'' if stranded.requests == 1 else 's'} of {requirements.model} can go nowhere: {stranded.reasons}."
    out = {one.route for one in routes if one.outages}
    for needs in workplan.needs:
        routes_left = able(needs, configured)
        if routes_left and set(routes_left) <= out:
            yield (
                f"{_named(needs.model, needs.residency, needs.compliance)}: only {', '.join(routes_left)} may take them, "
                "so they waited through the outage. A further route that fits would take them."
            )
    left = {name: route for name, route in configured.items() if name not in out}
    fitting = all(able(needs, left) for needs in workplan.needs if able(needs, configured))
    if out and left and fitting and workplan.work.workload.loads:
        outlook = planned(planner, workplan.work, left)
        if outlook is not None and outlook.bound is not None and binding(outlook):
            yield (
                f"Without {', '.join(sorted(out))} the whole file takes {seconds(float(outlook.bound.seconds))}: "
                f"{binding(outlook)} bind. A higher limit there shortens the wait."
            )
    for one in classes:
        if one.expired:
            limit = "budget_s" if one.latency is Latency.REALTIME else "deadline_s"
            yield (
                f"{one.expired:,} jobs of class {one.latency} expired: a later deadline ([classes.{one.latency}] {limit}, or "
                "`deadline` of the request) or a class that waits longer keeps them."
            )
        if one.failed:
            yield (
                f"{one.failed:,} jobs of class {one.latency} failed: more rounds or longer pauses ([classes.{one.latency}] "
                "max_rounds, backoff_max_s) outlast an outage that no other route covers."
            )


def _named(model: str, residency: Sequence[str], compliance: Sequence[str]) -> str:
    demands = [*(f"residency {one}" for one in residency), *(f"compliance {one}" for one in compliance)]
    return f"Requests of {model}{' with ' + ', '.join(demands) if demands else ''}"


def route_reports(
    attempts: Mapping[str, RouteAttempts],
    outages: Sequence[Outage],
    names: Sequence[str],
    held_open_s: Mapping[str, float],
) -> tuple[RouteReport, ...]:
    """Return a report of each of these routes."""
    return tuple(
        RouteReport(
            name,
            tuple(one for one in outages if one.route == name),
            attempts.get(name, RouteAttempts()),
            held_open_s.get(name, 0.0),
        )
        for name in names
    )
