"""Tables that fit: columns that can be spared are left out of a narrow terminal, and nothing is wrapped.

Into a pipe or a file everything is written, however wide.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from rich.cells import cell_len
from rich.text import Text

from trivet.cli import context

GAP = 2
"""Spaces between two columns."""
SHORTEST = 8
"""A cell is not cut below this many characters."""

Cell: TypeAlias = str | Text


@dataclass(frozen=True, slots=True)
class Column:
    """A column and what may be done to it where there is too little room."""

    heading: str
    right: bool = False
    spare: int = 0
    """When to leave it out: never (0), else the highest first."""
    cut: bool = False
    """Whether its cells may be cut short."""


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], total: Sequence[Cell] = ()) -> None:
    """Print rows under their headings; `total` stands below them."""
    cells = [[_text(cell) for cell in row] for row in [*rows, *([total] if total else ())]]
    widths = [
        max([cell_len(column.heading), *(row[at].cell_len for row in cells)]) for at, column in enumerate(columns)
    ]
    shown = _fitting(columns, widths, _room())
    _print_row(columns, widths, shown, [Text(column.heading) for column in columns], "bold")
    for number, row in enumerate(cells):
        _print_row(columns, widths, shown, row, "bold" if total and number == len(cells) - 1 else "")


def print_facts(facts: Sequence[tuple[str, Cell]]) -> None:
    """Print words and what they stand for, one a line."""
    wide = max((len(word) for word, _ in facts), default=0) + GAP
    for word, value in facts:
        line = Text(word.ljust(wide), style="dim")
        line.append_text(_text(value) if isinstance(value, Text) else Text(value, style="not dim"))
        context.out.print(line, soft_wrap=True)


def print_line(line: Cell, style: str = "", indent: int = 0) -> None:
    """Print a line of our own words, without markup; on a terminal broken between words, further lines indented too."""
    said = _text(line)
    said.stylize_before(style)
    room = _room()
    for part in [said] if room is None else said.wrap(context.out, room - indent):
        part.rstrip()
        context.out.print(Text(" " * indent) + part, soft_wrap=True)


def print_error(line: str, style: str = "") -> None:
    """The same on standard error."""
    context.err.print(Text(line), style=style or None, soft_wrap=True)


def _print_row(
    columns: Sequence[Column], widths: Sequence[int], shown: Sequence[int], row: Sequence[Text], style: str
) -> None:
    line = Text(style=style)
    for at in shown:
        cell = row[at].copy()
        cell.truncate(widths[at], overflow="ellipsis")
        room = " " * (widths[at] - cell.cell_len)
        line.append_text(Text(room) + cell if columns[at].right else cell + Text(room)).append(" " * GAP)
    line.rstrip()
    context.out.print(line, soft_wrap=True)


def _text(cell: Cell) -> Text:
    return cell.copy() if isinstance(cell, Text) else Text(cell)


def _room() -> int | None:
    """Columns of the terminal, or None when nobody's screen limits the output."""
    return context.out.width if context.out.is_terminal or "COLUMNS" in os.environ else None


def _fitting(columns: Sequence[Column], widths: list[int], room: int | None) -> list[int]:
    """Which columns to show. Narrows those of `widths` that may be cut."""
    shown = list(range(len(columns)))
    if room is None:
        return shown

    def over() -> int:
        return sum(widths[at] for at in shown) + GAP * (len(shown) - 1) - room

    for at in sorted((at for at in shown if columns[at].spare), key=lambda at: -columns[at].spare):
        if over() <= 0:
            break
        shown.remove(at)
    while over() > 0:
        widest = max((at for at in shown if columns[at].cut), key=lambda at: widths[at], default=None)
        if widest is None or widths[widest] <= SHORTEST:
            break
        widths[widest] -= 1
    return shown
