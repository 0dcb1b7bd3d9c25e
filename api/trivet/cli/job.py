"""To be written: trivet job."""

import typer


def register(app: typer.Typer) -> None:
    """Add the commands."""
