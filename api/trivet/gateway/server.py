"""Running the gateway on uvicorn."""

import uvicorn

from trivet.gateway.app import make_app
from trivet.gateway.context import Gateway
from trivet_tasks.config.settings import Settings


def run_gateway(settings: Settings, *, address: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT. For the main thread of a process of its own.

    Args:
        address: address to listen on.
        port: port; 0: any free one.
    """
    uvicorn.run(make_app(Gateway(settings)), host=address, port=port, log_config=None, access_log=False)
