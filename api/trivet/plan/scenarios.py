"""Scenarios: the routes that the work is to take, and their shares."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches

from trivet.plan.exact import digits, exact, spread
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Scenario:
    """One way to share the work out."""

    name: str
    shares: Mapping[str, Decimal]
    """By route; they sum to 1."""

    @property
    def text(self) -> str:
        """The shares, for a person."""
        return ", ".join(f"{percent(share)} {route}" for route, share in self.shares.items())


def percent(share: Decimal) -> str:
    """Return a share as people read it, with at most two decimals."""
    return f"{digits((share * 100).quantize(Decimal('0.01')))} %"


def by_default(routes: Mapping[str, RouteSettings]) -> list[Scenario]:
    """Return each route by itself and, where there are several, all of them by their weights."""
    single = [Scenario(name, {name: Decimal(1)}) for name in routes]
    if len(routes) < 2:
        return single
    weights = {name: Decimal(str(route.weight)) for name, route in routes.items()}
    name = "even mix" if len(set(weights.values())) == 1 else "mix by weight"
    return [*single, Scenario(name, spread(weights))]


def mixed(given: Sequence[Mapping[str, Decimal]], routes: Mapping[str, RouteSettings]) -> list[Scenario]:
    """Return one scenario for each mix that a person gave.

    Raises:
        InvalidRequest: a route is not configured, a share is not above 0, or they do not sum to 1.
    """
    scenarios: list[Scenario] = []
    several = sum(len(shares) > 1 for shares in given) > 1
    for number, shares in enumerate(given):
        for name, share in shares.items():
            if name not in routes:
                near = get_close_matches(name, routes, n=1, cutoff=0.6)
                guess = f" Did you mean {near[0]}?" if near else ""
                raise InvalidRequest(
                    f"--mix: no route is called {name!r}.{guess}",
                    field="mix",
                    hint=f"Configured are {', '.join(routes)}.",
                )
            if share <= 0:
                raise InvalidRequest(
                    f"--mix: the share of {name} must be above 0.", field="mix", hint="Leave a route without one out."
                )
        with exact():
            total = sum(shares.values(), Decimal(0))
        if total != 1:
            raise InvalidRequest(
                f"--mix: the shares sum to {digits(total)}, not to 1.",
                field="mix",
                hint="Write them as in bedrock-us-east-1=0.7,anthropic=0.3, or as 70% and 30%.",
            )
        mixes = sum(len(earlier) > 1 for earlier in given[: number + 1])
        single = next(iter(shares)) if len(shares) == 1 else None
        scenarios.append(Scenario(single or (f"mix {mixes}" if several else "mix"), shares))
    return scenarios
