"""`trivet db`: the schema of the database, and deleting old data. `trivet cache`: the response cache."""

from typing import TYPE_CHECKING, Annotated

import typer

from trivet.cli import options, output
from trivet.cli.options import Json, age_s
from trivet.cli.output import print_error, print_facts, print_line, print_whole
from trivet.cli.progress import bar, spinner
from trivet.times import moment

if TYPE_CHECKING:
    from trivet.admin import Pruning

db = typer.Typer(help="The schema of the database, and deleting old data.", no_args_is_help=True)
cache = typer.Typer(help="Answers that are kept for equal requests.", no_args_is_help=True)


@db.command()
def upgrade(as_json: Json = False) -> None:
    """Upgrade the database to this Trivet's schema. A new database is filled. Workers may run meanwhile."""
    with options.admin() as admin, spinner("Upgrading: waiting for a moment at which nobody holds the tables"):
        done = admin.database.upgrade()
    if as_json:
        output.print_json(done._asdict())
    else:
        # one line whatever the width of the terminal: people grep for it
        change = "already at" if done.before == done.after else f"{_named(done.before)} →"
        print_whole(f"{done.database}: {change} {done.after}")


@db.command()
def version(as_json: Json = False) -> None:
    """Print the version of the database's schema. Prints the one this Trivet works with, too."""
    with options.admin() as admin:
        found = admin.database.version()
    if as_json:
        output.print_json(found._asdict())
        return
    print_whole(f"{found.database}: {_named(found.version)}{_advice(found.version, found.newest)}")


@db.command()
def prune(
    older_than: Annotated[
        str, typer.Option(help="Delete request bodies and results of jobs that ended so long ago: 30d, 12h, 4w.")
    ],
    keep_results: Annotated[bool, typer.Option("--keep-results", help="Delete request bodies, keep results.")] = False,
    attempts_older_than: Annotated[
        str | None,
        typer.Option(
            help="Delete jobs that ended so long ago altogether: calls with their costs, keys, results; and batches, "
            "events and the like as old. Default: never."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count without deleting.")] = False,
    as_json: Json = False,
) -> None:
    """Delete requests and results of jobs that ended long ago. Costs stay, unless attempts are deleted too.

    Workers go on meanwhile. Safe to interrupt: run it again.
    """
    age = age_s("--older-than", older_than)
    forget = age_s("--attempts-older-than", attempts_older_than) if attempts_older_than is not None else None
    with options.admin() as admin:
        steps = admin.database.prune(age, attempts_older_than_s=forget, keep_results=keep_results, dry_run=dry_run)
        done = next(steps)
        try:
            with bar("Counting" if dry_run else "Pruning", done.extent) as advance:
                for done in steps:
                    rows = sum(done.rows.values())
                    advance(done.looked_at, f"{rows:,} rows {'to go' if dry_run else 'deleted'}")
        except KeyboardInterrupt:
            print_error("Interrupted. What was deleted so far stays deleted: the same command goes on.")
            _report(done, as_json=as_json, complete=False)
            raise
    _report(done, as_json=as_json, complete=True)


@cache.command()
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
            ("evicted", f"{found.evicted:,} to make room"),
            ("saved", saved if state.answered_jobs else "nothing yet"),
        ]
    )
    if not state.enabled:
        print_line("[cache] enabled = false: only requests with cache = true use it.", style="dim")


@cache.command()
def clear(
    model: Annotated[str | None, typer.Option(help="Only answers of this model, by any name it has.")] = None,
    as_json: Json = False,
) -> None:
    """Delete the cached answers. Calls under way still store theirs."""
    with options.admin() as admin:
        gone, named = admin.cache.clear(model)
    if as_json:
        output.print_json({"cleared": gone, "model": named})
    else:
        print_line(f"{gone:,} answer{'s' if gone != 1 else ''}{f' of {named}' if named else ''} forgotten.")


def _report(done: "Pruning", *, as_json: bool, complete: bool) -> None:
    if as_json:
        output.print_json(
            {
                "ended_before": done.ended_before,
                "forget_before": done.forget_before,
                "keep_results": done.keep_results,
                "dry_run": done.dry_run,
                "complete": complete,
                "pruned": done.rows,
            }
        )
        return
    verb = "Would be deleted" if done.dry_run else "Deleted"
    print_line(f"{verb}, of jobs that ended before {moment(done.ended_before)}:")
    print_facts([(kind, f"{done.rows[kind]:,}") for kind in done.contents])
    if done.forget_before is not None:
        print_line(f"{verb}, of jobs that ended before {moment(done.forget_before)} and what is as old:")
        print_facts([(kind, f"{rows:,}") for kind, rows in done.rows.items() if kind not in done.contents])


def _named(version: str | None) -> str:
    return version or "no schema"


def _advice(now: str | None, newest: str) -> str:
    if now == newest:
        return ", the newest"
    if now is not None and now > newest:
        return f", newer than this Trivet, which works with {newest}: install the newer Trivet"
    return f"; this Trivet works with {newest}: run `trivet db upgrade`"
