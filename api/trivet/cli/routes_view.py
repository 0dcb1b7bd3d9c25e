"""Views of routes: the table, one JSON object, the limits of one and the result of a probe. Plain functions."""

from collections.abc import Sequence
from typing import TypeAlias

from rich.text import Text

from trivet.admin import ClusterStatus, ModelStatus, Pace, ProbeResult, RouteLimits, RouteStatus
from trivet.cli import output
from trivet.cli.output import Cell, Column, print_facts, print_line, print_table, table_lines
from trivet.cli.routes_remarks import STYLES, override_words, remarks, summary
from trivet.times import ago, seconds
from trivet_tasks.config.addresses import effective_host
from trivet_tasks.config.route_settings import WHOLE_ROUTE
from trivet_tasks.latency import Latency
from trivet_tasks.states import RouteState

Row: TypeAlias = dict[str, Cell]

NARROW = 120
"""Terminals with fewer columns than this get the models' names without what they all begin with."""
_COLUMNS = (
    # what is left out first of a narrow terminal has the highest number
    Column("ROUTE"),
    Column("MODEL", cut=True),
    Column("STATE"),
    Column("SINCE", right=True, spare=1, optional=True),
    Column("CLASS", optional=True),
    Column("P50", right=True, spare=6, optional=True),
    Column("P95", right=True),
    Column("ERRORS", right=True, spare=2),
    Column("CALLS", right=True, spare=3),
    Column("QUEUED", right=True),
    Column("RUNNING", right=True, spare=8, optional=True),
    Column("REQ NOW", right=True, spare=4, optional=True),
    Column("IN NOW", right=True, spare=5, optional=True),
    Column("OUT NOW", right=True, spare=5, optional=True),
    Column("WORKERS", spare=9, optional=True),
    Column("PROVEN", right=True, spare=8, optional=True),
    Column("$/HOUR", right=True, spare=4, optional=True),
    Column("SPENT TODAY", right=True, spare=10, optional=True),
    Column("LIMITS A MINUTE", spare=7, optional=True),
    Column("HOST", spare=11, optional=True),
    Column("WINDOW", spare=4, optional=True),
)


def status_lines(status: ClusterStatus, room: int | None) -> list[Text]:
    """Return table, remarks and waiting jobs for a terminal of so many columns; None: at their full width."""
    table = routes_table(status, room) if status.routes else []
    shown: list[Text] = []
    for lines in (table, remarks(status, room), summary(status, room)):
        shown += [Text(), *lines] if shown and lines else lines
    return shown


def routes_table(status: ClusterStatus, room: int | None) -> list[Text]:
    """Return the table for a terminal of so many columns; None: at its full width."""
    many_classes = len({latency for route in status.routes for model in route.models for latency in model.paces}) > 1
    rows: list[Row] = []
    for route in status.routes:
        for number, model in enumerate(route.models):
            first = _row(status, route, model)
            if number == 0:
                first |= _of_the_route(status, route)
            rows += _by_class(first, model, named=many_classes)
        rows += _idle_groups(route)
    if room is not None and room < NARROW:
        for row in rows:
            row["MODEL"] = str(row.get("MODEL", "")).removeprefix("claude-")
    return table_lines(_COLUMNS, [[row.get(column.heading, "") for column in _COLUMNS] for row in rows], room=room)


def _row(status: ClusterStatus, route: RouteStatus, model: ModelStatus) -> Row:
    state = route.state_of(model)
    since = route.drained_at if route.drained else model.since if state == model.state else None
    share = f" {model.share:.0%}" if state == RouteState.RECOVERING else ""
    return {
        "ROUTE": route.name,
        "MODEL": "any" if model.model == WHOLE_ROUTE else model.model,
        "STATE": Text(f"{state}{share}", style=STYLES.get(state.partition(" ")[0], "")),
        "SINCE": "" if since is None else ago(status.now - since),
        "ERRORS": _errors(model),
        "CALLS": "" if model.places is None else f"{model.in_flight}/{model.places}",
        "REQ NOW": short(model.requests),
        "IN NOW": short(model.input_tokens),
        "OUT NOW": short(model.output_tokens),
        "LIMITS A MINUTE": limits(model),
    }


