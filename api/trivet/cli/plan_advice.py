"""Advice of a plan, and the loss of routes, as tables and as JSON."""

from collections import Counter
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from rich.text import Text

from trivet.cli.output import Column, print_line, print_table, print_whole, room, said_lines
from trivet.cli.plan_cells import binding_of, bound_object, dollars, span_of
from trivet.plan.outlook import named
from trivet.plan.terms import digits

if TYPE_CHECKING:
    from trivet.plan.losses import Loss, Waiting
    from trivet.plan.planner import Plan

OWNERS_SHOWN = 5
"""Maximum number of tenants named among the owners of waiting calls."""


def print_advice(plan: "Plan") -> None:
    """Print each saving with the change that brings it."""
    if not plan.advice:
        return
    print_line("")
    print_line(f"Advice, USD a day on {plan.cheapest}", style="bold")
    amounts = [usd for one in plan.advice if (usd := one.day_usd) is not None]
    shown = iter(list(dollars(amounts)))
    cells = ["fails" if one.day_usd is None else next(shown) for one in plan.advice]
    wide = max(map(len, cells))
    for cell, one in zip(cells, plan.advice, strict=True):
        change = one.change or "This is in force; the figures above do not count it."
        for number, (line, style) in enumerate(((one.finding, ""), (change, "dim"))):
            begin = cell.rjust(wide) if number == 0 else " " * wide
            for part in said_lines(Text(f"{begin}  ").append(line, style), hang=wide + 2, room=room()):
                print_whole(part)
    print_line("Each is reckoned alone; together they save less than their sum.", style="dim")


def print_losses(plan: "Plan") -> None:
    """Print the work without each route, and the calls that wait then."""
    if not plan.losses:
        return
    losses = plan.losses
    bounds = [loss.outlook.bound if loss.outlook.parts else None for loss in losses]
    days = list(dollars([loss.outlook.day_usd for loss in losses]))
    print_line("")
    print_table(
        [
            Column("WITHOUT", cut=True), Column("TIME", right=True), Column("WHAT BINDS"),
            Column("ON", cut=True, spare=1), Column("DAY", right=True), Column("CHANGE", right=True),
            Column("WAITING", right=True, optional=True),
        ],
        [
            (
                loss.name or "nothing",
                span_of(bound) if loss.outlook.parts else "never",
                binding_of(bound) if loss.outlook.parts else "no route is left",
                bound.route if bound else "", day, change, _waiting_cell(loss),
            )
            for loss, bound, day, change in zip(losses, bounds, days, _changes(losses), strict=True)
        ],
    )  # fmt: skip
    print_line(
        "All routes that are left work until the last call is done. CHANGE is the additional cost of what is done.",
        style="dim",
    )
    for line in _waiting_lines(losses):
        for part in said_lines(Text(line, style="yellow"), hang=2, room=room()):
            print_whole(part)


def _changes(losses: Sequence["Loss"]) -> Iterator[str]:
    """Yield the additional costs; below a ten-thousandth of the day's they are rounding."""
    changes = [
        loss.change_usd if abs(loss.change_usd) * 10_000 > loss.outlook.day_usd else Decimal(0) for loss in losses
    ]
    for change, amount in zip(changes, dollars([abs(one) for one in changes]), strict=True):
        yield amount if not change else f"{'-' if change < 0 else '+'}{amount}"


def _waiting_cell(loss: "Loss") -> str:
    if not loss.waiting:
        return ""
    return "all" if loss.waiting_calls is None else f"{loss.waiting_calls:,.0f}"


def _waiting_lines(losses: Sequence["Loss"]) -> Iterator[str]:
    """Yield a sentence on the calls that wait in each case, if another case does not have the same."""
    always = losses[0].waiting
    for loss in losses:
        waiting = [
            one for one in loss.waiting if loss is losses[0] or all(one.load is not other.load for other in always)
        ]
        for one in waiting:
            lost = f"Without {loss.name}, no" if loss.name else "No"
            yield f"{lost} route takes {named(one.load)}{_asking(one)}.{_owners(one)}"


def _asking(waiting: "Waiting") -> str:
    """Return the requirements of waiting calls beside the model, for a person."""
    asked = waiting.load.requirements
    words = [
        f"{word} {', '.join(names)}"
        for word, names in (
            ("residency", asked.residency),
            ("compliance", asked.compliance),
            ("features", asked.features),
        )
        if names
    ]
    return f" with {'; '.join(words)}" if words else ""


def _owners(waiting: "Waiting") -> str:
    classes, tenants = _counted(waiting)
    named_tenants = [f"{name} {calls:,.0f}" for name, calls in tenants.most_common(OWNERS_SHOWN)]
    if len(tenants) > OWNERS_SHOWN:
        named_tenants.append(f"{len(tenants) - OWNERS_SHOWN} more")
    words = [f"{name} {calls:,.0f}" for name, calls in classes.most_common()]
    return "".join(
        f" {kind}: {', '.join(some)}." for kind, some in (("By class", words), ("By tenant", named_tenants)) if some
    )


def _counted(waiting: "Waiting") -> tuple[Counter[str], Counter[str]]:
    """Return the waiting calls by class, and by tenant where there is one."""
    classes: Counter[str] = Counter()
    tenants: Counter[str] = Counter()
    for owner, calls in waiting.load.owners:
        classes[owner.latency] += calls  # type: ignore[assignment]
        if owner.tenant is not None:
            tenants[owner.tenant] += calls  # type: ignore[assignment]
    return classes, tenants


def advice_object(plan: "Plan") -> dict[str, Any]:
    """Return the advice as JSON has it; amounts are strings with all their digits."""
    return {
        "scenario": plan.cheapest or None,
        "items": [
            {
                "kind": one.kind,
                "day_usd": None if one.day_usd is None else digits(one.day_usd),
                "month_usd": None if one.day_usd is None else digits(one.day_usd * plan.terms.days),
                "finding": one.finding,
                "change": one.change or None,
            }
            for one in plan.advice
        ],
    }


def loss_object(loss: "Loss") -> dict[str, Any]:
    """Return the work without some routes as JSON has it."""
    calls = loss.waiting_calls
    return {
        "name": loss.name or None,
        "lost": list(loss.lost),
        "time": bound_object(loss.outlook.bound),
        "day_usd": digits(loss.outlook.day_usd),
        "change_usd": digits(loss.change_usd),
        "shares": [
            {"route": part.route, "model": part.load.requirements.model, "share": digits(part.share)}
            for part in loss.outlook.parts
        ],
        "waiting_calls": None if calls is None else digits(calls),
        "waiting": [_waiting_object(one) for one in loss.waiting],
    }


def _waiting_object(waiting: "Waiting") -> dict[str, Any]:
    load = waiting.load
    classes, tenants = _counted(waiting)
    return {
        "model": load.requirements.model,
        "residency": list(load.requirements.residency),
        "compliance": list(load.requirements.compliance),
        "features": list(load.requirements.features),
        "calls": None if load.calls is None else digits(load.calls),
        "by_class": {name: digits(Decimal(some)) for name, some in classes.items()},
        "by_tenant": {name: digits(Decimal(some)) for name, some in tenants.items()},
        "reasons": dict(waiting.reasons),
    }
