"""`trivet bulk`: a file of requests in, and with `--out` a file of results."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trivet.cli import context
from trivet.cli.progress import Advance, bar

if TYPE_CHECKING:
    from trivet.cli.results_file import ResultsFile
    from trivet.client.batch import Batch
    from trivet.client.client import Client
    from trivet_store.jobs.batches import Progress
    from trivet_tasks.config.settings import Settings
    from trivet_tasks.jobs import JobSpec
    from trivet_tasks.requests.jsonl import FileCheck

SHOW_EVERY_S = 0.5
"""How often the progress of a batch is read while somebody watches."""
ADVANCE_EVERY = 200
"""Requests between two steps of the bar while they are taken in."""
MAX_WARNINGS = 100
"""Different warnings that are counted."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(bulk)


def bulk(
    file: Annotated[Path, typer.Argument(help="A JSON Lines file: one request a line, as for `trivet submit --file`.")],
    name: Annotated[
        str | None, typer.Option(help="The batch's name. Default: the file's name without its ending.")
    ] = None,
    latency: Annotated[str | None, typer.Option(help="realtime, batch (the default), async or deferred.")] = None,
    model: Annotated[str | None, typer.Option(help="For the lines that name none.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="For the lines that say none.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="name=value, for every job; may be repeated.")] = None,
    prompt_cache: Annotated[
        str | None,
        typer.Option(
            help="5m or 1h: what requests begin with in common is read from the provider's prompt cache; one warms it first.",
            metavar="TIME",
        ),
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave bad lines out instead of taking nothing.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until every job has ended.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write the results here (and wait for them): as they come to FILE.part, FILE once all are there."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Submit a file of requests as one batch. After a break, run it again: it goes on where it was."""
    from trivet.cli.results_file import ResultsFile
    from trivet.cli.submit import read_tags
    from trivet.cli.tables import print_error

    chosen = name or file.stem
    given = {
        "latency": latency,
        "model": model,
        "max_tokens": max_tokens,
        "tags": read_tags(tag),
        "prompt_cache": prompt_cache,
    }
    defaults = {key: value for key, value in given.items() if value is not None}
    with context.client() as client:
        check = checked(file, client.settings, defaults, now=client._connections.now(), skip_bad=skip_bad)
        for problem in check.problems:
            print_error(f"left out: {file}, {problem}")
        if check.bad > len(check.problems):
            print_error(f"left out: {check.bad - len(check.problems):,} more bad lines")
        results = ResultsFile(out) if out else None  # before any job is taken in: it may not be writable
        with results or nullcontext():
            batch = _take_in(client, check, chosen, defaults)
            progress = _wait(client, batch, results) if wait or results else batch.progress()
    _report(check, progress, out, waited=wait or results is not None, as_json=as_json)
    if (wait or results) and progress.succeeded < progress.total:
        raise typer.Exit(1)


def checked(
    file: Path,
    settings: "Settings",
    defaults: dict[str, Any],
    *,
    now: float,
    skip_bad: bool,
    each: "Callable[[JobSpec], None] | None" = None,
) -> "FileCheck":
    """The file checked whole; where lines lack what an option could give, the error says so. See `check_file`."""
    from trivet_tasks.errors import InvalidRequest
    from trivet_tasks.requests.jsonl import check_file

    try:
        with bar(f"Checking {file.name}", 0, unit="jobs") as advance:

            def tell(rows: int, share: float) -> None:
                advance(rows, about=round(rows / share))

            check = check_file(file, settings, defaults, now=now, skip_bad=skip_bad, tell=tell, each=each)
            tell(check.rows, 1.0)
            return check
    except InvalidRequest as error:
        for field in ("model", "max_tokens"):
            if any(problem.message.startswith(f"{field}: is missing") for problem in error.problems):
                error.hint += f"\n--{field.replace('_', '-')} gives one to all lines that lack it."
        raise


def _take_in(client: "Client", check: "FileCheck", name: str, defaults: dict[str, Any]) -> "Batch":
    """Submit the file, with a bar on a terminal and each warning once."""
    from trivet.cli.tables import print_error
    from trivet_tasks.requests.jsonl import read_file

    warnings: Counter[str] = Counter()
    try:
        with bar(f"Submitting {name}", check.rows, unit="jobs") as advance:
            return client.submit_specs(
                _quietly(read_file(check, client.settings, defaults), warnings, advance), name=name
            )
    except KeyboardInterrupt:
        print_error(f"Interrupted. Nothing of {name} runs yet: the same command takes in the rest.")
        raise
    finally:
        for warning, count in warnings.most_common(5):
            print_error(f"{count:,} requests: {warning}" if count > 1 else warning)


def _quietly(specs: "Iterable[JobSpec]", warnings: Counter[str], advance: Advance) -> "Iterator[JobSpec]":
    """The same requests, their warnings counted instead of logged one by one."""
    number = 0
    for number, spec in enumerate(specs, start=1):
        if number % ADVANCE_EVERY == 0:
            advance(number)
        if spec.warnings:
            warnings.update(said for said in spec.warnings if said in warnings or len(warnings) < MAX_WARNINGS)
            spec = replace(spec, warnings=())
        yield spec
    advance(number)


def _wait(client: "Client", batch: "Batch", results: "ResultsFile | None") -> "Progress":
    """Wait for the end of the batch and write its results as they come."""
    from trivet.cli.holdups import batch_held_up
    from trivet.cli.tables import print_error
    from trivet.cli.telling import telling

    progress = batch.progress()
    done = threading.Event()
    try:
        with bar(batch.name, progress.total, progress.ended, unit="jobs") as advance:
            watcher = threading.Thread(target=_watch, args=(batch, advance, done), name="trivet-progress", daemon=True)
            watcher.start()
            try:
                with telling(lambda: batch_held_up(client, batch.progress())):
                    if results is not None:
                        _write(batch, results)
                    return batch.wait()
            finally:
                done.set()
                watcher.join()
    except KeyboardInterrupt:
        again = (
            f"the same command writes the other results to {results.path}.part"
            if results
            else f"trivet batch status {batch.name}"
        )
        print_error(f"Interrupted. The jobs of {batch.name} go on: {again}.")
        raise


def _write(batch: "Batch", results: "ResultsFile") -> None:
    """Write every result, but for those that are not kept any more: a line without text would be no result."""
    from trivet.cli.tables import print_error

    missing = 0
    for result in batch.results():
        if not result.pruned:
            results.write(result)
        elif result not in results:
            missing += 1
    if missing:
        print_error(f"{missing:,} results were pruned and are not in {results.path}.")


def _watch(batch: "Batch", advance: Advance, done: threading.Event) -> None:
    """Move the bar until told to stop; a database that is away for a while is no reason to."""
    from trivet_tasks.errors import StoreError

    last = False
    while not last:
        last = done.wait(SHOW_EVERY_S)
        try:
            progress = batch.progress()
        except StoreError:
            continue
        failed = progress.failed + progress.expired + progress.cancelled
        advance(progress.ended, context.usd(progress.cost_usd) + (f", {failed:,} failed" if failed else ""))


def _report(check: "FileCheck", progress: "Progress", out: Path | None, *, waited: bool, as_json: bool) -> None:
    from trivet.cli.batch import as_object, print_progress
    from trivet.cli.tables import print_line

    if as_json:
        problems = [{"where": problem.where, "message": problem.message} for problem in check.problems]
        more = {
            "requests": check.rows,
            "left_out": check.bad,
            "problems": problems,
            "results": str(out) if out else None,
        }
        context.print_json({**as_object(progress), **more})
        return
    if check.repeated:
        print_line(f"{check.repeated:,} lines repeat an earlier line's key and request: one job each with it.")
    if waited:
        print_progress(progress)
        if out:
            print_line(f"Results: {out}")
    else:
        print_line(f"{progress.name}: {progress.total:,} jobs. How they do: trivet batch status {progress.name}")
