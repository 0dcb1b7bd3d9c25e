"""`trivet budgets`: the state of every budget. `trivet budget raise`: raise one for its current window."""

from typing import TYPE_CHECKING, Annotated

import typer

from trivet.cli import options, output
from trivet.cli.options import JsonExact, amount_usd
from trivet.cli.output import Column, print_line, print_table
from trivet.json_objects import budgets_object
from trivet.times import moment
from trivet_tasks.config.budgets import exact_usd
from trivet_tasks.states import BudgetState

if TYPE_CHECKING:
    from trivet.admin import BudgetStatus

_STYLES = {BudgetState.WARNED: "yellow", BudgetState.HOLDING: "red"}

group = typer.Typer(no_args_is_help=True, help="One budget: raise it.")


def budgets(as_json: JsonExact = False) -> None:
    """Amounts spent, reserved and left of every budget. Shows the jobs it holds, too. Windows are days and months of
    UTC."""
    with options.admin() as admin:
        found = admin.budgets.list()
    if as_json:
        output.print_json(budgets_object(found))
    elif not found.budgets:
        print_line("There is no budget: [[budgets]] in the configuration of the schedulers makes one.")
    else:
        _print(found.budgets)


@group.command("raise")
def raise_(
    name: Annotated[str, typer.Argument(help="The budget's name.", show_default=False)],
    to: Annotated[str, typer.Option(help="New limit of the current window, in USD.")],
    as_json: JsonExact = False,
) -> None:
    """Raise a budget for its current window. That is today, this month, or the batch. The next has the configured
    amount.

    Jobs that were held go on within a second. The author and the time are recorded.
    """
    amount = amount_usd("--to", to)
    with options.admin() as admin:
        raised = admin.budgets.raise_limit(name, amount)
    if as_json:
        output.print_json(raised._asdict())
    else:
        print_line(
            f"{name}: {exact_usd(raised.limit_usd)} may be spent in {raised.window}; it was {exact_usd(raised.was_usd)}."
        )


def _print(found: "tuple[BudgetStatus, ...]") -> None:
    from rich.text import Text

    print_table(
        [
            Column("BUDGET"), Column("SCOPE", cut=True), Column("WINDOW"), Column("LIMIT", right=True),
            Column("SETTLED", right=True), Column("ESTIMATED", right=True, spare=2), Column("RESERVED", right=True, spare=3),
            Column("LEFT", right=True), Column("SPENT", right=True), Column("STATE"), Column("JOBS HELD", right=True, spare=1),
            Column("TURNS AT", spare=4),
        ],
        [
            [
                one.name, one.scope, one.window, exact_usd(one.limit_usd), exact_usd(one.settled_usd), exact_usd(one.estimated_usd),
                exact_usd(one.reserved_usd), exact_usd(one.left_usd), f"{one.share:.1%}", Text(one.state, style=_STYLES.get(one.state, "green")),
                f"{one.jobs_held:,}" if one.state == BudgetState.HOLDING else "", moment(one.window_ends_at),
            ]
            for one in found
        ],
    )  # fmt: skip
    for one in found:
        if one.limit_usd != one.configured_usd:
            print_line(f"{one.name}: raised from {exact_usd(one.configured_usd)} for {one.window}.")
        if one.unpriced:
            print_line(
                f"{one.name}: {one.unpriced:,} calls have no known price and are not in it (`trivet costs` names them).",
                style="yellow",
            )
        if one.state == BudgetState.HOLDING:
            print_line(f"{one.name} holds its jobs. More for now: trivet budget raise {one.name} --to USD", "yellow")
