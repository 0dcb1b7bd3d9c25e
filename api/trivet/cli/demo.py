"""`trivet demo`: the whole thing on this machine, with an outage in the middle."""

import contextlib
from typing import Annotated

import typer

from trivet.cli import output


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(demo)


def demo(
    jobs: Annotated[int, typer.Option(min=1, max=1_000_000, help="Number of documents.")] = 1_000,
    workers: Annotated[int, typer.Option(min=1, max=16, help="Number of workers.")] = 2,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object at the end; the progress goes to stderr.")
    ] = False,
    plain: Annotated[bool, typer.Option("--plain", help="A line every few seconds instead of a live screen.")] = False,
) -> None:
    """Run 1,000 documents over three simulated providers, with an outage in the middle. Needs no account, costs nothing.

    Exit codes: 0 every job succeeded, none was lost or doubled; 1 otherwise; 130 on Ctrl-C.
    """
    from trivet.demo.run import run_demo
    from trivet.demo.screen import LiveScreen, PlainView, as_object, print_summary
    from trivet_tasks.errors import ProcessFailed
    from trivet_tasks.processes.startup import set_title

    set_title("demo")
    console = output.err if as_json else output.out
    live = console.is_terminal and not console.is_dumb_terminal and not plain
    try:
        outcome = run_demo(jobs, workers, LiveScreen(console) if live else PlainView(console))
    except ProcessFailed as error:
        output.err.print(f"trivet: {error}", markup=False, soft_wrap=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):
            output.err.print("Stopped.")
        raise typer.Exit(130) from None
    print_summary(console, outcome)
    if as_json:
        output.print_json(as_object(outcome))
    if not outcome.good:
        raise typer.Exit(1)
