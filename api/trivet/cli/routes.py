"""`trivet routes`, and `trivet route drain|restore|probe|limit|remove`: one route."""

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from trivet.cli import options, output, routes_check, routes_measure
from trivet.cli.options import Json, Since, age_s, wrong
from trivet.cli.output import FAILED, HELD_UP, print_error, print_line, print_whole, reporting_status, room
from trivet.json_objects import cluster_object
from trivet.times import moment
from trivet_tasks.config.environment import ignored
from trivet_tasks.config.route_overrides import FIGURES
from trivet_tasks.spans import span_s

if TYPE_CHECKING:
    from trivet.admin import Admin
    from trivet_tasks.errors import StoreUnavailable

Name = Annotated[str, typer.Argument(help="The route's name.", show_default=False)]

every = typer.Typer()
every.command()(routes_check.check)
every.command()(routes_measure.measure)
one = typer.Typer(no_args_is_help=True, help="One route: probe, drain, restore, limit, remove.")


@every.callback(invoke_without_command=True)
def routes(
    asked: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Redraw it until Ctrl-C.")] = False,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two readings of --watch.")] = 1.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON; with --watch one line for each reading.")
    ] = False,
) -> None:
    """Health, limits, headroom and jobs of every route. Shows waiting jobs and what is wrong, too.

    Exit code 3: work is held up by something that is wrong.
    """
    if asked.invoked_subcommand is not None:
        if as_json or watch:
            raise typer.BadParameter("options come after the sub-command.")
        return
    from trivet.cli import routes_view, watching
    from trivet.cli.routes_watch import StatusWatch
    from trivet_tasks.errors import StoreUnavailable

    with reporting_status(), options.admin() as admin:
        if watch:
            watching.watch(StatusWatch(admin.routes.status), interval, as_json=as_json)
            return
        try:
            status = admin.routes.status()
        except StoreUnavailable as error:
            _print_announced(admin, error, as_json=as_json)
            raise
    if as_json:
        output.print_json(cluster_object(status))
    else:
        for line in routes_view.status_lines(status, room()):
            print_whole(line)
        if names := ignored():
            print_line(f"Set on this machine and ignored: {', '.join(names)}.")
    if status.impairment:
        print_error(f"trivet: {status.impairment}")
    if status.held_up:
        raise typer.Exit(HELD_UP)


@every.command()
def events(
    name: Annotated[str | None, typer.Argument(help="One route; none: all.", show_default=False)] = None,
    since: Since = "24h",
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of events, the latest.")] = 200,
    as_json: Json = False,
) -> None:
    """List the events of routes, the newest last. Each has its cause: opened, probed, recovering, limited, drained,
    restored."""
    from trivet.cli.routes_remarks import event_lines

    with options.admin() as admin:
        start = options.since(since, admin.now())
        found = admin.events.list(since=start, route=name, limit=limit)
    if as_json:
        output.print_json([event._asdict() for event in found])
        return
    about = f" to {name}" if name else ""
    if not found:
        print_line(f"Nothing happened{about} since {moment(start)}.")
        return
    for line in event_lines(found, room()):
        print_whole(line)
    if len(found) == limit:
        print_line(f"Only the latest {limit:,}; --limit shows more.", style="dim")


@one.command()
def drain(
    name: Name,
    why: Annotated[str, typer.Option(help="Reason, shown with the route.")] = "",
    as_json: Json = False,
) -> None:
    """Send a route no more jobs. Within two seconds its queue is empty; running jobs end there.

    It stays out of service until it is restored, over restarts too.
    """
    from trivet.cli.routes_remarks import drained_words

    with options.admin() as admin:
        drained = admin.routes.drain(name, why=why)
    if as_json:
        route, was_drained, queued, running = drained
        found = {"route": route, "drained": True, "was_drained": was_drained, "queued": queued, "running": running}
        output.print_json(found)
        return
    for words in drained_words(drained):
        print_line(words)


@one.command()
def restore(name: Name, as_json: Json = False) -> None:
    """Put a route back into service. Clears its failures, its pauses and its learned limits."""
    with options.admin() as admin:
        restored = admin.routes.restore(name)
    if as_json:
        output.print_json({"route": name, "drained": False, "was_drained": restored.was_drained})
    else:
        print_line(f"{name} is back in service; its failures, pauses and learned limits are cleared.")


