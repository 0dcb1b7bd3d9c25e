"""Running Flower until it is told to stop."""

import errno
import logging
import os
from collections.abc import Callable
from functools import partial

from flower import command
from tornado.ioloop import IOLoop
from tornado.options import options as web_options

from trivet.flower import options
from trivet.flower.access import check_open
from trivet.flower.application import TrivetFlower
from trivet_tasks.celery_app import make_app
from trivet_tasks.config.local_requests import is_loopback
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import ConfigError
from trivet_tasks.processes.signals import StopSignals

log = logging.getLogger("trivet.flower")

CHATTY = ("flower", "tornado", "kombu", "celery", "asyncio")


def run_flower(settings: Settings, listen: options.Listen, on_ready: Callable[[str], None]) -> None:
    """Serve Flower until SIGTERM, SIGINT or SIGHUP. For the main thread of a process of its own.

    Args:
        on_ready: told the address of the first page once it listens.

    Raises:
        ConfigError: it cannot listen there, an option is wrong, or others than this machine would need no password.
    """
    options.set_up(listen)
    check_open(listen, protected=bool(web_options.auth or web_options.unix_socket))
    _quieten()
    loop = IOLoop()
    flower = TrivetFlower(settings, make_app(settings), loop, listen)
    port = _listen(flower, listen)
    StopSignals(partial(loop.asyncio_loop.call_soon_threadsafe, flower.stop)).install()
    if listen.insecure and not listen.basic_auth and not flower.options.auth and not is_loopback(listen.address):
        log.warning("Flower listens on %s and asks nobody for a password: --insecure.", listen.address)
    scheme = "https" if flower.ssl_options else "http"
    prefix = f"/{flower.options.url_prefix.strip('/')}" if flower.options.url_prefix else ""
    loop.add_callback(on_ready, f"{scheme}://{_host(listen.address)}:{port}{prefix}/broker")
    flower.start()


def _listen(flower: TrivetFlower, listen: options.Listen) -> int | None:
    try:
        return flower.start_http_server()  # type: ignore[no-any-return]
    except OSError as error:
        where = f"{_host(listen.address)}:{listen.port}"
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"The port {where} is taken by another program.", hint="Choose another with --port, or stop that one."
            ) from None
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error.strerror or error)
        raise ConfigError(f"Flower cannot listen on {where}: {reason}.", hint="See --address and --port.") from None


def _quieten() -> None:
    command.setup_logging()
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("flower.inspector").setLevel(logging.ERROR)  # it warns whenever there is no worker to ask
    # a page somebody did not find, or a password mistyped, is that person's business
    logging.getLogger("tornado.access").setLevel(logging.ERROR)
    logging.getLogger("tornado.general").setLevel(logging.ERROR)


def _host(address: str) -> str:
    if not address:
        return "127.0.0.1"
    return f"[{address}]" if ":" in address else address
