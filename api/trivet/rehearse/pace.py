"""Choice of a rehearsal's speed: from the planned time of the file, bounded by what this machine can do in time."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from statistics import NormalDist, fmean
from typing import NamedTuple

from trivet.plan.outlook import Outlook
from trivet.plan.planner import Planner, Work
from trivet.plan.terms import Scenario, spread
from trivet.plan.workload import Load, Workload
from trivet.rehearse.outages import Outage
from trivet_routing.permits import Quota
from trivet_routing.route_choice import Requirements, misfit
from trivet_tasks.call_times import CallTime, call_time
from trivet_tasks.catalog import known
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.errors import InvalidRequest
from trivet_tasks.jobs import JobSpec
from trivet_tasks.latency import Latency
from trivet_tasks.requests.eligibility import name_on_wire
from trivet_tasks.requests.jsonl import FileCheck
from trivet_worker.adapters.protocol import StreamLimits
from trivet_worker.adapters.streaming import silence_limits
from trivet_worker.run.stream_choice import LONG_S

TARGET_S = 120.0
"""Seconds that a rehearsal is to take."""
CALLS_PER_S = 100.0
"""Calls a second that a small machine makes with the simulator, scheduler and worker on it."""
LEAST_ROUND_S = 1.5
"""Shortest latency budget on the scaled clock: Trivet's own steps take hundredths of a second."""
LEAST_FIRST_TOKEN_S = 0.5
"""Shortest limit to a first token on the scaled clock."""
LEAST_CALL_S = 0.1
"""Shortest usual call on the scaled clock."""
FIRST_TOKEN_S, FIRST_TOKEN_P95_S = 0.8, 2.0
"""Seconds to the first token of a simulated answer: median and 95th percentile."""
USUAL_TOKENS_PER_S = 55
"""Pace of a model that the table of models does not know."""
LENGTH_SIGMA = 0.6
"""Spread of the lengths of simulated answers, which are lognormal."""
_LENGTH_P95 = math.exp(NormalDist().inv_cdf(0.95) * LENGTH_SIGMA)
_UNKNOWN_S = 60.0


class Stranded(NamedTuple):
    """Requests that no configured route can ever take."""

    requests: int
    reasons: str
    """Each route with its reason."""


@dataclass(frozen=True, slots=True)
class Workplan:
    """The requests of a file, as far as a rehearsal has to know them. Times are seconds without any scaling."""

    requests: int
    """Number of jobs that come of the file."""
    classes: Counter[Latency]
    times: Mapping[Latency, CallTime]
    """The longest times that a request of each class gets."""
    first_token_s: float
    """The shortest limit to a first token; infinite: none of its classes has one."""
    silence_s: Mapping[Latency, float]
    """Silence after which a call is left, of the classes whose calls are streamed because they are long."""
    planned_s: float
    """Time at the limits of all routes, without an outage."""
    planned_usd: Decimal | None
    """Cost of the same in USD; None: some model has no price."""
    bound: str
    """The limit that binds, in words; empty: none is known."""
    tokens_per_s: float
    """Output tokens a second of one call."""
    output_tokens: int
    """Median length of an answer."""
    needs: tuple[Requirements, ...]
    """Distinct requirements of the requests, regardless of their class."""
    stranded: dict[Requirements, Stranded]
    work: Work
    """All the others, for further plans."""

    @property
    def call_s(self) -> float:
        """Usual duration of one call."""
        return FIRST_TOKEN_S + self.output_tokens / self.tokens_per_s


