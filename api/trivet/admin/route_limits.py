"""Limits of a route: those in force, and those set by hand."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from trivet_store.cluster.registry import RegisteredRoute
from trivet_tasks.config.route_overrides import FIGURES, Override
from trivet_tasks.config.route_settings import WHOLE_ROUTE
from trivet_tasks.errors import InvalidRequest

if TYPE_CHECKING:
    from trivet.client.connections import Connections

_MOST = 2_000_000_000
_MAX_CALLS = 100_000


class RouteLimits(NamedTuple):
    """The limits of a route that are in force."""

    route: str
    figures: Mapping[str, Mapping[str, int | None]]
    """Requests, input, output tokens per minute and calls at once, by group of models (`*`: the route); None = no limit."""
    overrides: tuple[Override, ...]
    """Limits that were set by hand."""
    now: float
    """Seconds since the epoch, by the database's clock."""
    removed: tuple[Override, ...] = ()
    """Limits that this call removed."""


def limits_of(connections: "Connections", route: RegisteredRoute) -> RouteLimits:
    """Return the limits of a route as it was just read."""
    settings = route.settings
    holders = {WHOLE_ROUTE: settings, **{group.name: group for group in settings.limits}}
    figures = {name: {figure: getattr(holder, figure) for figure in FIGURES} for name, holder in holders.items()}
    return RouteLimits(route.name, figures, route.overrides, connections.store.clock.reckoned())


def checked_figures(figures: Mapping[str, int]) -> Mapping[str, int]:
    """Return the figures in their order.

    Raises:
        InvalidRequest: there is none, one has an unknown name, or is out of range.
    """
    if not figures:
        raise InvalidRequest("figures: no limit is given.", field="figures", hint=f"Give any of: {', '.join(FIGURES)}.")
    for name, value in figures.items():
        if name not in FIGURES:
            raise InvalidRequest(f"figures: {name!r} is no limit.", field="figures", hint=f"Use {', '.join(FIGURES)}.")
        most = _MAX_CALLS if name == "max_concurrency" else _MOST
        if not 1 <= value <= most:
            raise InvalidRequest(f"figures: {name} is {value}; it is 1 to {most:,}.", field="figures")
    return {name: figures[name] for name in FIGURES if name in figures}
