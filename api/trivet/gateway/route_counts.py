"""Token counts by a route: the choice of routes, healthy ones first, and their counters.

This process asks the provider itself, as a worker would: by the routes, keys and addresses of its own configuration. A route
that fails, or cannot count, gives way to the next.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from trivet.admin import Admin
from trivet.gateway.errors import ApiError
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import BrokerUnavailable
from trivet_tasks.outcomes import Outcome
from trivet_tasks.requests.eligibility import day_of, misfit, name_on_wire, retired_on
from trivet_tasks.states import RouteState

if TYPE_CHECKING:
    from trivet_worker.adapters.counting import TokenCounter
    from trivet_worker.adapters.protocol import Failure

TOTAL_S = 10.0
"""Seconds for all routes together."""
ROUTE_S = 4.0
"""Seconds for one route, so that a silent one leaves time for the next."""
ENOUGH_REFUSALS = 2
"""Routes that refuse a request alike, after which it is at fault and no other is asked."""
_RANK = {RouteState.HEALTHY: 0, RouteState.RECOVERING: 1, RouteState.LIMITED: 1}
_SHUT_RANK = 2
_OF_THE_REQUEST = frozenset({Outcome.INVALID, Outcome.AMBIGUOUS})


class Run(Protocol):
    """Runs a blocking call in a thread, as `Gateway.run` does."""

    def __call__(self, work: Callable[..., Any], *args: Any) -> Awaitable[Any]:
        """Return the call's result."""


@dataclass(frozen=True, slots=True)
class CountTerms:
    """Demands on the route of a count."""

    model: str
    residency: tuple[str, ...] = ()
    compliance: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    """Names of the features that its request needs, as `features_of` returns them."""


class Counted(NamedTuple):
    """A count, and the route that made it."""

    tokens: int
    route: str


class ChosenRoute(NamedTuple):
    """A route that may count."""

    name: str
    settings: RouteSettings
    named: str
    """The model's name on its wire."""


class Choice(NamedTuple):
    """Routes in the order in which they are asked, and the reasons of those that are not."""

    routes: tuple[ChosenRoute, ...]
    reasons: Mapping[str, str]
    unserved: bool
    """True if no route serves the model under any terms."""


@dataclass(slots=True, eq=False)
class _Kept:
    """The counter of a route."""

    settings: RouteSettings
    counter: "TokenCounter"
    users: int = 0
    """Counts that use it now."""
    retired: bool = False
    """True once the file was read again: the last user closes it."""


def take_over_routes(settings: Settings, again: Settings) -> None:
    """Put the routes of a configuration that was read again in force. Those that are gone are not asked any more."""
    settings.routes.update(again.routes)
    for name in [name for name in settings.routes if name not in again.routes]:
        del settings.routes[name]


