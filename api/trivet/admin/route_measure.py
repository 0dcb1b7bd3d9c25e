"""Measuring routes with real calls: time to the first token, and tokens per second.

A call of one token takes as long as the first token of any call. What a longer answer takes beyond that is the time of its
further tokens. So both figures come from the recorded latency of ordinary calls, as this Trivet's workers see them.
"""

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from decimal import Decimal
from statistics import median
from typing import TYPE_CHECKING, NamedTuple, Self

from trivet.admin.route_probe import ProbeResult, probe_now
from trivet_store.cluster import registry
from trivet_store.jobs.enqueue import PING, ProbeRequest
from trivet_tasks.errors import InvalidRequest, ProbeNotMade
from trivet_tasks.requests.eligibility import name_on_wire

if TYPE_CHECKING:
    from trivet.client.connections import Connections
    from trivet_store.cluster.registry import RegisteredRoute

LONGER = ProbeRequest("Count from one to five hundred in words, separated by commas. Do not stop before.", 30, 128)
"""A request whose answer is as long as `max_tokens` allows."""
ROUTES_AT_ONCE = 16
ENOUGH_ANSWERS = 3
"""Minimum number of answers of one token, and of longer ones, that tell a rate: one slow call must not decide."""
CLEARLY_LONGER = 1.3
"""Time of longer answers, as a multiple of that of the first token, below which their difference is chance."""
NOT_MADE_IN_A_ROW = 3
"""Calls in a row that could not be made, after which a route is given up."""
AGAIN_S = 1.0
"""Seconds before the next try: a scheduler's probe of the route may be under way."""


class Spread(NamedTuple):
    """Percentiles of a figure."""

    p5: float
    p50: float
    p95: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self | None:
        """Return the percentiles of these values, by nearest rank; None where there are none.

        >>> Spread.of([3.0, 1.0, 2.0])
        Spread(p5=1.0, p50=2.0, p95=3.0)
        """
        in_order = sorted(values)
        if not in_order:
            return None
        return cls(*(in_order[max(0, math.ceil(share * len(in_order)) - 1)] for share in (0.05, 0.5, 0.95)))


@dataclass(frozen=True, slots=True)
class RouteMeasurement:
    """Calls made to measure a route. `calls` counts all that were made."""

    route: str
    model: str | None
    calls: int
    failed: Mapping[str, int]
    """Calls without an answer, by outcome."""
    first_token_s: Spread | None
    """Seconds to the first token; None: no call of one token was answered."""
    tokens_per_s: Spread | None
    """Output tokens per second after the first; None: not known, for the reason in `note`."""
    cost_usd: Decimal
    """Cost of its calls; of those whose cost is not known the maximum."""
    stopped: str
    """Reason why fewer calls were made than asked for; empty where all were."""
    note: str = ""
    """Reason why there are no tokens per second; empty where there are, or where no longer answer came."""


class MeasurementInterrupted(KeyboardInterrupt):
    """Ctrl-C while routes were measured. `measured` has the figures of the calls that had ended."""

    def __init__(self, measured: tuple[RouteMeasurement, ...]) -> None:
        super().__init__()
        self.measured = measured


class _Money:
    """The amount that may still be spent, over all routes. Thread-safe."""

    def __init__(self, usd: Decimal) -> None:
        self._left = usd
        self._lock = threading.Lock()

    def reserve(self, usd: Decimal) -> bool:
        """Reserve the maximum cost of a call. False when it is more than is left."""
        with self._lock:
            if usd > self._left:
                return False
            self._left -= usd
            return True

    def give_back(self, usd: Decimal) -> None:
        """Return what a call did not need."""
        with self._lock:
            self._left += usd

    def withdraw(self) -> None:
        """Let no further call be made."""
        with self._lock:
            self._left = Decimal("-Infinity")


