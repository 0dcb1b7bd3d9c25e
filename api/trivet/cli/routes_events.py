"""`trivet routes events`: the events of routes, with their causes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from trivet.cli import options, output
from trivet.times import moment

if TYPE_CHECKING:
    from rich.text import Text

    from trivet.admin import Event, FoldedEvent

_SINCE = "24h"
LEAST_FOR_CAUSES = 30
"""Columns that causes need beside the rest; with fewer they get a line of their own."""


def events(
    name: Annotated[str | None, typer.Argument(help="One route; none: all.", show_default=False)] = None,
    since: Annotated[
        str, typer.Option(help="1h, 30m, 7d, or a moment in ISO 8601 (UTC where it names no zone).")
    ] = _SINCE,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of events, the latest.")] = 200,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Events of the routes with their causes, the newest last: opened, probed, recovering, limited, drained, restored."""
    from trivet.cli.options import since as moment_of
    from trivet.cli.output import print_line, print_whole, room

    with options.admin() as admin:
        start = moment_of(since, admin.now())
        found = admin.events.list(since=start, route=name, limit=limit)
    if as_json:
        output.print_json([event._asdict() for event in found])
        return
    about = f" to {name}" if name else ""
    if not found:
        print_line(f"Nothing happened{about} since {moment(start)}.")
        return
    for line in event_lines(found, room()):
        print_whole(line)
    if len(found) == limit:
        print_line(f"Only the latest {limit:,}; --limit shows more.", style="dim")


def event_lines(found: "Sequence[Event]", room: int | None) -> "list[Text]":
    """Return one event a line with its cause beside it, or below it on a narrow terminal. Repeated pauses are one line."""
    from rich.text import Text

    from trivet.admin import folded
    from trivet.cli.output import GAP, Cell, Column, said_lines, table_lines
    from trivet.cli.routes_view import STYLES

    entries = folded(found)
    rows: list[list[Cell]] = [
        [
            moment(entry.event.at), entry.event.route or "",
            entry.event.model if entry.event.model not in (None, "*") else "",
            Text(kind := entry.event.kind.removeprefix("route "), style=STYLES.get(kind, "")),
        ]
        for entry in entries
    ]  # fmt: skip
    heading, *lines = table_lines([Column("AT"), Column("ROUTE"), Column("MODEL"), Column("WHAT")], rows, room=None)
    wide = max(line.cell_len for line in [heading, *lines]) + GAP
    if room is not None and room - wide < LEAST_FOR_CAUSES:
        shown = []
        for line, entry in zip(lines, entries, strict=True):
            line.truncate(room, overflow="ellipsis")
            shown += [line, *said_lines(_cause(entry), indent=4, room=room)]
        return shown
    shown = [heading + Text(" " * (wide - heading.cell_len) + "CAUSE", style="bold")]
    for line, entry in zip(lines, entries, strict=True):
        first, *more = said_lines(_cause(entry), room=None if room is None else room - wide)
        shown += [line + Text(" " * (wide - line.cell_len)) + first, *(Text(" " * wide) + part for part in more)]
    return shown


def _cause(entry: "FoldedEvent") -> str:
    if entry.times == 1:
        return entry.event.text
    return f"{entry.event.text} ({entry.times:,} times, the last at {moment(entry.last_at)[11:]})"
