"""`trivet cache`: figures of the response cache, and clearing it."""

from typing import Annotated

import typer

from trivet.cli import options, output
from trivet.cli.output import print_facts, print_line

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="Answers that are kept for equal requests.", no_args_is_help=True)
    group.command()(stats)
    group.command()(clear)
    app.add_typer(group, name="cache")


def stats(as_json: Json = False) -> None:
    """Size, hits and savings of the response cache."""
    with options.admin() as admin:
        state = admin.cache.state()
    found = state.stats
    if as_json:
        output.print_json(
            {
                "enabled": state.enabled,
                **found._asdict(),
                "hit_rate": found.hit_rate,
                "answered_jobs": state.answered_jobs,
                "saved_usd": state.saved_usd,
            }
        )
        return
    saved = f"{output.usd(state.saved_usd)} by {state.answered_jobs:,} jobs without a call"
    print_facts(
        [
            ("answers", f"{found.entries:,}"),
            ("size", f"{found.bytes / 1e6:,.1f} MB of {found.max_bytes / 1e6:,.1f} MB"),
            ("hits", f"{found.hits:,}"),
            ("misses", f"{found.misses:,}"),
            ("hit rate", "no look-up yet" if found.hit_rate is None else f"{found.hit_rate:.1%}"),
            ("waited", f"{found.coalesced:,} times a job waited for an equal one"),
            ("evicted", f"{found.evicted:,} for want of room"),
            ("saved", saved if state.answered_jobs else "nothing yet"),
        ]
    )
    if not state.enabled:
        print_line("It is off: [cache] enabled = false.", style="yellow")


def clear(
    model: Annotated[str | None, typer.Option(help="Only answers of this model, by any name it has.")] = None,
    as_json: Json = False,
) -> None:
    """Delete the cached answers; calls under way still store theirs."""
    with options.admin() as admin:
        gone, named = admin.cache.clear(model)
    if as_json:
        output.print_json({"cleared": gone, "model": named})
    else:
        print_line(f"{gone:,} answer{'s' if gone != 1 else ''}{f' of {named}' if named else ''} forgotten.")