class WorkplanReader:
    """Plans a file over the configured routes and counts its classes, in one pass that keeps no request."""

    def __init__(self, planner: Planner, output_tokens: int) -> None:
        """Take the median length of an answer in tokens, which `max_tokens` cuts."""
        self._planner = planner
        self._output_tokens = output_tokens
        self._classes: Counter[Latency] = Counter()
        self._times: dict[Latency, CallTime] = {}

    def read(self, check: Callable[[Callable[[JobSpec, int], None]], FileCheck]) -> tuple[FileCheck, Workplan]:
        """Check the file and plan it. `check` calls its argument as for `Planner.file`.

        Raises:
            InvalidRequest: the file cannot be read or has bad lines.
        """
        checked: list[FileCheck] = []
        classes = self._planner.settings.classes

        def counted(each: Callable[[JobSpec, int], None]) -> FileCheck:
            def count(spec: JobSpec, line: int) -> None:
                self._classes[spec.latency] += 1
                allowed = call_time(classes, spec.latency, spec.model, spec)
                self._times[spec.latency] = max(allowed, self._times.get(spec.latency, allowed))
                each(spec, line)

            checked.append(check(count))
            return checked[0]

        mean = round(self._output_tokens * math.exp(LENGTH_SIGMA**2 / 2))
        work = self._planner.file(counted, output_tokens=mean)
        return checked[0], self._workplan(work)

    def _workplan(self, work: Work) -> Workplan:
        loads, routes = work.workload.loads, self._planner.settings.routes
        stranded: dict[Requirements, Stranded] = {}
        for load in loads:
            if not able(load.requirements, routes):
                before = stranded.get(load.requirements, Stranded(0, unfit(load.requirements, routes)))
                stranded[load.requirements] = before._replace(requests=before.requests + int(load.calls or 0))
        possible = tuple(load for load in loads if load.requirements not in stranded)
        outlook = planned(self._planner, Work(Workload(possible), work.source), routes) if possible else None
        silence_s = self._silence_s(_tokens_per_s(loads))
        explicit_s = (self._planner.settings.of_class(latency).first_token_timeout_s for latency in self._classes)
        return Workplan(
            requests=self._classes.total(),
            classes=self._classes,
            times=self._times,
            first_token_s=min([*silence_s.values(), *(one or math.inf for one in explicit_s)]),
            silence_s=silence_s,
            planned_s=_UNKNOWN_S if outlook is None or outlook.bound is None else float(outlook.bound.seconds),
            planned_usd=None if outlook is None else outlook.input_usd + outlook.output_usd,
            bound="" if outlook is None else binding(outlook),
            tokens_per_s=_tokens_per_s(loads),
            output_tokens=self._output_tokens,
            needs=tuple(dict.fromkeys(load.requirements for load in loads)),
            stranded=stranded,
            work=Work(Workload(possible), work.source),
        )

    def _silence_s(self, tokens_per_s: float) -> dict[Latency, float]:
        """Return the silence after which long calls are left, by class: of those that a worker would come to stream."""
        if FIRST_TOKEN_P95_S + self._output_tokens * _LENGTH_P95 / tokens_per_s < LONG_S:
            return {}
        routes = self._planner.settings.routes.values()
        pings = all(one.provider != "bedrock" or one.endpoint == "platform" for one in routes)
        silence_s = max(silence_limits(StreamLimits(), b"", pings=pings))
        return {latency: silence_s for latency, allowed in self._times.items() if allowed.attempt_s >= LONG_S}


def planned(planner: Planner, work: Work, routes: Mapping[str, RouteSettings]) -> Outlook | None:
    """Return the outlook of the work when these routes share it by their limits; None where it has none."""
    shares = spread(_fair(work.workload.loads, routes))
    (only,) = planner.plan([Scenario("rehearsal", shares)], work).scenarios
    return only.expected if isinstance(only.expected, Outlook) else None


def _fair(loads: Sequence[Load], routes: Mapping[str, RouteSettings]) -> dict[str, Decimal]:
    """Return about how many calls a second each route has left for work that any of them may take.

    Work that only some may take comes first, as it does in Trivet, where the other routes take the rest.
    """
    able_calls = {name: capacity(route, loads) for name, route in routes.items()}
    calls = sum((load.calls or Decimal(0) for load in loads), Decimal(0))
    seconds = calls / sum(able_calls.values(), Decimal(0)) or Decimal(1)
    left = dict(able_calls)
    for load in loads:
        names = able(load.requirements, routes)
        if len(names) < len(routes):
            together = sum((able_calls[name] for name in names), Decimal(0))
            for name in names:
                left[name] -= (load.calls or Decimal(0)) / seconds * able_calls[name] / together
    return {name: max(rest, able_calls[name] / 1_000) for name, rest in left.items()}


