"""`trivet serve`: the HTTP gateway."""

from typing import Annotated

import typer

from trivet.cli import options
from trivet.cli.extras import need
from trivet_tasks.config.environment_faults import refuse
from trivet_tasks.processes.startup import set_title


def serve(
    address: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="The port; 0: any free one.")] = 8080,
) -> None:
    """Run the HTTP gateway: any client of the Anthropic API gets the queue by its base URL."""
    settings = options.settings()
    refuse(settings)
    need("trivet serve", "serve")
    set_title("serve")
    from trivet.gateway.server import run_gateway

    run_gateway(settings, address=address, port=port)
