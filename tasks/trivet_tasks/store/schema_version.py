"""Keeping the schema at the version this Trivet works with."""

from importlib import resources
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from filelock import FileLock

from trivet_tasks.errors import SchemaMismatch
from trivet_tasks.store.engine import Store


def upgrade(store: Store) -> tuple[str | None, str]:
    """Bring the database to the newest schema. Returns (version before, version after). Safe to run twice at once."""
    if store.path is not None:
        with FileLock(f"{store.path}.migrate.lock"):
            return _upgrade(store)
    return _upgrade(store)


def ensure(store: Store) -> None:
    """Make sure the schema fits. SQLite migrates itself; PostgreSQL only by `trivet db upgrade`.

    Raises:
        SchemaMismatch: the schema is newer than this Trivet, or (PostgreSQL) older, or not there.
    """
    now, newest = version(store), newest_version()
    if now == newest:
        return
    _refuse_newer(store, now)
    if not store.sqlite:
        state = f"has schema {now}" if now else "has no Trivet schema yet"
        raise SchemaMismatch(
            f"The database {store.shown_url} {state}; this Trivet works with {newest}.", hint="Run `trivet db upgrade`."
        )
    upgrade(store)


def version(store: Store) -> str | None:
    """The schema version of the database, or None when it has none."""
    with store.read() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def newest_version() -> str:
    """The schema version this Trivet works with."""
    head = _scripts().get_current_head()
    assert head is not None
    return head


def _upgrade(store: Store) -> tuple[str | None, str]:
    before = version(store)
    newest = newest_version()
    if before != newest:
        _refuse_newer(store, before)
        config = _config()
        with store.write() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
        if store.path is not None:
            store.path.chmod(0o600)
    return before, newest


def _refuse_newer(store: Store, now: str | None) -> None:
    known = {script.revision for script in _scripts().walk_revisions()}
    if now is not None and now not in known:
        raise SchemaMismatch(
            f"The database {store.shown_url} has schema {now}, which is newer than this Trivet knows ({newest_version()}).",
            hint="Install the newer Trivet, or point [store] url at another database.",
        )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_folder()))
    config.set_main_option("path_separator", "os")
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _folder() -> Path:
    return Path(str(resources.files("trivet_tasks.store") / "migrations"))
