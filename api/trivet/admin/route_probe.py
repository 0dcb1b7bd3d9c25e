"""A probe by hand: one call to one route now, and its result."""

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from trivet_routing.limits import FORGOTTEN, STEP_CALLS, keys_of
from trivet_routing.permits import BreakerView, Quota
from trivet_store.jobs.cancelling import cancel_job
from trivet_store.jobs.enqueue import PING, ProbeRequest
from trivet_store.reports import results
from trivet_tasks.config.settings import HealthSettings
from trivet_tasks.errors import InvalidRequest, ProbeNotMade, ResultTimeout
from trivet_tasks.outcomes import Outcome
from trivet_tasks.requests.eligibility import name_on_wire
from trivet_tasks.states import END_STATES, SHUT_STATES, JobState, RouteState

if TYPE_CHECKING:
    from trivet.client.connections import Connections
    from trivet_store.cluster.registry import RegisteredRoute
    from trivet_store.reports.results import AttemptRow, JobRow

SETTLED_WITHIN_S = 10.0
"""Seconds allowed to a probe beside queue and call before waiting for it ends."""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Result of a probe, and the present state of its route. Times are seconds."""

    job_id: str
    route: str
    model: str
    outcome: Outcome
    status: int | None
    latency_s: float | None
    cost_usd: Decimal | None
    estimated: bool
    """The cost is an upper bound: the usage of the call is not known."""
    message: str | None
    """The provider's words where it failed."""
    request_id: str | None
    attempt_id: str
    state: RouteState
    """The state of the (route, model) now."""
    drained: bool
    next: str
    """The next step, in words."""
    output_tokens: int | None = None

    @property
    def good(self) -> bool:
        """True if the provider answered."""
        return self.outcome == Outcome.SUCCEEDED


def probe_now(
    connections: "Connections", route: "RegisteredRoute", model: str | None, request: ProbeRequest = PING
) -> ProbeResult:
    """Make one probe and wait for its end, on a drained, open or healthy route.

    Args:
        model: None: one in use that the route serves.
        request: the request to send.

    Raises:
        InvalidRequest: the route does not serve the model.
        ProbeNotMade: no call was made; says why.
        StoreUnavailable, BrokerUnavailable.
    """
    with connections.requires_redis():
        return _probe(connections, route, model, request)


def _probe(
    connections: "Connections", route: "RegisteredRoute", model: str | None, request: ProbeRequest
) -> ProbeResult:
    prober = connections.prober
    chosen = model or prober.model_of(route)
    if chosen is None or name_on_wire(route.settings, chosen) is None:
        raise InvalidRequest(
            f"{route.name} does not serve {chosen or 'any model'}.",
            field="model",
            hint="The route's `models` table names what its wire calls a model.",
        )
    if not connections.directory.known(fresh=True).lanes(route.name):
        raise ProbeNotMade(f"No living worker serves {route.name}.", hint="A probe is made by a worker; start one.")
    _check_open_to_calls(connections, route, chosen)
    job_id = prober.probe(route, chosen, at_once=True, request=request)
    if job_id is None:
        raise ProbeNotMade(f"A probe of {route.name} is under way already.", hint="Ask again in a few seconds.")
    row, call = _await(connections, job_id)
    if call is None:
        raise ProbeNotMade(_unmade(connections, route, chosen, row))
    breaker = _breaker(connections, route, chosen)
    return ProbeResult(
        job_id=job_id,
        route=route.name,
        model=chosen,
        outcome=call.outcome or Outcome.UNKNOWN,
        status=call.status,
        latency_s=call.latency_s,
        cost_usd=call.cost_usd,
        estimated=call.estimated,
        message=call.message,
        request_id=call.request_id,
        attempt_id=call.id,
        state=breaker.state,
        drained=route.drained,
        output_tokens=call.output_tokens,
        next=what_next(breaker, _goods(connections, route, chosen), connections.settings.health, drained=route.drained),
    )


