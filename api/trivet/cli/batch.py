"""To be written: trivet batch."""

import typer


def register(app: typer.Typer) -> None:
    """Add the commands."""
