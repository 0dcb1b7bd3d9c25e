"""`trivet route limit NAME`: limits set by hand, which beat every file until they are reset."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from trivet.cli import context

if TYPE_CHECKING:
    from trivet_tasks.config.route_overrides import Override
    from trivet_tasks.config.route_settings import RouteSettings

_MOST = 2_000_000_000


def register(group: typer.Typer) -> None:
    """Add the command to the group `trivet route`."""
    group.command()(limit)


def limit(
    name: Annotated[str, typer.Argument(help="The route's name.", show_default=False)],
    requests: Annotated[int | None, typer.Option(min=1, max=_MOST, metavar="N", help="Requests a minute.")] = None,
    input_tokens: Annotated[
        int | None, typer.Option(min=1, max=_MOST, metavar="N", help="Input tokens a minute.")
    ] = None,
    output_tokens: Annotated[
        int | None, typer.Option(min=1, max=_MOST, metavar="N", help="Output tokens a minute.")
    ] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, max=100_000, metavar="N", help="Calls in flight.")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Set them for a group of limits, a model or a glob; the route's own when not given.",
            show_default=False,
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="WHEN", help="A moment in ISO 8601 (UTC where it names no zone).")
    ] = None,
    lasting: Annotated[str | None, typer.Option("--for", metavar="SPAN", help="How long: 2h, 30m, 7d.")] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Take back what was set by hand.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Set limits of a route by hand, in force everywhere within two seconds and over restarts, or show those in force.

    They beat the configuration files until their time is over or --reset takes them back. Groups of limits keep their
    own figures unless --model names them.
    """
    from trivet.admin.operator import current_operator
    from trivet.cli.routes_names import check_known
    from trivet_store.fleet import route_overrides
    from trivet_tasks.config.route_overrides import FIGURES, target_of

    given = zip(FIGURES, (requests, input_tokens, output_tokens, concurrency), strict=True)
    figures = {figure: value for figure, value in given if value is not None}
    if until and lasting:
        raise typer.BadParameter("give --until or --for, not both.")
    if reset and (figures or until or lasting):
        raise typer.BadParameter("--reset takes limits back; give no others with it.")
    if (until or lasting) and not figures:
        raise typer.BadParameter("--until and --for need a limit, e.g. --requests 600.")
    with context.client() as client:
        ends_at = _end(until, lasting, client._connections.now())
        route = check_known(client, name)
        store = client._connections.store
        by_hand = {override.models for override in route.overrides}
        target = model if model in by_hand and reset else target_of(route.settings, model)
        if reset or figures:
            with store.write() as connection:
                if reset:
                    named = None if model is None else target
                    removed = route_overrides.reset(store, connection, name, named, by=current_operator())
                else:
                    removed = []
                    route_overrides.put(store, connection, name, target, figures, by=current_operator(), until=ends_at)
            client._connections.tell_work()
            route = check_known(client, name)
        now = store.clock.reckoned()
    if as_json:
        overrides = [override._asdict() for override in route.overrides]
        context.print_json({"route": name, "limits": _figures(route.settings), "overrides": overrides})
        return
    if reset and not removed:
        context.out.print(f"Nothing was set by hand for {name}.", markup=False)
    _print(name, route.settings, route.overrides, now)


def _end(until: str | None, lasting: str | None, now: float) -> float | None:
    """Return when the limits are over, by the database's clock, which says `now`; None: when they are reset."""
    from trivet.cli.spans import age_s, since, span_s
    from trivet_tasks.errors import InvalidRequest

    if lasting:
        return now + age_s("--for", lasting)
    if not until:
        return None
    end = 0.0 if span_s(until) is not None else since(until, now, option="--until")
    if end <= now:
        raise InvalidRequest(
            f"--until: {until!r} is no moment to come.", field="until", hint="Use 2026-12-24T18:00, or --for 2h."
        )
    return end


def _figures(settings: "RouteSettings") -> dict[str, Mapping[str, int | None]]:
    from trivet_tasks.config.route_overrides import FIGURES

    holders = {"*": settings, **{group.name: group for group in settings.limits}}
    return {name: {figure: getattr(holder, figure) for figure in FIGURES} for name, holder in holders.items()}


def _print(name: str, settings: "RouteSettings", overrides: "tuple[Override, ...]", now: float) -> None:
    from trivet.cli.routes_words import override_words
    from trivet.cli.tables import Column, print_line, print_table

    columns = ("REQUESTS", "INPUT TOKENS", "OUTPUT TOKENS", "CALLS AT ONCE")
    print_table(
        [Column("MODELS"), *(Column(heading, right=True) for heading in columns)],
        [
            [
                "each" if models == "*" else models,
                *("" if value is None else f"{value:,}" for value in figures.values()),
            ]
            for models, figures in _figures(settings).items()
        ],
    )
    for words in override_words(name, overrides, now):
        print_line(words)
