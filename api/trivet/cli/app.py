"""The tree of commands. Importing a module of it is cheap: its commands import what they need."""

from pathlib import Path
from typing import Annotated

import typer

from trivet.cli import (
    batch,
    budgets,
    config,
    costs,
    job,
    keys,
    local,
    options,
    plan,
    rehearse,
    routes,
    schedules,
    serve,
    services,
    storage,
    submit,
)
from trivet.cli.output import EPILOG

app = typer.Typer(
    name="trivet",
    help="A durable queue for Claude jobs over Amazon Bedrock, Google Vertex AI and the Anthropic API.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog=EPILOG,
)


def _print_version(asked: bool) -> None:
    if asked:
        from trivet import __version__

        print(f"trivet {__version__}")  # noqa: T201
        raise typer.Exit


@app.callback()
def root(
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", "-c", help="The configuration file, instead of TRIVET_CONFIG or the nearest trivet.toml."
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens, not only what is wrong.")] = False,
) -> None:
    """A durable queue for Claude jobs over Amazon Bedrock, Google Vertex AI and the Anthropic API."""
    del version  # its callback has ended the command
    options.set_up(config, verbose=verbose)


# in the order of the help text
for command in (
    local.demo,
    local.up,
    services.worker,
    services.scheduler,
    services.simulate,
    services.flower,
    serve.serve,
    submit.submit,
    submit.bulk,
):
    app.command()(command)
app.add_typer(batch.group, name="batch")
app.add_typer(job.group, name="job")
app.add_typer(routes.every, name="routes")
app.add_typer(routes.one, name="route")
app.add_typer(costs.group, name="costs")
app.add_typer(storage.cache, name="cache")
app.command()(budgets.budgets)
app.add_typer(budgets.group, name="budget")
app.add_typer(schedules.group, name="schedules")
app.add_typer(keys.group, name="keys")
app.command()(plan.plan)
app.command()(rehearse.rehearse)
app.add_typer(config.group, name="config")
app.add_typer(storage.db, name="db")