def capacity(route: RouteSettings, loads: Sequence[Load]) -> Decimal:
    """Return about how many such calls a second a route's limits allow."""
    calls = sum((load.calls or Decimal(0) for load in loads), Decimal(0)) or Decimal(1)
    main = max(loads, key=lambda load: load.calls or 0)
    quota = Quota.of(route, main.requirements.model)
    incoming = sum((load.input_tokens for load in loads), Decimal(0)) / calls
    output = sum((load.output_tokens for load in loads), Decimal(0)) / calls
    limits = [
        Decimal(a_minute) / 60 / max(each, Decimal(1))
        for a_minute, each in (
            (quota.requests, Decimal(1)),
            (quota.input_tokens, incoming),
            (quota.output_tokens, output * Decimal(str(quota.output_factor))),
        )
        if a_minute
    ]
    call_s = FIRST_TOKEN_S + float(output) / _tokens_per_s(loads)
    return min([*limits, Decimal(str(quota.max_concurrency / call_s))])


def able(requirements: Requirements, routes: Mapping[str, RouteSettings]) -> list[str]:
    """Return the routes that may take jobs with these requirements."""
    return [name for name, route in routes.items() if _misfit(requirements, route) is None]


def unfit(requirements: Requirements, routes: Mapping[str, RouteSettings]) -> str:
    """Return the reasons of the routes that may not."""
    reasons = {name: _misfit(requirements, route) for name, route in routes.items()}
    return "; ".join(f"{name} {reason}" for name, reason in reasons.items() if reason)


def _misfit(requirements: Requirements, route: RouteSettings) -> str | None:
    return misfit(requirements, route, name_on_wire(route, requirements.model)) or None


def first_token_mean_s() -> float:
    """Return the mean of the lognormal time to the first token."""
    sigma = math.log(FIRST_TOKEN_P95_S / FIRST_TOKEN_S) / NormalDist().inv_cdf(0.95)
    return FIRST_TOKEN_S * math.exp(sigma**2 / 2)


def binding(outlook: Outlook) -> str:
    """Return the limit that binds, in words; empty: none is known."""
    bound = outlook.bound
    if bound is None or bound.limit == "one call":
        return ""
    return f"{bound.figure:,.0f} {bound.limit}{'' if bound.limit == 'calls in flight' else '/min'} of {bound.route}"


def _tokens_per_s(loads: Sequence[Load]) -> float:
    """Return the usual pace of the loads' models, each weighted by its calls."""
    paces = [
        (model.output_tokens_per_s if (model := known(load.requirements.model)) else USUAL_TOKENS_PER_S)
        for load in loads
    ]
    return fmean(paces, [float(load.calls or 1) for load in loads])


def most_speed(workplan: Workplan, share: float) -> tuple[float, str]:
    """Return the highest speed at which a rehearsal is still true, and what would be untrue beyond it.

    Args:
        share: the part of the requests that is rehearsed.
    """
    shortest = min(workplan.times, key=lambda latency: workplan.times[latency].budget_s)
    budget_s = workplan.times[shortest].budget_s
    calls_per_s = workplan.requests * share / workplan.planned_s
    bounds = (
        (
            budget_s / LEAST_ROUND_S,
            f"a round of class {shortest} ({budget_s:g} s) would be shorter than {LEAST_ROUND_S:g} s",
        ),
        (
            workplan.first_token_s / LEAST_FIRST_TOKEN_S,
            f"the limit to a first token would be shorter than {LEAST_FIRST_TOKEN_S:g} s",
        ),
        (CALLS_PER_S / calls_per_s, f"this machine would have to make more than {CALLS_PER_S:g} calls a second"),
        (workplan.call_s / LEAST_CALL_S, f"a call would take less than {LEAST_CALL_S:g} s"),
    )
    most, why = min(bounds)
    return max(1.0, most), why


def choose_speed(workplan: Workplan, outages: Sequence[Outage], share: float, asked: float | None) -> float:
    """Return the speed asked for, or the one at which it takes about `TARGET_S`.

    Raises:
        InvalidRequest: it is asked for more than `most_speed`.
    """
    most, why = most_speed(workplan, share)
    if asked is None:
        whole_s = max(workplan.planned_s * 1.2, *(one.ends_s for one in outages), 0.0)
        return round(max(1.0, min(most, whole_s / TARGET_S)), 1)
    if asked > most * 1.001:
        raise InvalidRequest(
            f"--speed: {asked:g} is too fast to be true here: {why}.",
            field="speed",
            hint=f"At most {math.floor(most * 10) / 10:g}; a --sample allows more where the calls are too many.",
        )
    return asked
