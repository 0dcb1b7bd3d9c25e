"""To be written: trivet routes."""

import typer


def register(app: typer.Typer) -> None:
    """Add the commands."""
