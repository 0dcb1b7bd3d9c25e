"""The tree of commands. Each module registers its own; importing one is cheap, its work imports what it needs."""

import importlib
from pathlib import Path
from typing import Annotated

import typer

from trivet.cli import options
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
        typer.Option("--config", "-c", help="The configuration file, instead of TRIVET_CONFIG or ./trivet.toml."),
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
for _module in (
    "demo",
    "services",
    "submit",
    "batch",
    "job",
    "routes",
    "costs",
    "cache",
    "budgets",
    "plan",
    "config",
    "db",
):
    importlib.import_module(f"trivet.cli.{_module}").register(app)