@one.command()
def limit(
    name: Name,
    requests: Annotated[int | None, typer.Option(metavar="N", help="Requests a minute.")] = None,
    input_tokens: Annotated[int | None, typer.Option(metavar="N", help="Input tokens a minute.")] = None,
    output_tokens: Annotated[int | None, typer.Option(metavar="N", help="Output tokens a minute.")] = None,
    concurrency: Annotated[int | None, typer.Option(metavar="N", help="Calls in flight.")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Group of limits, model or glob. Default: the route's own limits.",
            show_default=False,
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="WHEN", help="A moment in ISO 8601 (UTC where it names no zone).")
    ] = None,
    lasting: Annotated[str | None, typer.Option("--for", metavar="SPAN", help="Duration: 2h, 30m, 7d.")] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Remove limits that were set by hand.")] = False,
    as_json: Json = False,
) -> None:
    """Set limits of a route, or show those in force. They are in force everywhere within two seconds, and over
    restarts.

    They beat the configuration files until their time is over or --reset removes them. Groups of limits keep their
    own figures unless --model names them.
    """
    from trivet.cli.routes_view import print_limits

    given = zip(FIGURES, (requests, input_tokens, output_tokens, concurrency), strict=True)
    figures = {figure: value for figure, value in given if value is not None}
    if until and lasting:
        raise typer.BadParameter("give --until or --for, not both.")
    if reset and (figures or until or lasting):
        raise typer.BadParameter("--reset takes limits back; give no others with it.")
    if (until or lasting) and not figures:
        raise typer.BadParameter("--until and --for need a limit, e.g. --requests 600.")
    with options.admin() as admin:
        if reset:
            found = admin.routes.reset_limits(name, models=model)
        elif figures:
            for_s = age_s("--for", lasting) if lasting else None
            found = admin.routes.limit(name, figures, models=model, for_s=for_s, until=_moment(until))
        else:
            found = admin.routes.limits(name, models=model)
    if as_json:
        overrides = [override._asdict() for override in found.overrides]
        output.print_json({"route": name, "limits": found.figures, "overrides": overrides})
        return
    if reset and not found.removed:
        print_whole(f"Nothing was set by hand for {name}.")
    print_limits(found)


@one.command()
def probe(
    name: Name,
    model: Annotated[str | None, typer.Option(help="A model it serves; none: one in use.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """Make one probe of a route now. It is a call of one token, by a worker, priced like any other.

    It counts for the route's health as a probe of the scheduler's does. Works on drained, open and healthy routes.
    Exits with 1 when it failed or could not be made.
    """
    from trivet.cli.progress import spinner
    from trivet.cli.routes_view import print_probe
    from trivet_tasks.errors import ProbeNotMade

    with options.admin() as admin:
        try:
            with spinner(f"probing {name}"):
                probed = admin.routes.probe(name, model=model)
        except ProbeNotMade as error:
            if as_json:
                output.print_json({"route": name, "made": False, "why": str(error)})
            else:
                print_error(f"trivet: {error}")
            raise typer.Exit(FAILED) from None
    if as_json:
        output.print_json({"made": True, "good": probed.good, **asdict(probed)})
    else:
        print_probe(probed)
    if not probed.good:
        raise typer.Exit(FAILED)


@one.command()
def remove(name: Name, as_json: Json = False) -> None:
    """Remove a route that is not in use. No living worker serves it, and no job needs it. Its calls and costs stay.

    Where a file still has it, a scheduler or worker that starts or reads the file makes it known again: drained, until
    `trivet route restore` or `trivet config apply`.
    """
    with options.admin() as admin:
        removed = admin.routes.remove(name)
    if as_json:
        output.print_json({"route": name, "removed": True, "health_forgotten": removed.health_forgotten})
        return
    print_line(
        f"{name} is removed. A file that still has it brings it back drained, until `trivet route restore {name}`."
    )
    if not removed.health_forgotten:
        print_line("The shared state does not answer: what it knows of the route's health stays.", style="yellow")


def _print_announced(admin: "Admin", error: "StoreUnavailable", *, as_json: bool) -> None:
    """Print what workers and schedulers announce in the shared state while the database does not answer."""
    from trivet.admin import idle_words
    from trivet_tasks.errors import BrokerUnavailable

    try:
        said = admin.health.announced()
    except BrokerUnavailable:
        said = ()
    if as_json:
        output.print_json({"impairment": str(error), "idle": [one._asdict() for one in said]})
        return
    for one in said:
        print_line(idle_words(one, time.time()))


def _moment(until: str | None) -> float | None:
    """Return the moment that `--until` names: here a span, which would count back from now, is none."""
    if until is None:
        return None
    if span_s(until) is not None:
        hint = "Use 2026-12-24T18:00, or --for 2h."
        raise wrong("--until", f"{until!r} is no moment to come.", hint)
    return options.since(until, 0.0, option="--until")
