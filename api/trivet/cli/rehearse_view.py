"""A rehearsal as tables and as JSON: jobs by latency class, calls by route, remarks."""

from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from rich.text import Text

from trivet.cli.output import (
    Column,
    print_line,
    print_table,
    print_whole,
    room,
    said_lines,
    usd,
    usd_and_estimate,
)
from trivet.times import seconds

if TYPE_CHECKING:
    from trivet.rehearse.outages import Outage
    from trivet.rehearse.report import ClassReport, RehearsalReport, RouteReport

_REASONS = 5
"""Maximum number of reasons shown of a class."""


def outage_words(outage: "Outage") -> str:
    """Return an outage for a person: `bedrock-us-east-1 down from 4 min 00 s to 14 min 00 s`."""
    kind = outage.kind if outage.kind == "down" else f"answers {outage.kind}" if outage.kind.isdigit() else "hangs"
    return f"{outage.route} {kind} from {seconds(outage.starts_s)} to {seconds(outage.ends_s)}"


def print_report(report: "RehearsalReport", before: "RehearsalReport | None") -> None:
    """Print a report for a person. `before`: the same run without outages."""
    of = f" of {report.requests:,}" if report.rehearsed < report.requests else ""
    print_line(
        f"{report.rehearsed:,}{of} jobs took {seconds(report.took_s)}; planned without an outage: "
        f"{seconds(report.planned_s)}.",
        style="bold",
    )
    if report.broken_off:
        print_line(f"Broken off after that time: {report.broken_off}.", style="yellow")
    if before is not None:
        print_line(f"The same without an outage took {seconds(before.took_s)} and cost {_cost(before)}.")
    planned = "not known" if report.planned_usd is None else usd(report.planned_usd)
    print_line(f"Cost: {_cost(report)}; planned {planned}.")
    print_whole("")
    _print_classes(report.classes)
    print_whole("")
    _print_routes(report.routes)
    print_whole("")
    for remark in report.remarks:
        for part in said_lines(Text(f"- {remark}"), hang=2, room=room()):
            print_whole(part)


def _cost(report: "RehearsalReport") -> str:
    return usd_and_estimate(report.cost_usd, report.estimated_usd)


def _print_classes(classes: Sequence["ClassReport"]) -> None:
    numbers = ("JOBS", "SUCCEEDED", "FAILED", "EXPIRED", "WAITING", "LATE", "LONGEST")
    print_table(
        [Column("CLASS"), *(Column(name, right=True) for name in numbers)],
        [
            (
                one.latency.value, f"{one.jobs:,}", f"{one.succeeded:,}", _bad(one.failed), _bad(one.expired), _bad(one.waiting),
                _bad(one.late), seconds(one.longest_s),
            )
            for one in classes
        ],
    )  # fmt: skip
    for one in classes:
        for reason in one.reasons[:_REASONS]:
            print_line(f"{one.latency}: {reason}", style="yellow", indent=2)


def _bad(jobs: int) -> Text:
    return Text(f"{jobs:,}", style="red" if jobs else "dim")


def _print_routes(routes: Sequence["RouteReport"]) -> None:
    print_table(
        [
            Column("ROUTE", cut=True), Column("CALLS", right=True), Column("FAILED", right=True), Column("HELD OPEN", right=True),
            Column("PROBES", right=True, spare=1), Column("COST", right=True), Column("FAILED OVER TO", cut=True),
        ],
        [
            (
                one.route, f"{one.attempts.attempts:,}", _bad(one.attempts.failed), seconds(one.held_open_s or None) or "–",
                f"{one.attempts.probes:,}", usd_and_estimate(one.attempts.cost_usd, one.attempts.estimated_usd),
                ", ".join(f"{name} {jobs:,}" for name, jobs in one.attempts.left_to.most_common()) or "–",
            )
            for one in routes
        ],
    )  # fmt: skip
    for one in routes:
        for outage in one.outages:
            print_line(f"Outage: {outage_words(outage)}.", style="dim")


def as_object(report: "RehearsalReport", before: "RehearsalReport | None") -> dict[str, Any]:
    """Return a report as JSON has it: amounts are strings, times are rehearsed seconds. `before` as for `print_report`."""
    return {
        "requests": report.requests,
        "rehearsed": report.rehearsed,
        "speed": report.speed,
        "took_s": round(report.took_s, 1),
        "planned_s": round(report.planned_s, 1),
        "cost_usd": _exact(report.cost_usd),
        "estimated_usd": _exact(report.estimated_usd),
        "planned_usd": None if report.planned_usd is None else _exact(report.planned_usd),
        "broken_off": report.broken_off or None,
        "classes": [
            {
                "class": one.latency.value,
                "jobs": one.jobs,
                "succeeded": one.succeeded,
                "late": one.late,
                "failed": one.failed,
                "expired": one.expired,
                "waiting": one.waiting,
                "longest_s": round(one.longest_s, 1),
                "reasons": list(one.reasons),
            }
            for one in report.classes
        ],
        "routes": [_route(one) for one in report.routes],
        "remarks": list(report.remarks),
        **({} if before is None else {"without_outage": as_object(before, None)}),
    }


def _route(one: "RouteReport") -> dict[str, Any]:
    return {
        "route": one.route,
        "outages": [
            {"kind": outage.kind, "starts_s": outage.starts_s, "lasts_s": outage.lasts_s} for outage in one.outages
        ],
        "calls": one.attempts.attempts,
        "succeeded": one.attempts.succeeded,
        "failed": one.attempts.failed,
        "probes": one.attempts.probes,
        "failed_over_to": dict(one.attempts.left_to),
        "held_open_s": round(one.held_open_s, 1),
        "cost_usd": _exact(one.attempts.cost_usd),
        "estimated_usd": _exact(one.attempts.estimated_usd),
    }


def _exact(amount: Decimal) -> str:
    return format(amount, "f")