def what_next(breaker: BreakerView, goods: int, health: HealthSettings, *, drained: bool) -> str:
    """Return the next step of a (route, model) in this state, as a sentence without its full stop.

    Args:
        goods: good probes in a row so far, if it is probing.
    """
    if drained and breaker.shut:
        return "nothing: a drained route is probed by hand alone"
    when = f"the next in {math.ceil(breaker.wait_s)} s" if breaker.wait_s >= 1 else "the next now"
    match breaker.state:
        case RouteState.OPEN:
            return f"{_good_probes(health.close_after_successes, '')}, {when}, then {health.recovery_shares[0]:.0%} of its work"
        case RouteState.PROBING:
            left = max(1, health.close_after_successes - goods)
            return f"{_good_probes(left, 'more ')}, {when}, then {health.recovery_shares[0]:.0%} of its work"
        case RouteState.RECOVERING:
            further = next((share for share in health.recovery_shares if share > breaker.share + 1e-9), 1.0)
            held = f"after {health.recovery_step_s:g} s and {STEP_CALLS} good calls at each share"
            return f"it gets {breaker.share:.0%} of its work, {further:.0%} {held}"
        case RouteState.LIMITED:
            return f"it is limited ({breaker.cause.rstrip('.')}), next headroom in {math.ceil(breaker.wait_s)} s"
        case _:
            return "it stays drained until it is restored" if drained else "it gets all of its work"


def _good_probes(count: int, more: str) -> str:
    return f"{count} {more}good probe{'s' if count > 1 else ''}{'' if more else ' in a row'}"


def _check_open_to_calls(connections: "Connections", route: "RegisteredRoute", model: str) -> None:
    """Refuse a probe inside a pause that the provider asked for: not even a call by hand is made then."""
    breaker = _breaker(connections, route, model)
    if breaker.cause == FORGOTTEN:
        raise ProbeNotMade(f"No call is made now: {FORGOTTEN}.", hint="Does a scheduler run?")
    if breaker.state == RouteState.LIMITED and breaker.wait_s > connections.settings.dispatch.permit_patience_s:
        raise ProbeNotMade(
            f"{route.name} is limited for {math.ceil(breaker.wait_s)} s more: {breaker.cause.rstrip('.')}.",
            hint="No call is made before, not even a probe.",
        )


def _breaker(connections: "Connections", route: "RegisteredRoute", model: str) -> BreakerView:
    view = connections.directory.limits.view([(route.name, model, Quota.of(route.settings, model))])
    return view[route.name, model]


def _goods(connections: "Connections", route: "RegisteredRoute", model: str) -> int:
    """Return the good probes in a row of the model or the whole route, whichever is shut and has fewer."""
    pipeline = connections.redis.pipeline(transaction=False)
    for breaker in keys_of(route.name, model, model)[:2]:
        pipeline.hmget(breaker, "state", "goods")
    return min(
        (int(goods or 0) for state, goods in pipeline.execute() if state and state.decode() in SHUT_STATES), default=0
    )


def _await(connections: "Connections", job_id: str) -> "tuple[JobRow, AttemptRow | None]":
    """Return the probe's job once it has ended or got no permit, and its call, if one was made."""

    def look() -> "tuple[JobRow, AttemptRow | None] | None":
        with connections.store.read() as connection:
            row = results.jobs_by_id(connection, [job_id])[job_id]
            calls = results.attempts_of(connection, [job_id])[job_id]
        return (row, calls[-1] if calls else None) if row.state in END_STATES or row.state == JobState.WAITING else None

    settings = connections.settings
    longest_s = settings.dispatch.taken_within_s + settings.health.probe_timeout_s + SETTLED_WITHIN_S
    try:
        row, call = connections.notices.wait_for(f"job {job_id}", look, longest_s, f"The probe {job_id}")
    except ResultTimeout:
        raise ProbeNotMade(
            f"The probe {job_id} has not ended within {longest_s:.0f} s.",
            hint=f"`trivet job show {job_id}` follows it.",
        ) from None
    if row.state == JobState.WAITING:  # nobody else would ever take it
        with connections.store.write() as connection:
            cancel_job(connections.store, connection, job_id)
    return row, call


def _unmade(connections: "Connections", route: "RegisteredRoute", model: str, row: "JobRow") -> str:
    if row.state == JobState.WAITING:
        breaker = _breaker(connections, route, model)
        why = f": {breaker.state}, {breaker.cause.rstrip('.')}" if breaker.cause else ""
        return f"{route.name} could not take a call{why}. No call was made."
    if row.state == JobState.EXPIRED:
        within = connections.settings.dispatch.taken_within_s
        return f"No worker of {route.name} took the probe up within {within:g} s. Is it busy, or gone?"
    return f"The probe was {row.state} before a call was made."
