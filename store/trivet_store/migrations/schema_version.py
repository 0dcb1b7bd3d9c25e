"""Keeping the schema at the version this Trivet works with."""

from filelock import FileLock
from sqlalchemy import inspect, text

from trivet_store.database import clock
from trivet_store.database.engine import Store
from trivet_store.migrations.upgrading import upgrade_from
from trivet_tasks.errors import SchemaMismatch, StoreError

NEWEST = "0001"
"""The schema version this Trivet works with: the last of `migrations/versions`."""

_VERSION_TABLE = "alembic_version"
_ENCODING = text("SELECT current_setting('server_encoding'), current_database()::text")


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
        upgrade_from(store, before)
    return before


def _refuse_newer(store: Store, now: str | None) -> None:
    # versions are numbered upwards
    if now is not None and now > NEWEST:
        raise SchemaMismatch(
            f"The database {store.shown_url} has schema {now}, which is newer than this Trivet knows ({NEWEST}).",
            hint="Install the newer Trivet, or point [store] url at another database.",
        )
