"""The duration of a day's work within the limits of its routes, and the limit that binds."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from trivet.plan.exact import divided, exact
from trivet_routing.permits import Quota
from trivet_tasks.catalog import known
from trivet_tasks.config.route_settings import RouteSettings

MINUTE = Decimal(60)


class Demand(NamedTuple):
    """A day's demand on a route for one model. Tokens count as they count against limits."""

    route: str
    model: str
    calls: Decimal | None
    input_tokens: Decimal
    """Without those read from the provider's prompt cache, which no limit counts."""
    output_tokens: Decimal


class Bound(NamedTuple):
    """The limit that takes longest, with its duration."""

    seconds: Decimal
    route: str
    model: str
    """The model it holds for, or the group of models that share it."""
    limit: str
    """`requests`, `input tokens` or `output tokens` per minute, `calls in flight`, or `one call`: no call is shorter."""
    figure: Decimal
    """The limit as configured; of `one call`, 1."""


@dataclass(slots=True)
class _Limiter:
    quota: Quota
    calls: Decimal | None = Decimal(0)
    input_tokens: Decimal = Decimal(0)
    output_tokens: Decimal = Decimal(0)
    in_flight_s: Decimal = Decimal(0)
    """Seconds that all calls together take at their models' usual rates; 0 where no rate is known."""


def binding(demands: Iterable[Demand], routes: Mapping[str, RouteSettings]) -> Bound | None:
    """Return the limit that binds when routes work side by side at their limits; None: none that is known.

    Models that share limits add up; others have their route's figures each for itself.
    """
    with exact():
        bounds = [
            bound for (route, _), limiter in _limiters(demands, routes).items() for bound in _bounds(route, limiter)
        ]
        return max(bounds, key=lambda bound: bound.seconds, default=None)


def _limiters(demands: Iterable[Demand], routes: Mapping[str, RouteSettings]) -> dict[tuple[str, str], _Limiter]:
    limiters: dict[tuple[str, str], _Limiter] = {}
    for demand in demands:
        quota = Quota.of(routes[demand.route], demand.model)
        limiter = limiters.setdefault((demand.route, quota.group), _Limiter(quota))
        limiter.calls = None if demand.calls is None or limiter.calls is None else limiter.calls + demand.calls
        limiter.input_tokens += demand.input_tokens
        limiter.output_tokens += demand.output_tokens
        model = known(demand.model)
        if model is not None:
            limiter.in_flight_s += divided(demand.output_tokens, Decimal(model.output_tokens_per_s))
    return limiters


def _bounds(route: str, limiter: _Limiter) -> Iterable[Bound]:
    quota = limiter.quota
    burned = limiter.output_tokens * Decimal(str(quota.output_factor))
    for limit, wanted, a_minute in (
        ("requests", limiter.calls, quota.requests),
        ("input tokens", limiter.input_tokens, quota.input_tokens),
        ("output tokens", burned, quota.output_tokens),
    ):
        if a_minute and wanted:
            figure = Decimal(str(a_minute))
            yield Bound(divided(wanted * MINUTE, figure), route, quota.group, limit, figure)
    if limiter.in_flight_s:
        places = Decimal(quota.max_concurrency)
        yield Bound(divided(limiter.in_flight_s, places), route, quota.group, "calls in flight", places)
        if limiter.calls:
            yield Bound(
                divided(limiter.in_flight_s, max(limiter.calls, Decimal(1))), route, quota.group, "one call", Decimal(1)
            )
