"""The environment of Alembic's commands: always on the connection that `schema_version` hands over."""

from alembic import context
from sqlalchemy import Connection, text

from trivet_store.migrations.schema_version import LOCK_WAIT_S
from trivet_store.schema import metadata

UPGRADE_LOCK = 7_214_500_001
"""The PostgreSQL advisory lock that lets one upgrade run at a time."""


def run(connection: Connection) -> None:
    """Migrate in the caller's transaction."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": UPGRADE_LOCK})
        connection.execute(text(f"SET LOCAL lock_timeout = {int(LOCK_WAIT_S * 1000)}"))  # only now: others upgrade, too
    context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()


run(context.config.attributes["connection"])
