"""A plan as tables and as JSON: costs and durations of scenarios, prices, hidden costs, assumptions."""

from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.text import Text

from trivet.cli.output import Column, print_line, print_table, print_whole, room, said_lines, table_lines
from trivet.cli.plan_advice import advice_object, loss_object, print_advice, print_losses
from trivet.cli.plan_cells import binding_of, bound_object, dollars, span_of
from trivet.plan.outlook import Obstacle, Outlook
from trivet.plan.terms import Charged, Per, digits
from trivet_tasks.config.budgets import DAY_S

if TYPE_CHECKING:
    from trivet.plan.outlook import Part
    from trivet.plan.planner import Plan, PlannedScenario

SPARED = {"DAY MAX": 2, "INPUT": 1, "OUTPUT": 1}
"""Left out of a terminal that is narrower still, the highest first; the sums stay."""
HEADINGS = {Per.CALL: "PER CALL", Per.GB_OUT: "DATA OUT", Per.MONTH: "FIXED"}


class _Row(NamedTuple):
    name: str
    expected: Outlook
    at_most: Outlook | None


class _Field(NamedTuple):
    """A column and its cells, one for each row."""

    column: Column
    cells: list[str | Text]


def print_plan(plan: "Plan") -> None:
    """Print a plan for a person. Where it is too wide, cost and time go below one another, hidden costs into one column."""
    rows = [
        _Row(one.scenario.name, one.expected, one.at_most)
        for one in plan.scenarios
        if isinstance(one.expected, Outlook)
    ]
    names = _Field(Column("SCENARIO", cut=True), [row.name for row in rows])
    kinds = [per for per in Per if any(one.charge.per is per for row in rows for one in row.expected.charged)]
    time = _time(rows)
    layouts = (
        [[names, *_cost(rows, kinds, apart=True), *time]],
        [[names, *_cost(rows, kinds, apart=True)], [names, *time]],
        [[names, *_cost(rows, kinds, apart=False)], [names, *time]],
    )
    for number, fields in enumerate(next((one for one in layouts if all(map(_fits, one))), layouts[-1])):
        if number:
            print_line("")
        print_table([field.column for field in fields], _turned(fields))
    _print_below(plan, rows)
    print_advice(plan)
    print_losses(plan)
    print_line("")
    print_line("Assumed", style="bold")
    for line in plan.assumptions:
        _print_item(line)


def _fits(fields: Sequence[_Field]) -> bool:
    wide = room()
    if wide is None:
        return True
    lines = table_lines([field.column for field in fields], _turned(fields), room=None)
    return max(line.cell_len for line in lines) <= wide


def _turned(fields: Sequence[_Field]) -> list[tuple[str | Text, ...]]:
    return list(zip(*(field.cells for field in fields), strict=True))


def _cost(rows: Sequence[_Row], kinds: Sequence[Per], *, apart: bool) -> list[_Field]:
    calls = [row.expected.calls for row in rows]
    groups = {HEADINGS[per]: (per,) for per in kinds} if apart or len(kinds) < 2 else {"HIDDEN": tuple(kinds)}
    hidden = [(heading, [_hidden(row.expected, group) for row in rows]) for heading, group in groups.items()]
    amounts = [
        ("INPUT", [row.expected.input_usd for row in rows]),
        ("OUTPUT", [row.expected.output_usd for row in rows]),
        *hidden,
        ("DAY", [row.expected.day_usd for row in rows]),
        ("MONTH", [row.expected.month_usd for row in rows]),
    ]
    if any(row.at_most for row in rows):
        most = [row.at_most or row.expected for row in rows]
        amounts += [("DAY MAX", [one.day_usd for one in most]), ("MONTH MAX", [one.month_usd for one in most])]
    return [
        _Field(Column("CALLS", right=True), ["?" if some is None else f"{some:,.0f}" for some in calls]),
        *(
            _Field(Column(heading, right=True, spare=SPARED.get(heading, 0)), list(dollars(column)))
            for heading, column in amounts
        ),
    ]


def _hidden(outlook: Outlook, kinds: Sequence[Per]) -> Decimal:
    return sum((one.day_usd for one in outlook.charged if one.charge.per in kinds), Decimal(0))


def _price(amount: Decimal) -> str:
    """Return a price with all its decimals, two at least."""
    return f"${amount:,.2f}" if amount == amount.quantize(Decimal("0.01")) else f"${digits(amount)}"


