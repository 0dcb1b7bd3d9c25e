"""Output of commands: JSON, CSV, tables that fit the terminal, lines, amounts, and exit codes.

Columns that can be spared are left out of a narrow terminal, and nothing is wrapped. Into a pipe or a file everything is
written, however wide.
"""

import csv
import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeAlias

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from trivet.cli.log_lines import warning_line
from trivet.json_objects import as_json
from trivet_tasks.foreign_text import escaped, for_terminal

FAILED = 1
"""Some jobs failed, or there is no result."""
USAGE = 2
"""Usage or configuration."""
HELD_UP = 3
"""Work is held up by something that is wrong. Limits, budgets and backoff are not: work goes on by itself."""
EPILOG = (
    "Exit codes: 0 done, 1 some jobs failed, 2 usage or configuration, 3 work is held up by something that is wrong."
)

GAP = 2
"""Spaces between two columns."""
SHORTEST = 8
"""A cell is not cut below this many characters."""

out = Console(highlight=False, soft_wrap=False)
err = Console(stderr=True, highlight=False)

Cell: TypeAlias = str | Text


@dataclass(frozen=True, slots=True)
class Column:
    """A column, and how it may shrink on a narrow terminal."""

    heading: str
    right: bool = False
    spare: int = 0
    """Rank for leaving it out: never (0), else the highest first."""
    cut: bool = False
    """True if its cells may be cut short."""
    optional: bool = False
    """True if it is left out where all its cells are empty."""


def as_csv(headings: Sequence[str], rows: Iterable[Sequence[str | int | Decimal]]) -> str:
    """Return CSV under a line of headings; numbers are whole, without signs of currency or of thousands."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(headings)
    writer.writerows(map(csv_cell, row) for row in rows)
    return file.getvalue()


def shown(text: str) -> str:
    """Return a model's text for printing: unchanged, but on a terminal without control sequences."""
    return for_terminal(text) if sys.stdout.isatty() else text


def shown_json(document: str) -> str:
    """Return a JSON document for printing: on a terminal its control sequences are escaped."""
    return escaped(document) if sys.stdout.isatty() else document


def print_json(value: Any) -> None:
    """Print one JSON document on standard output."""
    print(shown_json(as_json(value)))  # noqa: T201


def usd(amount: Decimal | None) -> str:
    """Return an amount as people read it: cents where there are any, more digits where it is small."""
    if amount is None:
        return "unpriced"
    return f"${amount:,.2f}" if amount >= 1 or amount == 0 else f"${amount:.6f}"


def usd_and_estimate(settled: Decimal | None, estimated: Decimal) -> str:
    """Return a settled amount with the maximum of what is not known yet: such calls may have been billed."""
    if not estimated:
        return usd(settled)
    at_most = f"at most {usd(estimated)}"
    return at_most if settled == 0 else f"{usd(settled)} + {at_most}"


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], total: Sequence[Cell] = ()) -> None:
    """Print rows under their headings, and `total` below them."""
    for line in table_lines(columns, rows, total, room=room()):
        print_whole(line)


def table_lines(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell]], total: Sequence[Cell] = (), *, room: int | None
) -> list[Text]:
    """Return the same as lines, for a terminal of so many columns; None: at full width."""
    lines = [*rows, *([total] if total else ())]
    kept = [at for at, column in enumerate(columns) if not column.optional or any(row[at] for row in lines)]
    columns = [columns[at] for at in kept]
    cells = [[_text(row[at]) for at in kept] for row in lines]
    widths = [
        max([cell_len(column.heading), *(row[at].cell_len for row in cells)]) for at, column in enumerate(columns)
    ]
    shown = _fitting(columns, widths, room)
    headings = [Text(column.heading) for column in columns]
    styles = [*[""] * len(rows), "bold"]
    return [
        _row(columns, widths, shown, headings, "bold"),
        *(_row(columns, widths, shown, row, style) for row, style in zip(cells, styles, strict=False)),
    ]


