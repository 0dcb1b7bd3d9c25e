"""`trivet config apply`: put the routes of this file in force, whatever version they are."""

from typing import TYPE_CHECKING, Annotated

import typer

from trivet.cli import context

if TYPE_CHECKING:
    from trivet_store.fleet.registry import Redefinition


def register(group: typer.Typer) -> None:
    """Add the command to the group `trivet config`."""
    group.command()(apply)


def apply(
    places: Annotated[
        bool, typer.Option("--places", help="Also redefine where routes lead, and stop the workers with another file.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Put the figures of this file's routes in force: to roll back to an earlier version.

    They count everywhere within two seconds. Where a route of this file leads elsewhere than the one that is served, it
    stays where it is, and the workers that serve it are named: with --places these take no more of its work until they are
    restarted with this file. Limits set by hand and routes that are not in the file stay.
    """
    from trivet.admin.operator import current_operator
    from trivet.cli.tables import print_line
    from trivet_store.fleet import registry

    settings = context.settings()
    with context.client() as client:
        store = client._connections.store
        with store.read() if dry_run else store.write() as connection:
            by = f"{current_operator()} from {settings.source}"
            done = registry.apply(store, connection, settings.routes, by=by, places=places, dry_run=dry_run)
        if done.changes and not dry_run:
            client._connections.tell_work()
    if as_json:
        redefinitions = {name: one._asdict() for name, one in done.redefinitions.items()}
        context.print_json(
            {
                "source": settings.source,
                "applied": not dry_run,
                "changes": done.changes,
                "places": places,
                "redefinitions": redefinitions,
            }
        )
        return
    for name, changes in done.changes.items():
        print_line(f"{name}: {', '.join(changes)}")
    for name, redefinition in done.redefinitions.items():
        print_line(_redefined(name, redefinition, places=places), style="yellow")
    if not done.changes and not done.redefinitions:
        print_line("Nothing differs from what is in force.")
    elif dry_run:
        print_line("Nothing was changed: --dry-run.")
    elif done.changes:
        print_line("In force within two seconds.")


def _redefined(name: str, one: "Redefinition", *, places: bool) -> str:
    workers = ", ".join(one.workers) or "none"
    if places:
        return f"{name}: redefined. Restart the workers that served it where it was: {workers}."
    return (
        f"{name}: this file has another {', '.join(one.fields)}. It stays as it is: --places redefines it, and stops the "
        f"work of the route on: {workers}."
    )