@dataclass(slots=True)
class _Calls:
    """The calls of one route so far."""

    route: str
    model: str | None
    made: int = 0
    cost_usd: Decimal = Decimal(0)
    failed: Counter[str] = field(default_factory=Counter)
    first_token_s: list[float] = field(default_factory=list)
    longer: list[tuple[float, int]] = field(default_factory=list)
    """Seconds and output tokens of the longer answers."""

    def add(self, request: ProbeRequest, made: ProbeResult, maximum_usd: Decimal) -> Decimal:
        """Count a call. Returns its cost in USD, the maximum where it is not known."""
        cost = maximum_usd if made.cost_usd is None else made.cost_usd
        self.made, self.cost_usd = self.made + 1, self.cost_usd + cost
        if not made.good or made.latency_s is None:
            self.failed[made.outcome] += 1
        elif request is PING:
            self.first_token_s.append(made.latency_s)
        else:
            self.longer.append((made.latency_s, made.output_tokens or 0))
        return cost

    def measurement(self, stopped: str) -> RouteMeasurement:
        """Return the figures of the calls so far."""
        rates, note = self._tokens_per_s()
        return RouteMeasurement(
            self.route,
            self.model,
            self.made,
            dict(self.failed),
            Spread.of(self.first_token_s),
            Spread.of(rates),
            self.cost_usd,
            stopped,
            note,
        )

    def _tokens_per_s(self) -> tuple[list[float], str]:
        """Return the rate of each longer answer after its first token, or why none can be told."""
        fewest = min(len(self.first_token_s), len(self.longer))
        if not self.longer:
            return [], ""
        if fewest < ENOUGH_ANSWERS:
            return [], (
                f"too few answers for tokens per second: {len(self.first_token_s)} of one token and {len(self.longer)} "
                f"longer, at least {ENOUGH_ANSWERS} of each are needed (--calls {2 * ENOUGH_ANSWERS} or more)"
            )
        first = median(self.first_token_s)
        if median(took_s for took_s, _ in self.longer) < CLEARLY_LONGER * first:
            return [], "no tokens per second: longer answers took hardly longer than the first token"
        return [(tokens - 1) / (took_s - first) for took_s, tokens in self.longer if took_s > first and tokens > 1], ""


def measure(
    connections: "Connections",
    routes: Sequence["RegisteredRoute"],
    *,
    model: str | None,
    calls: int,
    max_usd: Decimal,
    on_call: Callable[[], None],
) -> tuple[RouteMeasurement, ...]:
    """Measure these routes, or all that are in service (`Routes.measure`)."""
    if calls < 2:
        raise InvalidRequest(f"calls: must be at least 2, is {calls}.", field="calls")
    if max_usd <= 0:
        raise InvalidRequest(f"max_usd: must be above 0, is {max_usd}.", field="max_usd")
    chosen = list(routes) or _in_service(connections, model)
    for route in routes:
        if model and name_on_wire(route.settings, model) is None:
            raise InvalidRequest(f"{route.name} does not serve {model}.", field="model")
    _ = connections.prober  # made once, before threads ask for it
    money = _Money(max_usd)
    counted = [_Calls(route.name, model or connections.prober.model_of(route)) for route in chosen]
    threads = ThreadPoolExecutor(ROUTES_AT_ONCE, thread_name_prefix="trivet-measure")
    try:
        work = [
            threads.submit(_measure, connections, route, found, calls, money, on_call)
            for route, found in zip(chosen, counted, strict=True)
        ]
        return tuple(one.result() for one in work)
    except KeyboardInterrupt:
        raise MeasurementInterrupted(tuple(one.measurement("interrupted") for one in counted)) from None
    finally:  # whatever ended it, no further call is paid for; a call under way is booked without us
        money.withdraw()
        threads.shutdown(wait=False, cancel_futures=True)


def _in_service(connections: "Connections", model: str | None) -> list["RegisteredRoute"]:
    with connections.store.read() as connection:
        known = registry.registered(connections.store, connection)
    return [
        route
        for route in known.values()
        if not route.drained and (model is None or name_on_wire(route.settings, model) is not None)
    ]


def _measure(
    connections: "Connections",
    route: "RegisteredRoute",
    found: _Calls,
    calls: int,
    money: _Money,
    on_call: Callable[[], None],
) -> RouteMeasurement:
    stopped = ""
    for number in range(calls):
        request = LONGER if number % 2 else PING
        stopped = _call(connections, route, request, found, money)
        if stopped:
            break
        on_call()
    return found.measurement(stopped)


def _call(
    connections: "Connections",
    route: "RegisteredRoute",
    request: ProbeRequest,
    found: _Calls,
    money: _Money,
) -> str:
    """Make one call and count it. Returns the reason why no more is to be made; empty after a call."""
    model = found.model
    wire = name_on_wire(route.settings, model) if model else None
    if model is None or wire is None:
        return "it serves no model that is known"
    maximum = connections.directory.costs.maximum(
        route.settings, model, wire, connections.now(), request.input_estimate, request.max_tokens
    )
    if maximum is None:
        return f"no price of {model} is known here, so its cost cannot be limited"
    if not money.reserve(maximum):
        return "the next call might cost more than is left"
    try:
        made = _made(connections, route, model, request)
    except ProbeNotMade as error:
        money.give_back(maximum)
        return str(error)
    money.give_back(maximum - found.add(request, made, maximum))
    return ""


def _made(connections: "Connections", route: "RegisteredRoute", model: str, request: ProbeRequest) -> ProbeResult:
    for _ in range(NOT_MADE_IN_A_ROW - 1):
        try:
            return probe_now(connections, route, model, request)
        except ProbeNotMade:
            time.sleep(AGAIN_S)
    return probe_now(connections, route, model, request)
