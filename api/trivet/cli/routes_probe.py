"""`trivet route probe NAME`: one call to a route now."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from trivet.cli import context

if TYPE_CHECKING:
    from trivet.admin.route_probe import Probed


def register(group: typer.Typer) -> None:
    """Add the command to the group `trivet route`."""
    group.command()(probe)


def probe(
    name: Annotated[str, typer.Argument(help="The route's name.", show_default=False)],
    model: Annotated[str | None, typer.Option(help="A model it serves; none: one in use.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make one probe of a route now: a call of one token, by a worker, priced like any other.

    It counts for the route's health as a probe of the scheduler's does. Works on drained, open and healthy routes.
    Exits with 1 when it failed or could not be made.
    """
    from trivet.admin.route_probe import probe_now
    from trivet.cli.progress import spinner
    from trivet.cli.routes_names import check_known
    from trivet.cli.tables import print_error
    from trivet_tasks.errors import ProbeNotMade

    with context.client() as client:
        route = check_known(client, name)
        try:
            with spinner(f"probing {name}"):
                probed = probe_now(client._connections, route, model)
        except ProbeNotMade as error:
            if as_json:
                context.print_json({"route": name, "made": False, "why": str(error)})
            else:
                print_error(f"trivet: {error}")
            raise typer.Exit(1) from None
    if as_json:
        context.print_json({"made": True, "good": probed.good, **asdict(probed)})
    else:
        _print(probed)
    if not probed.good:
        raise typer.Exit(1)


def _print(probed: "Probed") -> None:
    from rich.text import Text

    from trivet.cli.routes_table import STYLES
    from trivet.cli.tables import Cell, print_facts, print_line

    status = f" ({probed.status})" if probed.status and not probed.good else ""
    outcome = Text(f"{probed.outcome}{status}", style="green" if probed.good else "red")
    cost = f"at most {context.usd(probed.cost_usd)}" if probed.estimated else context.usd(probed.cost_usd)
    facts: list[tuple[str, Cell | None]] = [
        ("probe", f"{probed.route} {probed.model}"), ("outcome", outcome), ("said", probed.message),
        ("latency", context.seconds(probed.latency_s)), ("cost", cost), ("request", probed.request_id),
        ("attempt", probed.attempt_id), ("state", Text(probed.state, style=STYLES.get(probed.state, ""))),
    ]  # fmt: skip
    print_facts([(word, value) for word, value in facts if value])
    print_line(f"Next: {probed.next}.")
    if probed.drained:
        print_line(f"It is drained: no job goes there until `trivet route restore {probed.route}`.", style="yellow")
