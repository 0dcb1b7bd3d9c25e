"""`trivet routes`: how every route stands. `trivet route drain|restore|probe|limit|remove`: one route.

`routes check`, `routes events`, `--watch`, `route probe`, `route limit` and `route remove` are in modules of their own.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from trivet.cli import context, routes_check, routes_events, routes_limit, routes_probe, routes_remove
from trivet.cli.exit_codes import HELD_UP, reporting_status
from trivet_tasks.config.environment import ignored

if TYPE_CHECKING:
    from trivet.client.client import Client
    from trivet_store.reports.backlog import RouteBacklog
    from trivet_tasks.errors import StoreUnavailable

Name = Annotated[str, typer.Argument(help="The route's name.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

every = typer.Typer()
group = typer.Typer(
    no_args_is_help=True, help="One route: probe it, take it out of service, put it back, set its limits, remove it."
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    routes_check.register(every)
    routes_events.register(every)
    routes_probe.register(group)
    routes_limit.register(group)
    routes_remove.register(group)
    app.add_typer(every, name="routes")
    app.add_typer(group, name="route")


@every.callback(invoke_without_command=True)
def routes(
    asked: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show it again and again, until Ctrl-C.")] = False,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks of --watch.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; with --watch one line for each look.")] = False,
) -> None:
    """Health, limits and headroom of every route, what stands there, what waits, and what is wrong.

    Exit code 3: work is held up by something that is wrong.
    """
    if asked.invoked_subcommand is not None:
        if as_json or watch:
            raise typer.BadParameter("options stand after the sub-command.")
        return
    from trivet.admin.route_reading import gather
    from trivet.cli import routes_json, routes_table, routes_watch, routes_words, tables
    from trivet_tasks.errors import StoreUnavailable

    with reporting_status(), context.client() as client:
        if watch:
            routes_watch.watch(client._connections, interval, as_json=as_json)
            return
        try:
            picture = gather(client._connections)
        except StoreUnavailable as error:
            _say_idle(client, error, as_json=as_json)
            raise
    if as_json:
        context.print_json(routes_json.as_object(picture))
    else:
        room = tables.room()
        table = routes_table.routes_table(picture, room) if picture.routes else []
        parts = (table, routes_words.remarks(picture, room), routes_words.summary(picture, room))
        for number, lines in enumerate(lines for lines in parts if lines):
            if number:
                tables.print_line("")
            for line in lines:
                tables.print_whole(line)
        if names := ignored():
            tables.print_line(f"Set on this machine and ignored: {', '.join(names)}.")
    if picture.trouble:
        tables.print_error(f"trivet: {picture.trouble}")
    if picture.held_up:
        raise typer.Exit(HELD_UP)


@group.command()
def drain(
    name: Name,
    why: Annotated[str, typer.Option(help="The reason, for those who look at it later.")] = "",
    as_json: Json = False,
) -> None:
    """Send a route no more jobs: within two seconds its queue is empty. What runs there ends there.

    It stays out, over restarts too, until it is restored.
    """
    from trivet.cli.tables import print_line
    from trivet_store.fleet import health, registry
    from trivet_store.reports import backlog

    with _known_route(name) as client:
        store = client._connections.store
        with store.write() as connection:
            before = name in registry.drained(connection)
            standing = [row for row in backlog.by_route(connection) if row.route == name]
            registry.set_drained(connection, name, True)
            if not before or why:
                said = f"by an operator: {why}" if why else "by an operator"
                health.note_operator(connection, "route drained", name, said, store.now(connection))
        client._connections.tell_work()
    queued, running = sum(row.dispatched for row in standing), sum(row.running for row in standing)
    if as_json:
        context.print_json(
            {"route": name, "drained": True, "was_drained": before, "queued": queued, "running": running}
        )
        return
    print_line(f"{name} {'was drained before' if before else 'is drained'}: no job is sent there until it is restored.")
    print_line(_left(standing, queued, running))


@group.command()
def restore(name: Name, as_json: Json = False) -> None:
    """Put a route back into service and forget what was held against it: failures, pauses, what was learned."""
    import redis

    from trivet.cli.tables import print_line
    from trivet_store.fleet import health, registry

    with _known_route(name) as client:
        connections = client._connections
        try:  # first, so that while it does not answer nothing is half restored
            connections.fleet.limits.forget(name)
        except redis.RedisError as error:
            raise connections.unavailable(error) from None
        with connections.store.write() as connection:
            before = name in registry.drained(connection)
            now = connections.store.now(connection)
            registry.set_drained(connection, name, False)
            health.note_operator(connection, "route restored", name, "by an operator", now)
            health.forget(connection, name, now)
        connections.tell_work()
    if as_json:
        context.print_json({"route": name, "drained": False, "was_drained": before})
    else:
        print_line(f"{name} is back in service; what was held against it is forgotten.")


def _say_idle(client: "Client", error: "StoreUnavailable", *, as_json: bool) -> None:
    """While the database does not answer: what workers and schedulers say of themselves in the shared state."""
    import redis

    from trivet.admin.impairments import idle_words
    from trivet.cli.tables import print_line
    from trivet_routing.liveness.troubles import announced

    try:
        said = announced(client._connections.redis)
    except redis.RedisError:
        said = []
    if as_json:
        context.print_json({"trouble": str(error), "idle": [one._asdict() for one in said]})
        return
    for one in said:
        print_line(idle_words(one, time.time()))


def _left(standing: "list[RouteBacklog]", queued: int, running: int) -> str:
    if not standing:
        return "Nothing stands there."
    parts = []
    if queued:
        parts.append(f"{queued:,} queued {'goes' if queued == 1 else 'go'} back to waiting within two seconds")
    if running:
        parts.append(f"{running:,} running {'ends' if running == 1 else 'end'} there")
    return f"Of the jobs that stand there {', '.join(parts)}."


@contextmanager
def _known_route(name: str) -> "Iterator[Client]":
    """A client, once it is certain that the route exists."""
    from trivet.cli.routes_names import check_known

    with context.client() as client:
        check_known(client, name)
        yield client