def _time(rows: Sequence[_Row]) -> list[_Field]:
    fields = [_Field(Column("TIME", right=True), [span_of(row.expected.bound) for row in rows])]
    if any(row.at_most for row in rows):
        fields.append(
            _Field(Column("TIME MAX", right=True), [span_of((row.at_most or row.expected).bound) for row in rows])
        )
    fields.append(_Field(Column("WHAT BINDS"), [binding_of(row.expected.bound) for row in rows]))
    where = [row.expected.bound.route if row.expected.bound else "" for row in rows]
    if where != [row.name for row in rows]:
        fields.append(_Field(Column("ON", cut=True), list(where)))
    return fields


def _print_below(plan: "Plan", rows: Sequence[_Row]) -> None:
    print_line(f"USD and time for one day; MONTH is {digits(plan.terms.days)} days.", style="dim")
    for row in rows:
        if row.expected.bound is not None and row.expected.bound.seconds > DAY_S:
            print_line(f"{row.name}: a day's work takes more than a day, so it would never be done.", style="yellow")
    for one in plan.scenarios:
        if isinstance(one.expected, Obstacle):
            print_line(f"{one.scenario.name}: not possible. {one.expected.text}.", style="yellow")
    for one in plan.scenarios:
        if len(one.scenario.shares) > 1:
            print_line(f"{one.scenario.name}: {one.scenario.text}.", style="dim")
    _print_prices(rows)
    _print_hidden(rows)


def _print_prices(rows: Sequence[_Row]) -> None:
    prices = {
        (part.route, part.load.requirements.model, part.prices.above): part.prices
        for row in rows
        for part in row.expected.parts
    }
    print_line("")
    print_table(
        [
            Column("PRICE ON", cut=True), Column("MODEL", cut=True), Column("INPUT", right=True), Column("OUTPUT", right=True),
            Column("PROMPTS ABOVE", right=True, optional=True),
        ],
        [
            [
                route, model, _price(price.input * 10**6), _price(price.output * 10**6),
                f"{above:,}" if above >= 0 else "",
            ]
            for (route, model, above), price in sorted(prices.items())
        ],
    )  # fmt: skip
    print_line("USD a million tokens.", style="dim")


def _print_hidden(rows: Sequence[_Row]) -> None:
    """Print each hidden cost once, with its amount in each scenario that has it."""
    charges: dict[object, list[tuple[str, Charged]]] = {}
    for row in rows:
        for one in row.expected.charged:
            charges.setdefault(one.charge, []).append((row.name, one))
    if not charges:
        return
    print_line("")
    print_line("Hidden costs, a day", style="bold")
    for found in charges.values():
        charge = found[0][1].charge
        where = f" of {charge.route}" if charge.route else ""
        units = "" if charge.units == 1 else f"{charge.units:,.0f} "
        per = {Per.CALL: "calls" if units else "call", Per.GB_OUT: "GB", Per.MONTH: "months" if units else "month"}
        amounts = list(dollars([one.day_usd for _, one in found]))
        each = ", ".join(f"{name} {amount}" for (name, _), amount in zip(found, amounts, strict=True))
        total = amounts[0] if len(set(amounts)) == 1 else each
        _print_item(f"{charge.name}{where}, {_price(charge.usd)} per {units}{per[charge.per]}: {total}")


def _print_item(line: str) -> None:
    for part in said_lines(Text(f"- {line}"), hang=2, room=room()):
        print_whole(part)


def as_object(plan: "Plan") -> dict[str, Any]:
    """Return a plan as JSON has it: amounts, tokens and calls are strings with all their digits."""
    return {
        "days_per_month": digits(plan.terms.days),
        "scenarios": [_scenario(one) for one in plan.scenarios],
        "advice": advice_object(plan),
        "without": [loss_object(loss) for loss in plan.losses],
        "assumptions": list(plan.assumptions),
    }


def _scenario(planned: "PlannedScenario") -> dict[str, Any]:
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
        "time": bound_object(outlook.bound),
        "parts": [_part(part) for part in outlook.parts],
    }


def _part(part: "Part") -> dict[str, Any]:
    return {
        "route": part.route,
        "model": part.load.requirements.model,
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


def _known(calls: "Decimal | None") -> str | None:
    return None if calls is None else digits(calls)