def print_facts(facts: Sequence[tuple[str, Cell]]) -> None:
    """Print names with their values, one a line."""
    wide = max((len(word) for word, _ in facts), default=0) + GAP
    for word, value in facts:
        line = Text(word.ljust(wide), style="dim")
        line.append_text(_text(value) if isinstance(value, Text) else Text(value, style="not dim"))
        out.print(line, soft_wrap=True)


def print_line(line: Cell, style: str = "", indent: int = 0) -> None:
    """Print a line of our own words without markup, wrapped on a terminal, further lines indented too."""
    for part in said_lines(line, style, indent=indent, room=room()):
        print_whole(part)


def said_lines(line: Cell, style: str = "", *, indent: int = 0, hang: int = 0, room: int | None) -> list[Text]:
    """Return the same as lines; further ones are indented by `hang` more."""
    said = _text(line)
    said.stylize_before(style)
    parts = [said] if room is None else said.wrap(out, max(SHORTEST, room - indent - hang))
    for part in parts:
        part.rstrip()
    return [Text(" " * (indent + (hang if number else 0))) + part for number, part in enumerate(parts)]


def print_whole(line: Cell) -> None:
    """Print a line without markup and as it is: made to fit, or to be found by `grep`."""
    out.print(_text(line), soft_wrap=True)


def room() -> int | None:
    """Return the columns of the terminal; None when no screen limits the output."""
    return out.width if out.is_terminal or "COLUMNS" in os.environ else None


def print_error(line: str, style: str = "") -> None:
    """Print a line on standard error."""
    err.print(Text(line), style=style or None, soft_wrap=True)


def print_warning(text: str) -> None:
    """Print a warning on standard error, in the one form that all have: `warning: …`."""
    print_error(warning_line(text), style="yellow")


@contextmanager
def reporting_status() -> Iterator[None]:
    """Run a command that reports status: it reports a server that is away, and exits with `HELD_UP`."""
    from trivet_tasks.errors import BrokerUnavailable, StoreUnavailable

    try:
        yield
    except (BrokerUnavailable, StoreUnavailable) as error:
        print_error(f"trivet: {error}")
        raise typer.Exit(HELD_UP) from None


def csv_cell(value: str | int | float | Decimal) -> str:
    """Return a cell of CSV. A text that a spreadsheet takes for a formula gets a `'`: anybody may name batches and tags."""
    if isinstance(value, str):
        return f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
    return f"{value:f}" if isinstance(value, Decimal) else str(value)


def _row(
    columns: Sequence[Column], widths: Sequence[int], shown: Sequence[int], row: Sequence[Text], style: str
) -> Text:
    line = Text(style=style)
    for at in shown:
        cell = row[at].copy()
        cell.truncate(widths[at], overflow="ellipsis")
        blank = Text(" " * (widths[at] - cell.cell_len))
        line.append_text(blank + cell if columns[at].right else cell + blank).append(" " * GAP)
    line.rstrip()
    return line


def _text(cell: Cell) -> Text:
    return cell.copy() if isinstance(cell, Text) else Text(cell)


def _fitting(columns: Sequence[Column], widths: list[int], room: int | None) -> list[int]:
    """Return the columns to show. Narrows those of `widths` that may be cut."""
    shown = list(range(len(columns)))
    if room is None:
        return shown

    def over() -> int:
        return sum(widths[at] for at in shown) + GAP * (len(shown) - 1) - room

    spared = []
    for at in sorted((at for at in shown if columns[at].spare), key=lambda at: -columns[at].spare):
        if over() <= 0:
            break
        shown.remove(at)
        spared.append(at)
    for at in reversed(spared):  # the last to go may have been wide, and left room for a narrow one
        if over() + widths[at] + GAP <= 0:
            shown = sorted([*shown, at])
    while over() > 0:
        widest = max((at for at in shown if columns[at].cut), key=lambda at: widths[at], default=None)
        if widest is None or widths[widest] <= SHORTEST:
            break
        widths[widest] -= 1
    return shown
