"""The installation: its configuration in force, and its database's schema and old rows."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import NamedTuple

from trivet.admin.group import Group
from trivet.client.connections import current_operator
from trivet.times import ago
from trivet_store import retention
from trivet_store.cluster import registry
from trivet_store.cluster.registry import Applied
from trivet_store.database.engine import Store
from trivet_store.migrations import schema_version
from trivet_tasks.errors import InvalidRequest, StoreUnavailable


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


class Configuration(Group):
    """The configuration of this process against what is in force."""

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
        with closing(Store.of(settings)) as store:
            try:
                schema_version.check_encoding(store)
                version = schema_version.version(store)
            except StoreUnavailable as error:
                return DatabaseState(impairment=error.message.partition(": ")[2] or error.message)
            pooled = store.pooled
        return DatabaseState(version or None, "", pooled, pooled and bool(settings.store.prepared_statements))


class SchemaVersion(NamedTuple):
    """The schema of a database."""

    database: str
    """Its URL, without the password."""
    version: str | None
    """None: it has no schema yet."""
    newest: str
    """The newest version, which this Trivet works with."""


class SchemaUpgrade(NamedTuple):
    """A database before and after an upgrade."""

    database: str
    """Its URL, without the password."""
    before: str | None
    """None: it had no schema yet."""
    after: str


class Pruning(NamedTuple):
    """Progress of deleting. Times are seconds since the epoch."""

    ended_before: float
    """Request bodies and results of jobs that ended before this are deleted."""
    forget_before: float | None
    """All rows of jobs that ended before this, and other rows as old, are deleted; None: none are."""
    keep_results: bool
    dry_run: bool
    """Rows are counted and not deleted."""
    extent: int
    """Rows to look at in all."""
    looked_at: int
    """Rows looked at so far."""
    rows: Mapping[str, int]
    """Rows deleted so far, or counted, by kind: `bodies`, `results`, `attempts`, `retries`, `jobs`, `flows`, `batches`,
    `events`, `shares`, `schedule_runs`."""

    @property
    def contents(self) -> tuple[str, ...]:
        """Return the kinds that `ended_before` is about; the others are deleted with their jobs."""
        return retention.KINDS[:1] if self.keep_results else retention.KINDS[:2]


class Database(Group):
    """Upgrades and prunes the database."""

    def version(self) -> SchemaVersion:
        """Return the schema of the database; a missing database is not created.

            found = admin.database.version()
            assert found.version == found.newest

        Raises:
            StoreUnavailable: the database does not answer.
        """
        with closing(Store.of(self._connections.settings)) as store:  # `connections.store` checks the schema
            missing = store.path is not None and not store.path.exists()
            now = None if missing else schema_version.version(store)
            return SchemaVersion(store.shown_url, now, schema_version.NEWEST)

    def upgrade(self) -> SchemaUpgrade:
        """Bring the database to the newest schema; a new database is filled. Workers may run meanwhile.

            print(admin.database.upgrade().after)

        Raises:
            SchemaMismatch: the database is from a newer Trivet.
            StoreError: it has another encoding than UTF-8.
            StoreUnavailable: it does not answer, or its tables stayed locked.
        """
        with closing(Store.of(self._connections.settings)) as store:  # `connections.store` checks the schema
            return SchemaUpgrade(store.shown_url, *schema_version.upgrade(store))

    def prune(
        self,
        older_than_s: float,
        *,
        attempts_older_than_s: float | None = None,
        keep_results: bool = False,
        dry_run: bool = False,
    ) -> Iterator[Pruning]:
        """Delete the rows of jobs that ended long ago.

        Workers go on meanwhile. Safe to interrupt: yielded work is committed, and another run does the rest.

            for progress in admin.database.prune(30 * 86_400):
                print(progress.rows)

        Args:
            older_than_s: delete request bodies and results of jobs that ended this many seconds ago.
            attempts_older_than_s: delete everything about jobs that ended this many seconds ago: calls with their costs,
                keys, results; and batches, events and the like of that age. None: never.
            keep_results: delete the request bodies only.
            dry_run: count only; delete nothing.

        Yields:
            The progress: before the first row is looked at, and after each group of rows.

        Raises:
            InvalidRequest: `attempts_older_than_s` is shorter than `older_than_s`.
            StoreUnavailable: the database does not answer. Work done until then stays done.
        """
        if attempts_older_than_s is not None and attempts_older_than_s < older_than_s:
            raise InvalidRequest(
                f"attempts_older_than_s: {ago(attempts_older_than_s)} is shorter than older_than_s, {ago(older_than_s)}.",
                field="attempts_older_than_s",
                hint="A job's calls stay at least as long as its result.",
            )
        store = self._connections.store
        with store.read() as connection:
            now = store.now(connection)
        terms = retention.Terms(
            ended_before=max(0.0, now - older_than_s),
            forget_before=None if attempts_older_than_s is None else max(0.0, now - attempts_older_than_s),
            keep_results=keep_results,
        )

        def run() -> Iterator[Pruning]:
            looked_at, rows = 0, Counter(dict.fromkeys(retention.KINDS, 0))
            of = (terms.ended_before, terms.forget_before, keep_results, dry_run, retention.extent(store, terms))
            yield Pruning(*of, looked_at, dict(rows))
            for step in retention.prune(store, terms, dry_run=dry_run):
                rows.update(step.pruned)
                looked_at += step.looked_at
                yield Pruning(*of, looked_at, dict(rows))

        return run()
