"""`trivet db`: the schema of the database, and keeping house in it."""

from typing import Annotated

import typer

from trivet.cli import context, db_prune
from trivet.cli.progress import spinner

_JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="The schema of the database, and keeping house in it.", no_args_is_help=True)
    group.command()(upgrade)
    group.command()(version)
    group.command()(db_prune.prune)
    app.add_typer(group, name="db")


def upgrade(as_json: _JSON = False) -> None:
    """Bring the database to the schema this Trivet works with; a new database is filled. Workers may run meanwhile."""
    from trivet_store.database.engine import Store
    from trivet_store.migrations import schema_version

    store = Store.of(context.settings())
    try:
        with spinner("Upgrading: waiting for a moment at which nobody holds the tables"):
            before, after = schema_version.upgrade(store)
    finally:
        store.close()
    if as_json:
        context.print_json({"database": store.shown_url, "before": before, "after": after})
    else:
        # one line whatever the width of the terminal: people grep for it
        context.out.print(f"{store.shown_url}: {_named(before)} → {after}", markup=False, soft_wrap=True)


def version(as_json: _JSON = False) -> None:
    """Print the schema the database has, and the one this Trivet works with."""
    from trivet_store.database.engine import Store
    from trivet_store.migrations import schema_version

    store = Store.of(context.settings())
    try:
        missing = store.path is not None and not store.path.exists()  # looking must not create it
        now = None if missing else schema_version.version(store)
    finally:
        store.close()
    if as_json:
        context.print_json({"database": store.shown_url, "version": now, "newest": schema_version.NEWEST})
        return
    context.out.print(
        f"{store.shown_url}: {_named(now)}{_advice(now, schema_version.NEWEST)}", markup=False, soft_wrap=True
    )


def _named(version: str | None) -> str:
    return version or "no schema"


def _advice(now: str | None, newest: str) -> str:
    if now == newest:
        return ", the newest"
    if now is not None and now > newest:
        return f", newer than this Trivet, which works with {newest}: install the newer Trivet"
    return f"; this Trivet works with {newest}: run `trivet db upgrade`"
