"""`trivet serve`: the HTTP gateway."""

import logging
import socket
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from trivet.cli import options
from trivet.cli.extras import need
from trivet.cli.log_lines import throttle_log
from trivet.cli.output import print_error, print_whole
from trivet_tasks.config.environment_faults import refuse
from trivet_tasks.config.local_requests import is_loopback
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import ConfigError
from trivet_tasks.processes.signals import Reloader
from trivet_tasks.processes.startup import announce_ready, python_command, set_title, without_collecting

if TYPE_CHECKING:
    from trivet.gateway.local_key import LocalKey

PORT = 8080
STOP_S = 5.0
"""Seconds, beyond its grace, that a process may take to stop."""


def serve(
    address: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="The port; 0: any free one.")] = PORT,
    processes: Annotated[int, typer.Option(min=1, max=64, help="Number of processes; they share the port.")] = 1,
    listener: Annotated[int | None, typer.Option(hidden=True, min=0)] = None,
) -> None:
    """Run the HTTP gateway: any client of the Anthropic API gets the queue by its base URL.

    It serves the Messages API at /v1/messages and Trivet's own resources at /trivet/v1.
    """
    settings = options.settings()
    refuse(settings)
    need("trivet serve", "serve")
    set_title("serve")
    throttle_log()
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # it tells each step of its start and stop
    if listener is not None:  # a process of those below: the one above has said and checked everything
        _run(settings, socket.socket(fileno=listener))
        return
    from trivet.gateway.server import listen, url_of

    local = check_keys(settings, address)
    opened = listen(address, port)
    print_whole(f"The gateway is at {url_of(opened)}")
    print_exports(local, url_of(opened))
    sys.stdout.flush()
    if processes == 1:
        _run(settings, opened)
        return
    from trivet.local.processes import run_parts

    command = python_command("trivet", *_config(), "serve", "--listener", str(opened.fileno()))
    commands = {f"gateway process {number}": command for number in range(1, processes + 1)}
    limit_s = settings.gateway.shutdown_grace_s + STOP_S
    raise SystemExit(run_parts(commands, limit_s, print_error, [opened.fileno()]))


def check_keys(settings: Settings, address: str) -> "LocalKey | None":
    """Make the local key at the first start, and return it where there is one.

    Raises:
        ConfigError: there is no key, and other machines can reach the address.
    """
    from trivet.admin import Admin
    from trivet.gateway.local_key import ensure_local_key

    with Admin(settings=settings) as admin:
        if not is_loopback(address) and not admin.keys.exist():
            raise ConfigError(
                f"--address: {address} can be reached from other machines, and there is no key yet.",
                hint="`trivet keys create NAME` makes one, for this gateway's database.",
            )
        return ensure_local_key(settings, admin.keys)


def print_exports(local: "LocalKey | None", url: str) -> None:
    """Print the lines for a shell that point an Anthropic client at the gateway, or why its local key does not work."""
    if local is not None and local.works:
        for line in local.exports(url):
            print_whole(f"  {line}")
    elif local is not None:
        print_error(f"trivet: {local.fault()}")


def _run(settings: Settings, listener: socket.socket) -> None:
    with without_collecting():
        from trivet.gateway.server import run_gateway

    run_gateway(settings, listener, on_ready=announce_ready, on_hangup=_reloader(settings).ask)


def _reloader(settings: Settings) -> Reloader:
    with without_collecting():
        from trivet.gateway.route_counts import take_over_routes

    return Reloader(settings, lambda again: take_over_routes(settings, again), logging.getLogger("trivet.gateway"))


def _config() -> list[str]:
    named = options.config_option()
    return [] if named is None else ["--config", str(named)]
