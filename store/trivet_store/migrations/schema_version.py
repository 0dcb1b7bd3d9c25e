"""Keeping the schema at the version this Trivet works with, beside running workers.

To add a column PostgreSQL wants a table for itself, for an instant. While it waits for that behind a long transaction
(a backup, an autovacuum, a forgotten console), everybody else who wants the table waits behind it. So a step waits for its
locks only a little, gives up, lets go of all it has, and tries again.

Alembic is loaded by what needs it, and nobody else needs it.
"""

import random
import time
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import OperationalError

from trivet_store.database import clock
from trivet_store.database.engine import Store
from trivet_tasks.errors import SchemaMismatch, StoreError, StoreUnavailable

if TYPE_CHECKING:
    from alembic.config import Config

NEWEST = "0001"
"""The schema version this Trivet works with: the last of `migrations/versions`."""

_VERSION_TABLE = "alembic_version"
_ENCODING = text("SELECT current_setting('server_encoding'), current_database()::text")
SCRIPTS = Path(str(resources.files("trivet_store") / "migrations"))
"""The folder with Alembic's environment and, in `versions`, the steps."""
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


def upgrade(store: Store) -> tuple[str | None, str]:
    """Bring the database to the newest schema. Returns (version before, version after). Safe to run twice at once.

    Workers may run meanwhile. A step may only add what they need not know of, or drop what they do not need: those of
    the version before go on until they are replaced, and nothing but a start looks at the version.

    Raises:
        SchemaMismatch: the database is from a newer Trivet.
        StoreError: it is of another encoding than UTF8.
        StoreUnavailable: it does not answer, or its tables stayed locked.
    """
    if store.path is not None:
        with FileLock(f"{store.path}.migrate.lock"):
            before = _upgrade(store)
        store.path.chmod(0o600)
    else:
        before = _upgrade(store)
    _set_clock(store)
    return before, NEWEST


def ensure(store: Store) -> None:
    """Make sure the schema fits. SQLite migrates itself; PostgreSQL only by `trivet db upgrade`.

    Raises:
        SchemaMismatch: the schema is newer than this Trivet, or (PostgreSQL) older, or not there.
        StoreError: the database is of another encoding than UTF8.
    """
    check_encoding(store)
    now = version(store)
    if now == NEWEST:
        _set_clock(store)
        return
    _refuse_newer(store, now)
    if not store.sqlite:
        state = f"has schema {now}" if now else "has no Trivet schema yet"
        raise SchemaMismatch(
            f"The database {store.shown_url} {state}; this Trivet works with {NEWEST}.", hint="Run `trivet db upgrade`."
        )
    upgrade(store)


def version(store: Store) -> str | None:
    """The schema version of the database, or None when it has none."""
    with store.read() as connection:
        if not inspect(connection).has_table(_VERSION_TABLE):
            return None
        return connection.execute(text(f"SELECT version_num FROM {_VERSION_TABLE}")).scalar()


def _set_clock(store: Store) -> None:
    if not store.sqlite:
        return
    with store.read() as connection:
        off = clock.is_off(connection)
    if off:
        with store.write() as connection:
            clock.set_anew(connection)


def check_encoding(store: Store) -> None:
    """Make sure that the database can hold every character.

    Raises:
        StoreError: it is of another encoding than UTF8. StoreUnavailable.
    """
    if store.sqlite:
        return
    with store.read() as connection:
        encoding, name = connection.execute(_ENCODING).one()
    if encoding != "UTF8":
        raise StoreError(
            f"The database {store.shown_url} has the encoding {encoding}, and Trivet needs UTF8: answers hold any character.",
            hint=f"Make another: CREATE DATABASE {name}_utf8 ENCODING 'UTF8' TEMPLATE template0.",
        )


def _upgrade(store: Store) -> str | None:
    check_encoding(store)
    before = version(store)
    if before != NEWEST:
        _refuse_newer(store, before)
        _upgrade_from(store, before)
    return before


def _refuse_newer(store: Store, now: str | None) -> None:
    # versions are numbered upwards
    if now is not None and now > NEWEST:
        raise SchemaMismatch(
            f"The database {store.shown_url} has schema {now}, which is newer than this Trivet knows ({NEWEST}).",
            hint="Install the newer Trivet, or point [store] url at another database.",
        )


def _upgrade_from(store: Store, version: str | None) -> None:
    """Run every step after a version, each in a transaction of its own.

    Raises:
        StoreUnavailable: the database does not answer, or a step never got its locks. The steps before it are done.
    """
    for step in steps(version):
        until = time.monotonic() + GIVE_UP_S
        while not _done(store, step):
            if time.monotonic() > until:
                raise _in_the_way(store, step)
            time.sleep(random.uniform(*PAUSE_S))


def _done(store: Store, step: str) -> bool:
    try:
        with store.write() as connection:
            try:
                _run_step(connection, step)
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


def steps(version: str | None) -> list[str]:
    """Return the steps after a version, in order; all of them for an empty database."""
    from alembic.script import ScriptDirectory

    script = ScriptDirectory.from_config(_config())
    return [step.revision for step in script.iterate_revisions("head", version or "base")][::-1]


def _run_step(connection: Connection, step: str) -> None:
    """Migrate to this step in the caller's transaction; nothing when another has done so meanwhile."""
    from alembic import command

    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, step)


def _config() -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    config.set_main_option("path_separator", "os")
    return config
