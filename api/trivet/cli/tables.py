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
    for line in table_lines(columns, rows, total, room=room()):
        print_whole(line)


def table_lines(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell]], total: Sequence[Cell] = (), *, room: int | None
) -> list[Text]:
    """The same as lines, for a terminal of so many columns; None: as wide as it is."""
    cells = [[_text(cell) for cell in row] for row in [*rows, *([total] if total else ())]]
    widths = [
        max([cell_len(column.heading), *(row[at].cell_len for row in cells)]) for at, column in enumerate(columns)
    ]
    shown = _fitting(columns, widths, room)
    lines = [_row(columns, widths, shown, [Text(column.heading) for column in columns], "bold")]
    for number, row in enumerate(cells):
        lines.append(_row(columns, widths, shown, row, "bold" if total and number == len(cells) - 1 else ""))
    return lines


def print_facts(facts: Sequence[tuple[str, Cell]]) -> None:
    """Print words and what they stand for, one a line."""
    wide = max((len(word) for word, _ in facts), default=0) + GAP
    for word, value in facts:
        line = Text(word.ljust(wide), style="dim")
        line.append_text(_text(value) if isinstance(value, Text) else Text(value, style="not dim"))
        context.out.print(line, soft_wrap=True)


def print_line(line: Cell, style: str = "", indent: int = 0) -> None:
    """Print a line of our own words, without markup; on a terminal broken between words, further lines indented too."""
    for part in said_lines(line, style, indent=indent, room=room()):
        print_whole(part)


def said_lines(line: Cell, style: str = "", *, indent: int = 0, hang: int = 0, room: int | None) -> list[Text]:
    """The same as lines; further ones are indented by `hang` more."""
    said = _text(line)
    said.stylize_before(style)
    parts = [said] if room is None else said.wrap(context.out, max(SHORTEST, room - indent - hang))
    for part in parts:
        part.rstrip()
    return [Text(" " * (indent + (hang if number else 0))) + part for number, part in enumerate(parts)]


def print_whole(line: Text) -> None:
    """Print a line that was made to fit."""
    context.out.print(line, soft_wrap=True)


def room() -> int | None:
    """Columns of the terminal, or None when nobody's screen limits the output."""
    return context.out.width if context.out.is_terminal or "COLUMNS" in os.environ else None


def print_error(line: str, style: str = "") -> None:
    """The same on standard error."""
    context.err.print(Text(line), style=style or None, soft_wrap=True)


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
    """Which columns to show. Narrows those of `widths` that may be cut."""
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
