"""`trivet route remove NAME`: forget a route that nobody serves or needs."""

from typing import Annotated

import typer

from trivet.cli import context


def register(group: typer.Typer) -> None:
    """Add the command to the group `trivet route`."""
    group.command()(remove)


def remove(
    name: Annotated[str, typer.Argument(help="The route's name.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Forget a route that no living worker serves and no job needs. Its calls and costs stay.

    Where a file still has it, a scheduler or worker that starts or reads the file makes it known again: drained, until
    `trivet route restore` or `trivet config apply`.
    """
    import redis

    from trivet.admin.operator import current_operator
    from trivet.admin.route_removal import check_removable
    from trivet.cli.routes_names import check_known
    from trivet.cli.tables import print_line
    from trivet_store.fleet import registry

    with context.client() as client:
        check_known(client, name)
        store = client._connections.store
        with store.write() as connection:
            check_removable(store, connection, name)
            registry.remove(connection, name, current_operator(), store.now(connection))
        forgotten = True
        try:
            client._connections.fleet.limits.forget(name)
        except redis.RedisError:
            forgotten = False  # a route of this name begins with the health that this one had
    if as_json:
        context.print_json({"route": name, "removed": True, "health_forgotten": forgotten})
        return
    print_line(
        f"{name} is removed. A file that still has it brings it back drained, until `trivet route restore {name}`."
    )
    if not forgotten:
        print_line("The shared state does not answer: what it knows of the route's health stays.", style="yellow")
