"""The database: its schema version, upgrading it, and deleting the rows of old jobs."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from trivet.client.connections import Connections
from trivet_store import retention
from trivet_store.database.engine import Store
from trivet_store.migrations import schema_version
from trivet_tasks.errors import InvalidRequest


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
    `events`, `shares`."""

    @property
    def contents(self) -> tuple[str, ...]:
        """Return the kinds that `ended_before` is about; the others are deleted with their jobs."""
        return retention.KINDS[:1] if self.keep_results else retention.KINDS[:2]


class Database:
    """Upgrades and prunes the database."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def version(self) -> SchemaVersion:
        """Return the schema of the database; a missing database is not created.

            found = admin.database.version()
            assert found.version == found.newest

        Raises:
            StoreUnavailable: the database does not answer.
        """
        with self._opened() as store:
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
        with self._opened() as store:
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
            StoreUnavailable: the database does not answer. What was done until then stays done.
        """
        if attempts_older_than_s is not None and attempts_older_than_s < older_than_s:
            raise InvalidRequest(
                f"attempts_older_than_s: {attempts_older_than_s:g} is shorter than older_than_s, {older_than_s:g}.",
                field="attempts_older_than",
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

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Store]:
        """Open the database without checking its schema, which this reads."""
        store = Store.of(self._connections.settings)
        try:
            yield store
        finally:
            store.close()
