"""`trivet config apply`: put the routes of this file in force, whatever version they are."""

from typing import Annotated

import typer

from trivet.cli import context


def register(group: typer.Typer) -> None:
    """Add the command to the group `trivet config`."""
    group.command()(apply)


def apply(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Put the routes of this file in force: to roll back to an earlier version, or to force a redefinition.

    Figures count everywhere within two seconds. Where a route leads elsewhere than before, workers with another file take
    no more of its work until they are restarted with this one. Limits set by hand and routes that are not in the file stay.
    """
    from trivet.cli.tables import print_line
    from trivet.cli.whoami import who
    from trivet_tasks.store import registry

    settings = context.settings()
    with context.client() as client:
        store = client._connections.store
        with store.read() if dry_run else store.write() as connection:
            by = f"{who()} from {settings.source}"
            changed = registry.apply(store, connection, settings.routes, by=by, dry_run=dry_run)
        if changed and not dry_run:
            client._connections.tell_work()
    if as_json:
        context.print_json({"source": settings.source, "applied": not dry_run, "changes": changed})
        return
    for name, changes in changed.items():
        print_line(f"{name}: {', '.join(changes)}")
    if not changed:
        print_line("Nothing differs from what is in force.")
    elif dry_run:
        print_line("Nothing was changed: --dry-run.")
    else:
        print_line("In force within two seconds.")
