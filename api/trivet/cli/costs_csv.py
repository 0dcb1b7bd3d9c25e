"""`trivet costs --csv`: the table for a spreadsheet or a script."""

import csv
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from trivet.cli.costs_figures import FIGURES, figures

if TYPE_CHECKING:
    from trivet_store.reports.costs import CostRow


def write(file: TextIO, by: Sequence[str], rows: "Sequence[CostRow]") -> None:
    """A line for each group under a line of headings; amounts are whole, without signs or thousands."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*by, *FIGURES])
    for row in rows:
        found = figures(row)
        writer.writerow([*map(_text, row.group), *(_plain(found[name]) for name in FIGURES)])


def _text(value: str) -> str:
    """A spreadsheet takes what begins so for a formula, and names of batches, tenants and tags are anybody's."""
    return f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _plain(value: object) -> str:
    return f"{value:f}" if not isinstance(value, int) else str(value)