def _of_the_route(status: ClusterStatus, route: RouteStatus) -> Row:
    return {
        "PROVEN": "" if route.proven_at is None else ago(status.now - route.proven_at),
        "QUEUED": f"{route.queued:,}",
        "RUNNING": f"{route.running:,}",
        "$/HOUR": output.usd(route.usd_per_hour) if route.usd_per_hour else "",
        "SPENT TODAY": output.usd(route.spent.usd) if route.spent.calls else "",
        "WORKERS": ", ".join(f"{count} {lane}" for lane, count in sorted(route.workers.items())),
        "WINDOW": str(route.window or ""),
        "HOST": effective_host(route.settings),
    }


def _by_class(first: Row, model: ModelStatus, *, named: bool) -> list[Row]:
    """Return the row with the pace of the first class, and a row for each further one."""
    paces: Sequence[tuple[Latency, Pace]] = [
        (latency, model.paces[latency]) for latency in Latency if latency in model.paces
    ]
    rows: list[Row] = [
        {
            "CLASS": latency.value if named else "",
            "P50": seconds(pace.p50_s),
            "P95": seconds(pace.p95_s),
        }
        for latency, pace in paces
    ]  # fmt: skip
    return [{**first, **(rows[0] if rows else {})}, *rows[1:]]


def _errors(model: ModelStatus) -> Cell:
    """Return failed calls of those made lately."""
    if not model.calls:
        return ""
    return Text(f"{model.failed}/{model.calls}", style="red" if model.failed else "")


def limits(model: ModelStatus) -> str:
    """Return the account's limits a minute, after the models that share them; `~` marks those learned from the provider."""
    quota = model.quota
    said = _figures((quota.requests, quota.input_tokens, quota.output_tokens), model.per_minute)
    return f"{quota.group}: {said}" if said and quota.group != model.model else said


def _idle_groups(route: RouteStatus) -> list[Row]:
    """Return groups of models that have limits of their own and are not in use."""
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
    """Return a figure in few characters; nothing for None."""
    if figure is None:
        return ""
    for size, letter in ((1_000_000, "M"), (1_000, "k")):
        if figure >= size:
            return f"{figure / size:.3g}{letter}"
    return f"{int(figure)}"


def print_limits(limits: RouteLimits) -> None:
    """Print the limits of a route, and which of them were set by hand."""
    columns = ("REQUESTS", "INPUT TOKENS", "OUTPUT TOKENS", "CALLS AT ONCE")
    print_table(
        [Column("MODELS"), *(Column(heading, right=True) for heading in columns)],
        [
            [
                "each" if models == WHOLE_ROUTE else models,
                *("" if value is None else f"{value:,}" for value in figures.values()),
            ]
            for models, figures in limits.figures.items()
        ],
    )
    for words in override_words(limits.route, limits.overrides, limits.now):
        print_line(words)


def print_probe(probed: ProbeResult) -> None:
    """Print what came of a probe, and what comes next."""
    status = f" ({probed.status})" if probed.status and not probed.good else ""
    outcome = Text(f"{probed.outcome}{status}", style="green" if probed.good else "red")
    cost = f"at most {output.usd(probed.cost_usd)}" if probed.estimated else output.usd(probed.cost_usd)
    facts: list[tuple[str, Cell | None]] = [
        ("probe", f"{probed.route} {probed.model}"), ("outcome", outcome), ("said", probed.message),
        ("latency", seconds(probed.latency_s)), ("cost", cost), ("request", probed.request_id),
        ("attempt", probed.attempt_id), ("state", Text(probed.state, style=STYLES.get(probed.state, ""))),
    ]  # fmt: skip
    print_facts([(word, value) for word, value in facts if value])
    print_line(f"Next: {probed.next}.")
    if probed.drained:
        print_line(f"It is drained: no job goes there until `trivet route restore {probed.route}`.", style="yellow")
