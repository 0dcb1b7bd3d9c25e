"""To be written: trivet bulk."""

import typer


def register(app: typer.Typer) -> None:
    """Add the commands."""
