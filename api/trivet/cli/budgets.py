"""`trivet budgets`: how every budget stands. `trivet budget raise`: let more be spent in the window that is now."""

from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Annotated

import typer

from trivet.cli import context
from trivet.times import moment
from trivet_tasks.states import BudgetState

if TYPE_CHECKING:
    from trivet.admin.budget_status import BudgetStatus

Json = Annotated[bool, typer.Option("--json", help="Print JSON; amounts are strings, exact.")]
_STYLES = {BudgetState.WARNED: "yellow", BudgetState.HOLDING: "red"}

group = typer.Typer(no_args_is_help=True, help="One budget: raise it.")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(budgets)
    app.add_typer(group, name="budget")


def budgets(as_json: Json = False) -> None:
    """What is spent, reserved and left of every budget, and how many jobs it holds. Windows are days and months of UTC."""
    from trivet.admin.budget_status import statuses
    from trivet.cli.tables import print_line
    from trivet_routing.most_costs import MostCosts

    with context.client() as client:
        store = client._connections.store
        with store.read() as connection:
            found = statuses(store, connection, MostCosts())
            now = store.now(connection)
    if as_json:
        context.print_json({"budgets": list(found), "now": now})
    elif not found:
        print_line("There is no budget: [[budgets]] in the configuration of the schedulers makes one.")
    else:
        _print(found)


@group.command("raise")
def raise_(
    name: Annotated[str, typer.Argument(help="The budget's name.", show_default=False)],
    to: Annotated[str, typer.Option(help="USD that may be spent in the window that is now, in all.")],
    as_json: Json = False,
) -> None:
    """Let more be spent in the window that is now: today, this month, or on the batch. The next has the configured amount.

    Jobs that were held go on within a second. It is written down who raised it, and when.
    """
    from trivet.cli.tables import print_line
    from trivet.cli.whoami import who
    from trivet_store.ledger.budgets import raise_limit, usd

    amount = _amount(to)
    with context.client() as client:
        store = client._connections.store
        with store.write() as connection:
            before, window = raise_limit(store, connection, name, amount, who())
        client._connections.tell_work()
    was = before.limit(window)
    if as_json:
        context.print_json({"budget": name, "window": window.key, "limit_usd": amount, "was_usd": was})
    else:
        print_line(f"{name}: {usd(amount)} may be spent in {window.key}; it was {usd(was)}.")


def _amount(given: str) -> Decimal:
    from trivet_tasks.errors import InvalidRequest

    try:
        amount = Decimal(given.removeprefix("$").replace(",", ""))
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite() or amount <= 0 or amount >= 10**12 or amount != round(amount, 12):
        raise InvalidRequest(
            f"--to: {given!r} is not an amount of USD.", field="to", hint="Write it as in --to 25 or --to 0.50."
        )
    return amount


def _print(found: "tuple[BudgetStatus, ...]") -> None:
    from rich.text import Text

    from trivet.cli.tables import Column, print_line, print_table
    from trivet_store.ledger.budgets import usd

    print_table(
        [
            Column("BUDGET"), Column("SCOPE", cut=True), Column("WINDOW"), Column("LIMIT", right=True),
            Column("SETTLED", right=True), Column("ESTIMATED", right=True, spare=2), Column("RESERVED", right=True, spare=3),
            Column("LEFT", right=True), Column("SPENT", right=True), Column("STATE"), Column("JOBS HELD", right=True, spare=1),
            Column("TURNS AT", spare=4),
        ],
        [
            [
                one.name, one.scope, one.window, usd(one.limit_usd), usd(one.settled_usd), usd(one.estimated_usd),
                usd(one.reserved_usd), usd(one.left_usd), f"{one.share:.1%}", Text(one.state, style=_STYLES.get(one.state, "green")),
                f"{one.jobs_held:,}" if one.state == BudgetState.HOLDING else "", moment(one.window_ends_at),
            ]
            for one in found
        ],
    )  # fmt: skip
    for one in found:
        if one.limit_usd != one.configured_usd:
            print_line(f"{one.name}: raised from {usd(one.configured_usd)} for {one.window}.")
        if one.unpriced:
            print_line(
                f"{one.name}: {one.unpriced:,} calls have no known price and are not in it (`trivet costs` names them).",
                style="yellow",
            )
        if one.state == BudgetState.HOLDING:
            print_line(f"{one.name} holds its jobs. More for now: trivet budget raise {one.name} --to USD", "yellow")
