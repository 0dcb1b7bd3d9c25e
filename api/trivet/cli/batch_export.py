"""`trivet batch export`: what came of a batch, as JSON Lines or Parquet, a page of it in memory."""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trivet.cli import context
from trivet_tasks.states import END_STATES, BatchState, JobState

if TYPE_CHECKING:
    from trivet.client.result import Result
    from trivet_store.jobs.batches import Progress

STATES = tuple(state for state in JobState if state in END_STATES)
ADVANCE_EVERY = 200
"""Results between two steps of the bar."""


class Form(StrEnum):
    """What results are written as."""

    JSONL = "jsonl"
    PARQUET = "parquet"


def register(group: typer.Typer) -> None:
    """Add the command to those of `trivet batch`."""
    group.command()(export)


def export(
    name: Annotated[str, typer.Argument(help="The batch's name.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="Write here instead of to standard output; the file appears when it is whole.")
    ] = None,
    form: Annotated[
        Form | None, typer.Option("--format", help="Default: what FILE ends with, else jsonl. parquet needs --out.")
    ] = None,
    state: Annotated[
        list[str] | None, typer.Option(help=f"Only those that ended so: {', '.join(STATES)}; may be repeated.")
    ] = None,
) -> None:
    """Write the results there are by now, in the order the jobs ended. Exits with 1 when some jobs have not ended."""
    from trivet.cli.tables import print_error, print_line

    states = _checked_states(state)
    chosen = form or (Form.PARQUET if out and out.suffix.lower() == ".parquet" else Form.JSONL)
    if chosen is Form.PARQUET:
        _check_parquet(out)
    count = pruned = 0
    with context.client() as client:
        batch = client.batch(name)
        progress = batch.progress()
        try:
            with _sink(out, chosen) as write, _bar(name, progress, states, shown=out is not None) as advance:
                for result in batch.ended(states):
                    write(result)
                    count += 1
                    pruned += result.pruned
                    if count % ADVANCE_EVERY == 0:
                        advance(count)
                advance(count)
        except KeyboardInterrupt:
            print_error(f"Interrupted: {f'{out} was not written' if out else 'these are not all results'}.")
            raise
    if out:
        print_line(f"{out}: {count:,} results of {name}.")
    if pruned:
        print_error(f"{pruned:,} of these results were pruned: they have no text.", style="yellow")
    if not progress.done:
        print_error(_lacking(progress), style="yellow")
        raise typer.Exit(1)


def _checked_states(given: list[str] | None) -> tuple[JobState, ...]:
    from trivet_tasks.errors import InvalidRequest

    for state in given or ():
        if state not in STATES:
            near = get_close_matches(state, STATES, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"Use {', '.join(STATES)}."
            raise InvalidRequest(f"--state: {state!r} is not how a job ends.", field="state", hint=hint)
    return tuple(JobState(state) for state in dict.fromkeys(given)) if given else STATES


def _check_parquet(out: Path | None) -> None:
    from trivet_tasks.errors import ConfigError, InvalidRequest

    if out is None:
        raise InvalidRequest("--format parquet: needs a file to write to.", field="out", hint="Name one with --out.")
    if importlib.util.find_spec("pyarrow") is None:
        raise ConfigError("--format parquet: needs pyarrow.", hint="pip install 'trivet[parquet]' installs it.")


@contextmanager
def _sink(out: Path | None, form: Form) -> Iterator["Callable[[Result], object]"]:
    """What writes a result."""
    from trivet.cli.result_json import result_line
    from trivet.cli.whole_file import whole_file

    if out is None:
        stream = sys.stdout.buffer
        yield lambda result: stream.write(result_line(result))
        stream.flush()
        return
    with whole_file(out) as file:
        if form is Form.JSONL:
            yield lambda result: file.write(result_line(result))
            return
        from trivet.cli.parquet_file import parquet_file

        with parquet_file(file) as parquet:
            yield parquet.write


@contextmanager
def _bar(
    name: str, progress: "Progress", states: tuple[JobState, ...], *, shown: bool
) -> Iterator[Callable[[int], None]]:
    """A bar, unless the results go where it would."""
    from trivet.cli.progress import bar

    if not shown:
        yield lambda _count: None
        return
    with bar(f"Exporting {name}", sum(getattr(progress, state) for state in states), unit="jobs") as advance:
        yield advance


def _lacking(progress: "Progress") -> str:
    """What is not there yet."""
    open_jobs = progress.total - progress.ended
    said = f"{open_jobs:,} job{'' if open_jobs == 1 else 's'} of {progress.name} had not ended when the export began."
    if progress.state in (BatchState.INCOMPLETE, BatchState.LOADING):
        said += f" It has taken in only a part of its requests ({progress.taken:,}) and does not run."
    return said
