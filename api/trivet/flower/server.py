"""Running Flower, with Trivet's pages in place of some of its own, until it is told to stop."""

import errno
import logging
import os
from collections.abc import Callable
from functools import partial
from typing import Any

from celery import Celery
from flower import command
from flower.app import Flower, rewrite_handler
from flower.urls import settings as web_settings
from tornado.httputil import HTTPServerRequest
from tornado.ioloop import IOLoop
from tornado.options import options as web_options
from tornado.web import url

from trivet.admin import Admin
from trivet.flower import options
from trivet.flower.access import Access, RefusedRequest, check_open
from trivet.flower.pages import BrokerPage, MetricsPage, QueueLengths, TasksPage
from trivet.flower.readers import BacklogReader, QueueDepths, SharedStateReader
from trivet.flower.shown_events import ShownEvents
from trivet_tasks.celery_app import make_app
from trivet_tasks.config.local_requests import is_loopback
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import ConfigError
from trivet_tasks.processes.signals import StopSignals

log = logging.getLogger("trivet.flower")

CHATTY = ("flower", "tornado", "kombu", "celery", "asyncio")
OUR_PAGES = [
    url(r"/broker", BrokerPage),
    url(r"/tasks", TasksPage),
    url(r"/api/queues/length", QueueLengths),
    url(r"/metrics", MetricsPage),
]
"""Asked before Flower's own of the same path. They have no names: links by name lead to the same paths."""


class TrivetFlower(Flower):  # type: ignore[misc]  # Flower ships no types
    """Flower for one Trivet. Its options are set before (`trivet.flower.options`)."""

    def __init__(self, settings: Settings, celery: Celery, io_loop: IOLoop, listen: options.Listen) -> None:
        self.trivet = settings
        self._access = Access(listen, web_options.url_prefix)
        self.admin = Admin(settings=settings)
        self.backlog = BacklogReader(self.admin)
        self.depths = QueueDepths(settings, celery)
        self.shared_state = SharedStateReader(self.admin)
        super().__init__(
            options=web_options,
            capp=celery,
            io_loop=io_loop,
            events=ShownEvents(
                celery,
                io_loop=io_loop,
                db=web_options.db,
                persistent=web_options.persistent,
                state_save_interval=web_options.state_save_interval,
                enable_events=web_options.enable_events,
                max_workers_in_memory=web_options.max_workers,
                max_tasks_in_memory=web_options.max_tasks,
            ),
            **web_settings,
        )
        prefix = web_options.url_prefix
        # a host pattern's handlers are asked before the application's, and pass on what they have no page for
        self.add_handlers(r".*", [rewrite_handler(page, prefix) for page in OUR_PAGES] if prefix else OUR_PAGES)

    def find_handler(self, request: HTTPServerRequest, **values: Any) -> Any:
        """Let Tornado find the page, unless the request is refused."""
        refused = self._access.refusal(request)
        if refused is not None:
            return self.get_handler_delegate(request, RefusedRequest, refused)
        return super().find_handler(request, **values)

    def route_names(self) -> list[str]:
        """Return every route known here, also one whose workers are all gone."""
        backlog = self.backlog.last
        return sorted({*self.trivet.routes, *backlog.drained, *(row.route for row in backlog.routes)})

    def stop(self) -> None:
        """End the event loop; safe to call twice."""
        self.backlog.close()
        super().stop()


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
