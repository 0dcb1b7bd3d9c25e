"""`trivet routes --watch`: the status of the routes, read again and again."""

import time
from collections.abc import Callable
from dataclasses import replace

from rich.text import Text

from trivet.admin import ClusterStatus
from trivet.cli.output import said_lines
from trivet.cli.routes_remarks import remarks, summary
from trivet.cli.routes_view import routes_table
from trivet.json_objects import as_json, cluster_object
from trivet.times import ago
from trivet_tasks.errors import BrokerUnavailable, StoreUnavailable


class StatusWatch:
    """Reads the status again and again; while the database is away it keeps the last one.

    Args:
        read: reads the status.
    """

    title = "trivet routes"

    def __init__(self, read: Callable[[], ClusterStatus]) -> None:
        self._read = read
        self._last: ClusterStatus | None = None
        self._seen_at = 0.0
        self._impairment = ""

    def look(self) -> None:
        """Read the status once more. A database that does not answer is shown.

        Raises:
            ConfigError, SchemaMismatch: the configuration or the database does not fit this Trivet.
        """
        try:
            self._last = self._read()
            self._seen_at = time.monotonic()
            self._impairment = self._last.impairment or ""
        except (StoreUnavailable, BrokerUnavailable) as error:
            self._impairment = str(error)

    def lines(self, room: int | None) -> list[Text]:
        """Return the lines to show: first waiting jobs and impairments, then the routes."""
        lines = said_lines(self._impairment, "bold red", room=room) if self._impairment else []
        status = self._last
        if status is None:
            return lines
        age_s = time.monotonic() - self._seen_at
        if self._impairment and not status.impairment:
            lines += said_lines(f"The status below was read {ago(age_s)} ago.", "red", room=room)
            status = replace(status, now=status.now + age_s)
        lines += [*summary(status, room), Text()]
        if status.routes:
            lines += routes_table(status, room)
        said = remarks(status, room)
        return [*lines, *([Text()] if said else []), *said]

    def as_json(self) -> str:
        """Return one line; `impairment` gives the reason if the status is not current."""
        found = cluster_object(self._last) if self._last else {}
        return as_json({**found, "impairment": self._impairment or None})
