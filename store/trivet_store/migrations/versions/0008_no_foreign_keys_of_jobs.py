"""What there is once or more for each job refers to other rows without a foreign key.

Every row that refers is written in a transaction that holds, or has just written, the row it refers to. To have it checked
again, row by row, took PostgreSQL 44 % of the time of an insert of jobs; and to delete a batch it read all jobs.
"""

import re

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_REFERRING = {
    "jobs": ("batch_id", "flow_id"),
    "job_requests": ("job_id",),
    "job_results": ("job_id",),
    "attempts": ("job_id",),
    "retries": ("job_id",),
}
_CLAUSE = re.compile(r",\s*FOREIGN KEY\s*\(\w+\)\s*REFERENCES\s+\w+\s*\(\w+\)")


def upgrade() -> None:
    """Drop the constraints; no row is read or written."""
    if op.get_bind().dialect.name == "sqlite":
        _of_sqlite()
        return
    for table, columns in _REFERRING.items():
        for column in columns:
            op.drop_constraint(f"{table}_{column}_fkey", table, type_="foreignkey")


def _of_sqlite() -> None:
    """SQLite's own way to take a constraint away without copying the table (sqlite.org/lang_altertable.html, section 7).

    Where the library is built not to allow it (defensive mode), the keys stay: all they do there is make work.
    """
    connection = op.get_bind()
    version = connection.exec_driver_sql("PRAGMA schema_version").scalar_one()
    connection.exec_driver_sql("PRAGMA writable_schema = ON")
    try:
        _rewrite(connection)
        connection.exec_driver_sql(f"PRAGMA schema_version = {version + 1}")
    except sa.exc.OperationalError as error:
        if "may not be modified" not in str(error.orig):
            raise
    finally:
        connection.exec_driver_sql("PRAGMA writable_schema = OFF")


def _rewrite(connection: sa.Connection) -> None:
    for table, columns in _REFERRING.items():
        of_table = {"name": table}
        sql = connection.execute(sa.text("SELECT sql FROM sqlite_schema WHERE name = :name"), of_table).scalar_one()
        free, found = _CLAUSE.subn("", sql)
        if found != len(columns):
            raise RuntimeError(f"{table}: {found} foreign keys instead of {len(columns)}")
        connection.execute(sa.text("UPDATE sqlite_schema SET sql = :sql WHERE name = :name"), {**of_table, "sql": free})
