"""Drawing the routes: one line for each (route, model), one more for each further latency class. Plain functions."""

from collections.abc import Sequence
from typing import TypeAlias

from rich.text import Text

from trivet.admin.route_status import ModelStatus, Picture, RouteStatus
from trivet.cli import context
from trivet.cli.tables import Cell, Column, table_lines
from trivet.times import ago
from trivet_routing.permits import Pace
from trivet_tasks.config.route_hosts import effective_host
from trivet_tasks.config.route_settings import WHOLE_ROUTE
from trivet_tasks.latency import Latency
from trivet_tasks.states import RouteState

Row: TypeAlias = dict[str, Cell]

NARROW = 120
"""Terminals with fewer columns than this get the models' names without what they all begin with."""
STYLES: dict[str, str] = {
    RouteState.HEALTHY: "green",
    RouteState.LIMITED: "yellow",
    RouteState.RECOVERING: "yellow",
    RouteState.OPEN: "red",
    RouteState.PROBING: "red",
    RouteState.UNSERVED: "red",
    RouteState.UNSCHEDULED: "red",
    RouteState.DRAINED: "cyan",
    RouteState.UNPROVEN: "blue",
    RouteState.UNKNOWN: "magenta",
}
_COLUMNS = (
    # what is left out first of a narrow terminal has the highest number
    Column("ROUTE"),
    Column("MODEL", cut=True),
    Column("STATE"),
    Column("SINCE", right=True, spare=1),
    Column("CLASS"),
    Column("P50", right=True, spare=6),
    Column("P95", right=True),
    Column("ERRORS", right=True, spare=2),
    Column("CALLS", right=True, spare=3),
    Column("QUEUED", right=True),
    Column("RUNNING", right=True, spare=8),
    Column("REQ NOW", right=True, spare=4),
    Column("IN NOW", right=True, spare=5),
    Column("OUT NOW", right=True, spare=5),
    Column("WORKERS", spare=9),
    Column("PROVEN", right=True, spare=8),
    Column("SPENT TODAY", right=True, spare=10),
    Column("LIMITS A MINUTE", spare=7),
    Column("HOST", spare=11),
    Column("WINDOW", spare=4),
)
_ALWAYS = ("ROUTE", "MODEL", "STATE", "CALLS", "QUEUED", "P95", "ERRORS")
"""Shown though they be empty; another column without a figure is left out."""


def routes_table(picture: Picture, room: int | None) -> list[Text]:
    """The table for a terminal of so many columns; None: as wide as it is."""
    many_classes = len({latency for route in picture.routes for model in route.models for latency in model.paces}) > 1
    rows: list[Row] = []
    for route in picture.routes:
        for number, model in enumerate(route.models):
            first = _row(picture, route, model)
            if number == 0:
                first |= _of_the_route(picture, route)
            rows += _by_class(first, model, named=many_classes)
        rows += _idle_groups(route)
    if room is not None and room < NARROW:
        for row in rows:
            row["MODEL"] = str(row.get("MODEL", "")).removeprefix("claude-")
    shown = [column for column in _COLUMNS if column.heading in _ALWAYS or any(row.get(column.heading) for row in rows)]
    return table_lines(shown, [[row.get(column.heading, "") for column in shown] for row in rows], room=room)


def state_of(route: RouteStatus, model: ModelStatus) -> str:
    """The word for how a (route, model) stands, the operator's and the workers' side included."""
    if route.drained:
        return RouteState.DRAINED
    if model.state == RouteState.UNKNOWN:
        return model.state
    if not route.slots:
        return RouteState.UNSERVED
    if model.state not in (RouteState.HEALTHY, RouteState.UNPROVEN):
        return model.state
    if not route.scheduled:
        return RouteState.UNSCHEDULED
    return f"{RouteState.UNSERVED} {route.lacking[0]}" if route.lacking else model.state


def _row(picture: Picture, route: RouteStatus, model: ModelStatus) -> Row:
    state = state_of(route, model)
    since = route.drained_at if route.drained else model.since if state == model.state else None
    share = f" {model.share:.0%}" if state == RouteState.RECOVERING else ""
    return {
        "ROUTE": route.name,
        "MODEL": "any" if model.model == WHOLE_ROUTE else model.model,
        "STATE": Text(f"{state}{share}", style=STYLES.get(state.partition(" ")[0], "")),
        "SINCE": "" if since is None else ago(picture.now - since),
        "ERRORS": _errors(model),
        "CALLS": "" if model.places is None else f"{model.in_flight}/{model.places}",
        "REQ NOW": short(model.requests),
        "IN NOW": short(model.input_tokens),
        "OUT NOW": short(model.output_tokens),
        "LIMITS A MINUTE": limits(model),
    }


def _of_the_route(picture: Picture, route: RouteStatus) -> Row:
    return {
        "PROVEN": "" if route.proven_at is None else ago(picture.now - route.proven_at),
        "QUEUED": f"{route.queued:,}",
        "RUNNING": f"{route.running:,}",
        "SPENT TODAY": context.usd(route.spent.usd) if route.spent.calls else "",
        "WORKERS": ", ".join(f"{count} {lane}" for lane, count in sorted(route.workers.items())),
        "WINDOW": str(route.window or ""),
        "HOST": effective_host(route.settings),
    }


def _by_class(first: Row, model: ModelStatus, *, named: bool) -> list[Row]:
    """The row with the pace of the first class, and a row for each further one."""
    paces: Sequence[tuple[Latency, Pace]] = [
        (latency, model.paces[latency]) for latency in Latency if latency in model.paces
    ]
    rows: list[Row] = [
        {
            "CLASS": latency.value if named else "",
            "P50": context.seconds(pace.p50_s),
            "P95": context.seconds(pace.p95_s),
        }
        for latency, pace in paces
    ]  # fmt: skip
    return [{**first, **(rows[0] if rows else {})}, *rows[1:]]


def _errors(model: ModelStatus) -> Cell:
    """Failed calls of those made lately."""
    if not model.calls:
        return ""
    return Text(f"{model.failed}/{model.calls}", style="red" if model.failed else "")


def limits(model: ModelStatus) -> str:
    """What the account allows a minute, and whom together; `~` where only the provider has told us."""
    quota = model.quota
    said = _figures((quota.requests, quota.input_tokens, quota.output_tokens), model.per_minute)
    return f"{quota.group}: {said}" if said and quota.group != model.model else said


def _idle_groups(route: RouteStatus) -> list[Row]:
    """Groups of models with limits of their own, none of which is in use."""
    used = {model.quota.group for model in route.models}
    return [
        {
            "ROUTE": route.name,
            "MODEL": group.name,
            "LIMITS A MINUTE": _figures(
                (group.requests_per_minute, group.input_tokens_per_minute, group.output_tokens_per_minute)
            ),
        }
        for group in route.settings.limits
        if group.name not in used
    ]


def _figures(configured: Sequence[float | None], found: Sequence[float | None] = (None, None, None)) -> str:
    figures = []
    for given, learned, unit in zip(configured, found, ("req", "in", "out"), strict=True):
        if given:
            figures.append(f"{short(given)} {unit}")
        elif learned is not None:
            figures.append(f"~{short(learned)} {unit}")
    return ", ".join(figures)


def short(figure: float | None) -> str:
    """A figure in few characters; nothing for None."""
    if figure is None:
        return ""
    for size, letter in ((1_000_000, "M"), (1_000, "k")):
        if figure >= size:
            return f"{figure / size:.3g}{letter}"
    return f"{int(figure)}"
