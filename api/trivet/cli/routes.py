"""`trivet routes`: how every route stands. `trivet route drain|restore`: out of service and back.

`trivet routes check` is in `routes_check.py`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import redis
import typer

from trivet.cli import context, routes_check

if TYPE_CHECKING:
    from trivet.client import Client
    from trivet.route_status import ModelStatus, Picture, RouteStatus
    from trivet_tasks.route_settings import RouteSettings

Name = Annotated[str, typer.Argument(help="The route's name.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

SHORT_WAIT_S = 1.0
"""A pause shorter than this, of a route at its limits, is not worth a line."""

every = typer.Typer()
group = typer.Typer(no_args_is_help=True, help="One route: out of service and back.")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    routes_check.register(every)
    app.add_typer(every, name="routes")
    app.add_typer(group, name="route")


@every.callback(invoke_without_command=True)
def routes(asked: typer.Context, as_json: Json = False) -> None:
    """Health, limits and headroom of every route, what stands there, and what waits."""
    if asked.invoked_subcommand is not None:
        if as_json:
            raise typer.BadParameter("--json stands after the sub-command.")
        return
    from trivet.route_status import gather
    from trivet_tasks.errors import BrokerUnavailable

    with context.client() as client:
        picture = gather(client._connections)
    if as_json:
        context.print_json(_as_object(picture))
    else:
        _print(picture)
    if picture.trouble:
        raise BrokerUnavailable(picture.trouble)


@group.command()
def drain(name: Name, as_json: Json = False) -> None:
    """Send a route no more jobs. What runs there ends there; it stays out until it is restored."""
    with _known_route(name) as client:
        _set_drained(client, name, True)
    _said(name, True, as_json)


@group.command()
def restore(name: Name, as_json: Json = False) -> None:
    """Put a route back into service and forget what was held against it."""
    from trivet_scheduler.limits import Limits
    from trivet_tasks.store import health

    with _known_route(name) as client:
        _set_drained(client, name, False)
        connections = client._connections
        try:
            Limits(connections.redis, client.settings.health).forget(name)
        except redis.RedisError as error:
            raise connections.unavailable(error) from None
        with connections.store.write() as connection:
            health.forget(connection, name, connections.store.now(connection))
    _said(name, False, as_json)


@contextmanager
def _known_route(name: str) -> "Iterator[Client]":
    """A client, once it is certain that the route exists."""
    from difflib import get_close_matches

    from trivet_tasks.errors import NotFound
    from trivet_tasks.store import registry

    with context.client() as client:
        with client._connections.store.read() as connection:
            known = registry.registered(connection)
        if name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"Did you mean {near[0]}?" if near else "`trivet routes` lists them."
            raise NotFound(f"No route is called {name!r}.", hint=hint)
        yield client


def _set_drained(client: "Client", name: str, drained: bool) -> None:
    from trivet_tasks.store import registry

    with client._connections.store.write() as connection:
        registry.set_drained(connection, name, drained)
    client._connections.tell_work()


def _said(name: str, drained: bool, as_json: bool) -> None:
    from trivet.cli.tables import print_line

    if as_json:
        context.print_json({"route": name, "drained": drained})
    else:
        print_line(
            f"{name} is {'drained: no job is sent there until it is restored' if drained else 'back in service'}."
        )


def _print(picture: "Picture") -> None:
    from trivet.cli.tables import Column, print_line, print_table

    if not picture.routes:
        print_line("No route is known yet: schedulers and workers make theirs known when they start.")
    else:
        print_table(
            [
                Column("ROUTE"), Column("MODEL", cut=True), Column("STATE"), Column("SINCE", spare=5),
                Column("CALLS", right=True), Column("QUEUED", right=True), Column("RUNNING", right=True, spare=3),
                Column("HEADROOM", right=True), Column("LATENCY", right=True, spare=1),
                Column("WORKERS", spare=4), Column("LIMITS", spare=6),
            ],
            [
                _row(picture, route, model, first=number == 0)
                for route in picture.routes
                for number, model in enumerate(route.models)
            ],
        )  # fmt: skip
        for route in picture.routes:
            for said in _remarks(route):
                print_line(said, style="yellow")
    for worker in picture.workers:
        if worker.trouble:
            print_line(f"worker {worker.worker} takes no work: {worker.trouble}", style="yellow")
    print_line("")
    print_line(_waiting(picture))


def _row(picture: "Picture", route: "RouteStatus", model: "ModelStatus", *, first: bool) -> list[Any]:
    from rich.text import Text

    state = _state(route, model)
    limitless = "unknown" if model.state == "unknown" else "no limit"
    return [
        route.name,
        "any" if model.model == "*" else model.model,
        Text(state, style=_STYLES.get(state, "")),
        context.seconds(max(0.0, picture.now - model.since)) if model.since else "",
        f"{model.in_flight:,}",
        f"{route.queued:,}" if first else "",
        f"{route.running:,}" if first else "",
        limitless if model.requests is None else f"{int(model.requests):,}",
        context.seconds(min((pace.p50_s for pace in model.paces.values()), default=None)),
        ", ".join(f"{slots} {lane}" for lane, slots in sorted(route.slots.items())) if first else "",
        _limits(route.settings) if first else "",
    ]


_STYLES = {
    "healthy": "green",
    "limited": "yellow",
    "recovering": "yellow",
    "open": "red",
    "probing": "red",
    "unserved": "red",
}


def _state(route: "RouteStatus", model: "ModelStatus") -> str:
    if route.drained:
        return "drained"
    return model.state if route.slots or model.state == "unknown" else "unserved"


def _remarks(route: "RouteStatus") -> Iterator[str]:
    """Why a route is not simply healthy, for a person."""
    if not route.known:
        yield f"{route.name}: is in the configuration; no scheduler or worker has made it known yet"
        return
    if route.drained:
        yield f"{route.name}: drained by an operator (trivet route restore {route.name})"
    if not route.slots:
        yield f"{route.name}: no living worker serves it"
    elif "bulk" not in route.slots or "realtime" not in route.slots:
        missing = "bulk" if "bulk" not in route.slots else "realtime"
        yield f"{route.name}: no {missing} worker serves it"
    said: dict[str, list[str]] = {}
    for model in route.models:
        if model.state in ("healthy", "unknown") or (model.state == "limited" and model.wait_s < SHORT_WAIT_S):
            continue
        cause = f": {model.cause.rstrip('.')}" if model.cause else ""
        again = f", next try {f'in {context.seconds(model.wait_s)}' if model.wait_s > 0 else 'with the next job'}"
        said.setdefault(f"{model.state}{cause}{again}", []).append(model.model)
    for words, models in said.items():
        every = len(models) == len(route.models)  # the cause is the account's, or there is but one model
        yield f"{route.name}{'' if every else ' ' + ', '.join(models)}: {words}"


def _limits(settings: "RouteSettings") -> str:
    given = (
        (settings.requests_per_minute, "req/min"),
        (settings.input_tokens_per_minute, "in/min"),
        (settings.output_tokens_per_minute, "out/min"),
        (settings.max_concurrency, "at once"),
    )
    return ", ".join(f"{_short(figure)} {unit}" for figure, unit in given if figure)


def _short(figure: float) -> str:
    for size, letter in ((1_000_000, "M"), (1_000, "k")):
        if figure >= size:
            return f"{figure / size:.4g}{letter}"
    return f"{figure:g}"


def _waiting(picture: "Picture") -> str:
    if not any(row.total for row in picture.waiting):
        return "No job waits."
    parts = []
    for row in picture.waiting:
        more = [
            f"{count:,} {word}" for count, word in ((row.delayed, "for their next try"), (row.held, "held")) if count
        ]
        parts.append(f"{row.total:,} {row.latency}" + (f" ({', '.join(more)})" if more else ""))
    oldest = context.seconds(max(0.0, picture.now - min(row.oldest_at for row in picture.waiting)))
    return f"Waiting: {', '.join(parts)}; the oldest for {oldest}."


def _as_object(picture: "Picture") -> dict[str, Any]:
    return {
        "routes": [
            {
                "route": route.name,
                "provider": route.settings.provider,
                "region": route.settings.region,
                "drained": route.drained,
                "known": route.known,
                "queued": route.queued,
                "running": route.running,
                "by_class": [row._asdict() for row in picture.standing if row.route == route.name],
                "slots": route.slots,
                "limits": {
                    key: getattr(route.settings, key)
                    for key in (
                        "requests_per_minute", "input_tokens_per_minute", "output_tokens_per_minute", "max_concurrency",
                    )
                },
                "models": [
                    {
                        "model": model.model, "state": model.state, "cause": model.cause, "since": model.since,
                        "wait_s": round(model.wait_s, 3), "calls": model.in_flight, "headroom": model.requests,
                        "latency_s": model.latency_s,
                    }
                    for model in route.models
                ],
            }
            for route in picture.routes
        ],
        "waiting": [{**row._asdict(), "total": row.total} for row in picture.waiting],
        "workers": [worker._asdict() for worker in picture.workers],
        "trouble": picture.trouble,
    }  # fmt: skip
