"""Values that tests of several rooms pass around: routes as routing sees them, calls and their results."""

import itertools
import logging
import math
import time
from dataclasses import fields, replace
from decimal import Decimal
from typing import Any

import redis
from tests.unit.breakers_world import Breaker

from trivet_routing.liveness.process_impairments import ProcessImpairments
from trivet_routing.permits import BreakerView, Pace
from trivet_routing.route_choice import Candidate
from trivet_routing.route_directory import RouteDirectory
from trivet_store.database.engine import Store
from trivet_store.steps import CallTarget, ClaimedJob, JobRound, Prompt
from trivet_tasks.call_times import CallTime
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.config.settings import Settings
from trivet_tasks.jobs import Permit
from trivet_tasks.latency import Latency
from trivet_tasks.outcomes import Outcome, Usage
from trivet_tasks.prices.cost_model import CallCost, CostModel
from trivet_tasks.prices.price_book import TokenPrices
from trivet_tasks.states import RouteState
from trivet_worker.adapters.protocol import Answer, Caller, Credentials, Failure
from trivet_worker.run.calls import Call, CallResult
from trivet_worker.run.context import WorkerContext
from trivet_worker.run.local_faults import Witness
from trivet_worker.run.pricing import Pricing
from trivet_worker.run.process_state import Drops, InProgress, RouteImpairments, Slots, WaitGroup
from trivet_worker.run.served_routes import ServedRoutes

MODEL = "claude-sonnet-5-5"
ANTHROPIC = RouteSettings(provider="anthropic")
ANSWER = Answer(b"{}", "end_turn", Usage(input_tokens=1, output_tokens=1), None)
LIMITED = Failure(Outcome.RATE_LIMITED, "slow down", retry_after_s=7)
_NOTHING = TokenPrices(0, *[Decimal(0)] * 5)
INFINITE = (math.inf, math.inf, math.inf)
_numbers = itertools.count(1)


def breaker(**terms: Any) -> BreakerView:
    """A breaker without limits and with 200 slots, but for these fields."""
    healthy = BreakerView(
        state=RouteState.HEALTHY,
        cause="",
        wait_s=0.0,
        in_flight=0,
        places=200,
        headroom=math.inf,
        input_headroom=math.inf,
        output_headroom=math.inf,
        rates=INFINITE,
        calls=0,
        failed=0,
        share=1.0,
        since=None,
        paces={},
    )
    return replace(healthy, **terms)


def recovering(share: float, **terms: Any) -> BreakerView:
    """A recovering breaker that gets this share of its work."""
    return breaker(state=RouteState.RECOVERING, cause="3 good probes in a row", share=share, **terms)


def pace(p50_s: float, p95_s: float | None = None, *, calls: int = 100, age_s: float = 1.0, late: int = 0) -> Pace:
    """Return a pace; slow calls take twice as long as usual ones where nothing else is given."""
    return Pace(p50_s, 2 * p50_s if p95_s is None else p95_s, calls, age_s, late)


def route(
    name: str,
    *,
    provider: str = "bedrock",
    model: str = MODEL,
    wire_model: str | None = "wire",
    lanes: tuple[str, ...] = ("bulk", "realtime"),
    drained: bool = False,
    cost: str | CallCost | None = "1",
    at: BreakerView | None = None,
    **terms: Any,
) -> Candidate:
    """A route that serves the model in both lanes; `terms` are its settings, `cost` that of any call."""
    settings = RouteSettings.model_validate({"provider": provider, **terms})
    unit = CallCost((_NOTHING,), per_call=Decimal(cost)) if isinstance(cost, str) else cost
    view = at or breaker(places=settings.max_concurrency)
    return Candidate(name, model, settings, wire_model, frozenset(lanes), drained, view, unit)


def unique(stem: str) -> str:
    """A name that no other test gives, nor this one in another run."""
    return f"{stem}-{time.time_ns()}-{next(_numbers)}"


def call(number: int = 1, **terms: Any) -> Call:
    """A call on `ANTHROPIC` that has not begun; `terms` are fields of its job, its target and its round (its `round`th)."""
    of_target = {name: terms.pop(name) for name in [one.name for one in fields(CallTarget)] if name in terms}
    of_round = {name: terms.pop(name) for name in JobRound._fields[1:] if name in terms}
    target = CallTarget("lease", "anthropic", "anthropic", MODEL, MODEL, Latency.BATCH)
    claimed = ClaimedJob(
        id=f"job{number}", claim=1, target=replace(target, **of_target), attempt_id=f"attempt{number}",
        permit=Permit(f"p{number}", 1, 1, "1"), prompt=Prompt(b"{}"), batch_id=None, deadline_at=None,
        round=JobRound(terms.pop("round", 0), **of_round), input_estimate=1, max_tokens=1, tenant=None, cache_key=None,
        residency=(), compliance=(), features=(),
    )  # fmt: skip
    return Call(claimed._replace(**terms), ANTHROPIC, 5.0, CallTime(15, 30), full_time=True, wait_group=WaitGroup())


def call_results(breaker: Breaker, *results: Answer | Failure, took_s: float = 0.0, **terms: Any) -> list[CallResult]:
    """Calls that took a permit of the breaker each, and came back with these results."""
    ended = []
    for result in results:
        assert breaker.take().granted == 1
        one = call(next(_numbers), permit=breaker.held.pop(), route=breaker.route, model=breaker.model, **terms)
        ended.append(CallResult(replace(one, route=breaker.settings), result, took_s))
    return ended


def worker_context(
    store: Store,
    client: redis.Redis,
    directory: RouteDirectory,
    settings: Settings | None = None,
    **parts: Any,
) -> WorkerContext:
    """The parts that a worker shares; it serves the routes of its settings. `parts` are given ones."""
    settings, impairments = settings or Settings(), RouteImpairments(logging.getLogger("test"))
    served = ServedRoutes(
        store, settings.routes, impairments, by="w from a file", defines=False, lease_id=str, on_change=lambda: None
    )
    context = WorkerContext(
        settings=settings,
        store=store,
        client=client,
        directory=directory,
        served=served,
        witness=Witness(directory, "", impairments),
        pricing=Pricing(CostModel(), time.time),
        slots=Slots(4),
        in_progress=InProgress(),
        drops=Drops(),
        impairments=impairments,
        process_impairments=ProcessImpairments(logging.getLogger("test"), "no work is taken"),
    )
    return replace(context, **parts)


class FakeCaller(Caller):
    """A caller without a provider; what becomes of its calls is for a subclass to say."""

    async def credentials(self) -> Credentials:
        return Credentials()

    async def reach(self, timeout_s: float) -> str:
        return ""

    async def close(self) -> None:
        """Nothing to close."""
