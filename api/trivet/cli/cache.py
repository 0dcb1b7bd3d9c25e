"""`trivet cache`: how the response cache stands, and forgetting what it keeps."""

from typing import Annotated

import typer

from trivet.cli import context

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="Answers that are kept for equal requests.", no_args_is_help=True)
    group.command()(stats)
    group.command()(clear)
    app.add_typer(group, name="cache")


def stats(as_json: Json = False) -> None:
    """How much is kept, how often it served, and what that saved."""
    import redis

    from trivet.cli.tables import print_facts, print_line
    from trivet_routing.response_cache import ResponseCache
    from trivet_store.reports.cost_savings import answer_savings
    from trivet_store.reports.costs import Span

    with context.client() as client:
        connections = client._connections
        try:
            found = ResponseCache(connections.redis, connections.settings).stats()
        except redis.RedisError as error:
            raise connections.unavailable(error) from None
        with connections.store.read() as connection:
            saved = next(iter(answer_savings(connection, [], Span())), None)
        enabled = connections.settings.cache.enabled
    if as_json:
        context.print_json(
            {
                "enabled": enabled,
                **found._asdict(),
                "hit_rate": found.hit_rate,
                "answered_jobs": saved.hits if saved else 0,
                "saved_usd": saved.saved_usd if saved else "0",
            }
        )
        return
    rate = "no look-up yet" if found.hit_rate is None else f"{found.hit_rate:.1%}"
    print_facts(
        [
            ("answers", f"{found.entries:,}"),
            ("size", f"{found.bytes / 1e6:,.1f} MB of {found.max_bytes / 1e6:,.1f} MB"),
            ("hits", f"{found.hits:,}"),
            ("misses", f"{found.misses:,}"),
            ("hit rate", rate),
            ("waited", f"{found.followed:,} times a job waited for an equal one"),
            ("evicted", f"{found.evicted:,} for want of room"),
            (
                "saved",
                f"{context.usd(saved.saved_usd)} by {saved.hits:,} jobs without a call" if saved else "nothing yet",
            ),
        ]
    )
    if not enabled:
        print_line("It is off: [cache] enabled = false.", style="yellow")


def clear(
    model: Annotated[str | None, typer.Option(help="Only answers of this model, by any name it has.")] = None,
    as_json: Json = False,
) -> None:
    """Forget what is kept; calls under way still bring their answers."""
    import redis

    from trivet.cli.tables import print_line
    from trivet_routing.response_cache import ResponseCache
    from trivet_tasks.requests.reading import model_id

    with context.client() as client:
        connections = client._connections
        named = None if model is None else model_id(model, connections.settings)
        try:
            gone = ResponseCache(connections.redis, connections.settings).clear(named)
        except redis.RedisError as error:
            raise connections.unavailable(error) from None
    if as_json:
        context.print_json({"cleared": gone, "model": named})
    else:
        print_line(f"{gone:,} answer{'s' if gone != 1 else ''}{f' of {named}' if named else ''} forgotten.")
