"""`trivet costs` for people: the table, and what is to be known about its figures."""

from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

from trivet.cli import context
from trivet.cli.costs_figures import digits as digits_of
from trivet.cli.tables import Column, print_line, print_table
from trivet.times import moment

if TYPE_CHECKING:
    from trivet_store.reports.cost_savings import AnswerSaving, CacheSaving
    from trivet_store.reports.costs import CostRow, Span, Unpriced

_MODELS_NAMED = 5


def show(
    names: Sequence[str],
    rows: "Sequence[CostRow]",
    total: "CostRow",
    unpriced: "Sequence[Unpriced]",
    span: "Span",
    savings: "Sequence[CacheSaving]" = (),
    answered: "Sequence[AnswerSaving]" = (),
) -> None:
    """Print it. `answered`: what the response cache saved in all, one line or none."""
    if not total.calls:
        print_line(f"No call was made since {moment(span.since)}.")
        for saving in answered:
            print_line(answered_line(saving), style="dim")
        return
    digits = digits_of(max(total.cost_usd, total.estimated_usd))
    estimated = total.estimated_usd > 0

    def row(group: list[str], of: "CostRow") -> list[str]:
        found = [
            f"{of.calls:,}",
            f"{of.jobs:,}",
            f"{of.input_tokens:,}",
            f"{of.output_tokens:,}",
            f"${of.cost_usd:,.{digits}f}",
        ]
        if estimated:
            found.append(f"${of.estimated_usd:,.{digits}f}")
        if unpriced:
            found.append(f"{of.unpriced:,}")
        return [*group, *found]

    print_table(
        [
            *(Column(name.upper(), cut=True) for name in names),
            Column("CALLS", right=True), Column("JOBS", right=True, spare=1),
            Column("INPUT", right=True, spare=2), Column("OUTPUT", right=True, spare=2), Column("COST", right=True),
            *([Column("ESTIMATED", right=True)] if estimated else ()),
            *([Column("UNPRICED", right=True)] if unpriced else ()),
        ],
        [row([_named(*pair) for pair in zip(names, found.group, strict=True)], found) for found in rows],
        total=row(["total", *[""] * (len(names) - 1)] if names else [], total),
    )  # fmt: skip
    print_line(f"Since {moment(span.since)}; INPUT and OUTPUT are tokens.", style="dim")
    if estimated:
        print_line(
            "Estimated: at most, for calls in flight and calls whose fate is not known. Not in COST.", style="dim"
        )
    if total.likened_usd:
        print_line(
            f"Of COST ${total.likened_usd:,.{digits}f} is by likeness: no list names what was called, so its model's price "
            "was taken.",
            style="dim",
        )
    if savings:
        print_line(savings_line(savings), style="dim")
    for saving in answered:
        print_line(answered_line(saving), style="dim")
    if unpriced:
        print_line(unpriced_line(total.unpriced, unpriced), style="yellow")


def savings_line(savings: "Sequence[CacheSaving]") -> str:
    """What the providers' prompt caches saved, all days and models together."""
    saved = sum((one.saved_usd - one.surcharge_usd for one in savings), Decimal(0))
    read, written = (sum(getattr(one, name) for one in savings) for name in ("read_tokens", "written_tokens"))
    return (
        f"Prompt caches saved ${saved:,.4f}, against the same tokens as plain input: {read:,} were read from them, {written:,} written."
        if saved >= 0
        else f"Prompt caches cost ${-saved:,.4f} more than they saved: {read:,} tokens were read from them, {written:,} written."
    )


def answered_line(saving: "AnswerSaving") -> str:
    """What the response cache did."""
    jobs = f"{saving.hits:,} job{'s' if saving.hits != 1 else ''}"
    lacking = f" ({saving.unpriced:,} of them unpriced)" if saving.unpriced else ""
    return f"The response cache answered {jobs} without a call and saved {context.usd(saving.saved_usd)}{lacking}."


def unpriced_line(calls: int, found: "Sequence[Unpriced]") -> str:
    """How many calls no sum has, and of what."""
    named = [f"{one.model} (as {one.wire_model} on {one.provider}) {one.calls:,}" for one in found[:_MODELS_NAMED]]
    rest = f", and {len(found) - _MODELS_NAMED:,} more" if len(found) > _MODELS_NAMED else ""
    return f"Unpriced: no price is known for {calls:,} call{'s' if calls != 1 else ''}, and COST lacks them: {', '.join(named)}{rest}."


def _named(by: str, group: str) -> str:
    return group or ("in flight" if by in ("outcome", "role") else "(none)" if by.startswith("tag:") else f"no {by}")