class TokenCounting:
    """The counters of one process's routes. For one event loop."""

    def __init__(self) -> None:
        self._counters: dict[str, _Kept] = {}
        self._making = asyncio.Lock()

    def choose(self, admin: Admin, routes: Mapping[str, RouteSettings], terms: CountTerms) -> Choice:
        """Return the routes that fit, the healthiest first. Blocks."""
        routes = dict(routes)  # the file may be read again meanwhile
        reasons: dict[str, str] = {}
        chosen: list[ChosenRoute] = []
        today = day_of(admin.now())
        drained = {route.name for route in admin.routes.known() if route.drained}
        names = {name: name_on_wire(settings, terms.model) for name, settings in routes.items()}
        for name, settings in routes.items():
            named = names[name]
            why = misfit(settings, named, terms.model, terms.residency, terms.compliance, terms.features)
            if not why and name in drained:
                why = "is drained"
            if not why and (day := retired_on(terms.model, settings, today)):
                why = f"lost the model on {day.isoformat()}"
            if why or named is None:
                reasons[name] = why
            else:
                chosen.append(ChosenRoute(name, settings, named))
        try:
            states = {name: view.state for name, view in admin.routes.breakers(terms.model).items()}
        except BrokerUnavailable:
            states = {}  # then in the order of the file
        chosen.sort(key=lambda one: _RANK.get(states.get(one.name, RouteState.HEALTHY), _SHUT_RANK))
        return Choice(tuple(chosen), reasons, not any(names.values()))

    async def count(self, body: Mapping[str, Any], terms: CountTerms, choice: Choice, run: Run) -> Counted:
        """Return the count of the first route that has one.

        Args:
            body: the request, without its model.

        Raises:
            ApiError: 404 if no route serves the model; the provider's 4xx if the request is at fault; else 529, which names the
                routes, and why each has none.
        """
        kept = await self._take(choice, run)
        try:
            return await _first_count(body, terms, choice, [one.counter for one in kept])
        finally:
            for one in kept:
                one.users -= 1
                await _close_unused(one)

    async def close(self) -> None:
        """Close the connections; those of counts under way as soon as these end."""
        while self._counters:
            await self._retire(next(iter(self._counters)))

    async def _take(self, choice: Choice, run: Run) -> list[_Kept]:
        """Return the counters of the routes, each with one user more. Those of routes that are gone or changed are closed."""
        found = []
        async with self._making:
            known = {*choice.reasons, *(one.name for one in choice.routes)}
            for name in self._counters.keys() - known:
                await self._retire(name)
            for one in choice.routes:
                kept = self._counters.get(one.name)
                if kept is None or kept.settings is not one.settings:  # the file was read again
                    counter = await run(_new_counter, one.settings)
                    if kept is not None:
                        await self._retire(one.name)
                    kept = self._counters[one.name] = _Kept(one.settings, counter)
                found.append(kept)
            for kept in found:
                kept.users += 1
        return found

    async def _retire(self, name: str) -> None:
        kept = self._counters.pop(name)
        kept.retired = True
        await _close_unused(kept)


async def _close_unused(kept: _Kept) -> None:
    if kept.retired and not kept.users:
        await kept.counter.close()


def _new_counter(settings: RouteSettings) -> "TokenCounter":
    """Return a counter of a route. In a thread: the SDK takes half a second to import."""
    try:
        from trivet_worker.adapters.counting import TokenCounter
    except ImportError:
        message = "This gateway cannot count tokens: install trivet[worker] where it runs."
        raise ApiError(501, message, {"x-should-retry": "false"}) from None
    return TokenCounter(settings)


async def _first_count(
    body: Mapping[str, Any], terms: CountTerms, choice: Choice, counters: Sequence["TokenCounter"]
) -> Counted:
    reasons = dict(choice.reasons)
    failed: list[Failure] = []
    refused: list[Failure] = []
    loop = asyncio.get_running_loop()
    until = loop.time() + TOTAL_S
    for one, counter in zip(choice.routes, counters, strict=True):
        left_s = until - loop.time()
        if left_s <= 0:
            reasons[one.name] = "was not asked, as the time was over"
            continue
        found = await counter.count(body, terms.model, one.named, min(ROUTE_S, left_s))
        if isinstance(found, int):
            return Counted(found, one.name)
        reasons[one.name] = found.message
        (refused if found.outcome in _OF_THE_REQUEST else failed).append(found)
        if len(refused) >= ENOUGH_REFUSALS:
            break
    if refused and (not failed or len(refused) >= ENOUGH_REFUSALS):
        raise ApiError(refused[0].status or 400, refused[0].message, {"x-should-retry": "false"})
    raise _nobody_counts(terms, choice, reasons)


def _nobody_counts(terms: CountTerms, choice: Choice, reasons: Mapping[str, str]) -> ApiError:
    if not choice.routes and not choice.reasons:
        return ApiError(529, "The configuration of this gateway has no routes, which it needs to count tokens.")
    if choice.unserved:
        return ApiError(
            404, f"model: {terms.model[:100]!r}: no route serves it. GET /v1/models has those that are served."
        )
    told = " ".join(f"{name}: {why.rstrip('.')}." for name, why in reasons.items())
    return ApiError(529, f"No route counts the tokens of {terms.model} now. {told}", {"retry-after": "5"})
