"""Routes as routing sees them: healthy and idle unless a test sets them otherwise."""

import math
from dataclasses import replace
from decimal import Decimal
from typing import Any

from trivet_routing.cost_model import CallCost
from trivet_routing.permits import BreakerView, Pace
from trivet_routing.route_choice import Candidate
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.prices.price_book import TokenPrices
from trivet_tasks.states import RouteState

MODEL = "claude-sonnet-5-5"
_NOTHING = TokenPrices(0, Decimal(0), Decimal(0), Decimal(0))
INFINITE = (math.inf, math.inf, math.inf)


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


def pace(p50_s: float, p95_s: float | None = None, *, calls: int = 100, age_s: float = 1.0) -> Pace:
    """Return a pace; slow calls take twice as long as usual ones where nothing else is given."""
    return Pace(p50_s, 2 * p50_s if p95_s is None else p95_s, calls, age_s)


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
