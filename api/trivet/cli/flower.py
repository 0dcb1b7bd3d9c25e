"""`trivet flower`: watch queues, workers and the backlog in a browser."""

import logging
import os
import sys
from typing import Annotated

import typer

from trivet.cli import context
from trivet_tasks.errors import ConfigError
from trivet_tasks.processes.process_titles import set_title
from trivet_tasks.processes.supervised import announce_ready


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(flower)


def flower(
    address: Annotated[str, typer.Option(envvar="FLOWER_ADDRESS", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(envvar="FLOWER_PORT", min=0, max=65_535, help="The port; 0: any free one.")
    ] = 5555,
    basic_auth: Annotated[
        str,
        typer.Option(
            envvar="FLOWER_BASIC_AUTH",
            show_envvar=True,
            metavar="USER:PASSWORD",
            help="Who may look; several by comma. Better as a variable: options can be read by every user of the machine.",
        ),
    ] = "",
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Serve other machines although no password is set.")
    ] = False,
) -> None:
    """Run Flower: the queues of the routes, the workers, the tasks, and what waits in the database.

    Flower's other settings are its FLOWER_* variables, e.g. FLOWER_URL_PREFIX. It shows and changes nothing.
    """
    set_title("flower")
    try:
        from trivet.flower import server
        from trivet.flower.options import Listen, parse_basic_auth
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("flower", "tornado", "prometheus_client"):
            raise
        raise ConfigError("Flower is not installed.", hint="Install it with: pip install 'trivet[ops]'") from None
    settings = context.settings()
    listen = Listen(address, port, parse_basic_auth(basic_auth), settings.flower.hosts, insecure)
    server.run_flower(settings, listen, _ready)
    # Threads that ask a broker or a database which is away cannot be called off; the interpreter would wait for them.
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0)


def _ready(page: str) -> None:
    typer.echo(f"Flower is at {page}")
    sys.stdout.flush()
    announce_ready()
