"""`trivet db prune`: what is kept of jobs that ended long ago is deleted, beside running workers."""

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trivet.cli import context
from trivet.times import moment

if TYPE_CHECKING:
    from trivet_store.database.engine import Store
    from trivet_store.retention.pruning import Terms


def prune(
    older_than: Annotated[
        str, typer.Option(help="Delete request bodies and results of jobs that ended so long ago: 30d, 12h, 4w.")
    ],
    keep_results: Annotated[bool, typer.Option("--keep-results", help="Delete the request bodies only.")] = False,
    attempts_older_than: Annotated[
        str | None,
        typer.Option(
            help="Forget jobs that ended so long ago altogether: calls with their costs, keys, results; and batches, "
            "events and the like as old. Default: never."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count only; delete nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Delete what is kept of jobs that ended long ago. Costs stay as they are, unless attempts are to go, too.

    Workers go on meanwhile. It may be broken off and run again.
    """
    from trivet.cli.spans import age_s
    from trivet.cli.tables import print_error
    from trivet_tasks.errors import InvalidRequest

    age = age_s("--older-than", older_than)
    forget = age_s("--attempts-older-than", attempts_older_than) if attempts_older_than is not None else None
    if forget is not None and forget < age:
        raise InvalidRequest(
            f"--attempts-older-than: {attempts_older_than} is shorter than --older-than {older_than}.",
            field="attempts_older_than",
            hint="A job's calls stay at least as long as its result.",
        )
    pruned: Counter[str] = Counter()
    with context.client() as client:
        store = client._connections.store
        terms = _terms(store, age, forget, keep_results=keep_results)
        try:
            _run(store, terms, pruned, dry_run=dry_run)
        except KeyboardInterrupt:
            print_error("Interrupted. What was deleted so far stays deleted: the same command goes on.")
            _report(terms, pruned, dry_run=dry_run, as_json=as_json, complete=False)
            raise
    _report(terms, pruned, dry_run=dry_run, as_json=as_json, complete=True)


def _terms(store: "Store", age: float, forget: float | None, *, keep_results: bool) -> "Terms":
    from trivet_store.retention.pruning import Terms

    with store.read() as connection:
        now = store.now(connection)
    return Terms(
        ended_before=max(0.0, now - age),
        forget_before=None if forget is None else max(0.0, now - forget),
        keep_results=keep_results,
    )


def _run(store: "Store", terms: "Terms", pruned: Counter[str], *, dry_run: bool) -> None:
    from trivet.cli.progress import bar
    from trivet_store.retention import pruning

    looked_at = 0
    with bar("Counting" if dry_run else "Pruning", pruning.extent(store, terms)) as advance:
        for step in pruning.prune(store, terms, dry_run=dry_run):
            pruned.update(step.pruned)
            looked_at += step.looked_at
            advance(looked_at, f"{pruned.total():,} rows {'to go' if dry_run else 'deleted'}")


def _report(terms: "Terms", pruned: Counter[str], *, dry_run: bool, as_json: bool, complete: bool) -> None:
    from trivet.cli.tables import print_facts, print_line
    from trivet_store.retention.pruning import KINDS

    if as_json:
        found: dict[str, Any] = {
            "ended_before": terms.ended_before,
            "forget_before": terms.forget_before,
            "keep_results": terms.keep_results,
            "dry_run": dry_run,
            "complete": complete,
            "pruned": {kind: pruned[kind] for kind in KINDS},
        }
        context.print_json(found)
        return
    contents = KINDS[:1] if terms.keep_results else KINDS[:2]
    done = "Would be deleted" if dry_run else "Deleted"
    print_line(f"{done}, of jobs that ended before {moment(terms.ended_before)}:")
    print_facts([(kind, f"{pruned[kind]:,}") for kind in contents])
    if terms.forget_before is not None:
        print_line(f"{done}, of jobs that ended before {moment(terms.forget_before)} and what is as old:")
        print_facts([(kind, f"{pruned[kind]:,}") for kind in KINDS if kind not in contents])
