"""Changing the schema beside running workers: a step waits for its locks only as long as everybody may wait behind it.

To add a column PostgreSQL wants a table for itself, for an instant. While it waits for that behind a long transaction
(a backup, an autovacuum, a forgotten console), everybody else who wants the table waits behind it. So a step gives up
soon, lets go of all it has, and tries again.
"""

import random
import time

from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from trivet_store.database.engine import Store
from trivet_tasks.errors import StoreUnavailable

LOCK_WAIT_S = 0.2
"""Maximum seconds that a statement of a step waits for a lock; everybody behind it waits as long."""
PAUSE_S = (0.5, 1.5)
"""Between two tries: from, to."""
GIVE_UP_S = 600.0
"""Seconds after which a step gives up."""

_LOCKED = ("55P03", "40P01")  # lock not available, deadlock detected
_OLDEST = text(
    """
    SELECT pid, application_name AS name, extract(epoch FROM clock_timestamp() - xact_start)::float8 AS age_s
      FROM pg_stat_activity
     WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
     ORDER BY xact_start LIMIT 1
    """
)


class _Locked(Exception):
    """Somebody holds a lock that the step needs."""


def upgrade_from(store: Store, version: str | None) -> None:
    """Run every step after a version, each in a transaction of its own.

    Raises:
        StoreUnavailable: the database does not answer, or a step never got its locks. The steps before it are done.
    """
    from trivet_store.migrations.run import steps  # loads Alembic, which nobody else needs

    for step in steps(version):
        until = time.monotonic() + GIVE_UP_S
        while not _done(store, step):
            if time.monotonic() > until:
                raise _in_the_way(store, step)
            time.sleep(random.uniform(*PAUSE_S))


def _done(store: Store, step: str) -> bool:
    from trivet_store.migrations.run import run_step

    try:
        with store.write() as connection:
            try:
                run_step(connection, step)
            except OperationalError as error:
                if getattr(error.orig, "sqlstate", None) in _LOCKED:
                    raise _Locked from None
                raise
    except _Locked:
        return False
    return True


def _in_the_way(store: Store, step: str) -> StoreUnavailable:
    with store.read() as connection:
        oldest = connection.execute(_OLDEST).one_or_none()
    who = ""
    if oldest is not None:
        who = f" The oldest is that of process {oldest.pid} ({oldest.name or 'unnamed'}), {oldest.age_s:,.0f} s old."
    return StoreUnavailable(
        f"The schema of {store.shown_url} could not be brought to {step} within {GIVE_UP_S:g} s: other transactions "
        f"hold its tables.{who} Nothing of this step was done.",
        hint="Let them end, or end them (`SELECT pg_terminate_backend(PID)`), and run `trivet db upgrade` again.",
    )
