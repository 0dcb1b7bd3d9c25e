"""The callbacks of a job or a batch, as `trivet job show` and `trivet batch status` print them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trivet.cli.output import Cell, Column, print_line, print_table
from trivet.times import moment

if TYPE_CHECKING:
    from trivet.admin import CallbackRow

_STYLES = {"waiting": "", "due": "yellow", "sent": "green", "confirmed": "green"}


def print_callbacks(callbacks: Sequence["CallbackRow"]) -> None:
    """Print a table of callbacks below what was printed before; nothing where there are none."""
    if not callbacks:
        return
    print_line("")
    print_table(
        [
            Column("CALLBACK"), Column("APP"), Column("STATE"), Column("SENT", right=True),
            Column("FAILED", right=True), Column("NEXT TRY", optional=True), Column("LAST ERROR", cut=True),
        ],
        [_cells(one) for one in callbacks],
    )  # fmt: skip


def _cells(one: "CallbackRow") -> list[Cell]:
    from rich.text import Text

    state = Text(one.state, style=_STYLES[one.state])
    return [one.task, one.app, state, str(one.sends), str(one.failures), moment(one.due_at), one.error or ""]
