"""The configuration of this process: putting its routes in force, and the state of its database."""

import contextlib
from typing import NamedTuple

from trivet.admin.operator import current_operator
from trivet.client.connections import Connections
from trivet_store.cluster import registry
from trivet_store.cluster.registry import Applied
from trivet_store.database.engine import Store
from trivet_store.migrations import schema_version
from trivet_tasks.errors import StoreUnavailable


class DatabaseState(NamedTuple):
    """State of a database, read without changing it."""

    schema: str | None = None
    """Version of its schema; None: there is none yet, or it does not answer."""
    impairment: str = ""
    """Reason why it does not answer, if so."""
    pooled: bool = False
    """True if a connection pooler is in front of it."""
    prepares: bool = False
    """True if statements are prepared there."""


class Configuration:
    """The configuration of this process against what is in force."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def apply(self, *, places: bool = False, dry_run: bool = False, by: str | None = None) -> Applied:
        """Put the figures of this configuration's routes in force, whatever version they are: to roll back.

        They count everywhere within two seconds. Limits set by hand and routes that it does not name stay. Where a route
        leads elsewhere than the one that is served, it stays where it is, unless `places` is set.

            admin.configuration.apply(dry_run=True).changes

        Args:
            places: whether to redefine where routes lead. Workers that serve them elsewhere then take none of their
                work until they are restarted with this configuration.
            dry_run: whether only to return what would change.
            by: the person; None: the user of this process.

        Raises:
            StoreUnavailable, SchemaMismatch: the database cannot be used.
        """
        settings, store = self._connections.settings, self._connections.store
        with store.read() if dry_run else store.write() as connection:
            said = f"{by or current_operator()} from {settings.source}"
            done = registry.apply(store, connection, settings.routes, by=said, places=places, dry_run=dry_run)
        if done.changes and not dry_run:
            self._connections.tell_work()
        return done

    def database_state(self) -> DatabaseState | None:
        """Return the state of a PostgreSQL database, whatever its schema; None for SQLite, whose file is left alone.

            admin.configuration.database_state()

        Raises:
            StoreError: its encoding is not UTF8.
        """
        settings = self._connections.settings
        if settings.store_url.startswith("sqlite"):
            return None
        with contextlib.closing(Store.of(settings)) as store:
            try:
                schema_version.check_encoding(store)
                version = schema_version.version(store)
            except StoreUnavailable as error:
                return DatabaseState(impairment=error.message.partition(": ")[2] or error.message)
            pooled = store.pooled
        return DatabaseState(version or None, "", pooled, pooled and bool(settings.store.prepared_statements))
