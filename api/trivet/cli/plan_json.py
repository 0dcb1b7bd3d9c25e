"""A plan as JSON. Amounts, tokens and calls are strings with all their digits; what is by the month says so."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trivet.plan.exact import digits
from trivet.plan.outlook import Obstacle, Outlook

if TYPE_CHECKING:
    from decimal import Decimal

    from trivet.cli.plan import Planned
    from trivet.plan.outlook import Part, Terms
    from trivet.plan.timing import Bound


def as_object(planned: "Sequence[Planned]", terms: "Terms", assumptions: Sequence[str]) -> dict[str, Any]:
    """The whole plan."""
    return {
        "days_per_month": digits(terms.days),
        "scenarios": [_scenario(one) for one in planned],
        "assumptions": list(assumptions),
    }


def _scenario(planned: "Planned") -> dict[str, Any]:
    scenario = planned.scenario
    named = {"name": scenario.name, "shares": {route: digits(share) for route, share in scenario.shares.items()}}
    if isinstance(planned.expected, Obstacle):
        return {**named, "obstacle": planned.expected.text}
    most = None if planned.at_most is None else _outlook(planned.at_most)
    return {**named, **_outlook(planned.expected), "at_most": most}


def _outlook(outlook: Outlook) -> dict[str, Any]:
    return {
        "calls": _known(outlook.calls),
        "input_tokens": digits(outlook.input_tokens),
        "output_tokens": digits(outlook.output_tokens),
        "input_usd": digits(outlook.input_usd),
        "output_usd": digits(outlook.output_usd),
        "hidden": [
            {
                "name": one.charge.name,
                "route": one.charge.route,
                "per": one.charge.per,
                "usd": digits(one.charge.usd),
                "units": digits(one.charge.units),
                "day_usd": digits(one.day_usd),
                "month_usd": digits(one.month_usd),
            }
            for one in outlook.charged
        ],
        "day_usd": digits(outlook.day_usd),
        "month_usd": digits(outlook.month_usd),
        "time": _bound(outlook.bound),
        "parts": [_part(part) for part in outlook.parts],
    }


def _part(part: "Part") -> dict[str, Any]:
    return {
        "route": part.route,
        "model": part.load.needs.model,
        "prompts_above": max(0, part.load.above),
        "calls": _known(part.calls),
        "input_tokens": digits(part.input_tokens),
        "output_tokens": digits(part.output_tokens),
        "bytes_out": digits(part.bytes_out),
        "input_usd": digits(part.input_usd),
        "output_usd": digits(part.output_usd),
        "usd_per_million": {
            kind: digits(getattr(part.prices, kind) * 10**6) for kind in ("input", "output", "cache_read")
        },
    }


def _bound(bound: "Bound | None") -> dict[str, Any] | None:
    if bound is None:
        return None
    return {
        "seconds": digits(bound.seconds),
        "route": bound.route,
        "model": bound.model,
        "limit": bound.limit,
        "figure": digits(bound.figure),
    }


def _known(calls: "Decimal | None") -> str | None:
    return None if calls is None else digits(calls)
