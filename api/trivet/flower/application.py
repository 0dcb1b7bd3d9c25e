"""Flower's web application with our pages in place of some of its own."""

from typing import Any

from celery import Celery
from flower.app import Flower, rewrite_handler
from flower.urls import settings as web_settings
from tornado.httputil import HTTPServerRequest
from tornado.ioloop import IOLoop
from tornado.options import options
from tornado.web import url

from trivet.admin import Admin
from trivet.flower.access import Access, RefusedRequest
from trivet.flower.backlog import BacklogReader
from trivet.flower.depths import QueueDepths
from trivet.flower.options import Listen
from trivet.flower.pages import BrokerPage, MetricsPage, QueueLengths, TasksPage
from trivet.flower.proven import ProvenReader
from trivet.flower.queues import route_names
from trivet.flower.shown_events import ShownEvents
from trivet_tasks.config.settings import Settings

OUR_PAGES = [
    url(r"/broker", BrokerPage),
    url(r"/tasks", TasksPage),
    url(r"/api/queues/length", QueueLengths),
    url(r"/metrics", MetricsPage),
]
"""Asked before Flower's own of the same path. They have no names: links by name lead to the same paths."""


class TrivetFlower(Flower):  # type: ignore[misc]  # Flower ships no types
    """Flower for one Trivet. Its options are set before (`trivet.flower.options`)."""

    def __init__(self, settings: Settings, celery: Celery, io_loop: IOLoop, listen: Listen) -> None:
        self.trivet = settings
        self._access = Access(listen, options.url_prefix)
        self.admin = Admin(settings=settings)
        self.backlog = BacklogReader(self.admin)
        self.depths = QueueDepths(settings, celery)
        self.proven = ProvenReader(self.admin)
        super().__init__(
            options=options,
            capp=celery,
            io_loop=io_loop,
            events=ShownEvents(
                celery,
                io_loop=io_loop,
                db=options.db,
                persistent=options.persistent,
                state_save_interval=options.state_save_interval,
                enable_events=options.enable_events,
                max_workers_in_memory=options.max_workers,
                max_tasks_in_memory=options.max_tasks,
            ),
            **web_settings,
        )
        prefix = options.url_prefix
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
        return route_names(self.trivet.routes, self.backlog.last)

    def stop(self) -> None:
        """End the event loop; safe to call twice."""
        self.backlog.close()
        super().stop()
