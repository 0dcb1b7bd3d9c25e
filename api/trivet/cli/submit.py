"""To be written: trivet submit."""

import typer


def register(app: typer.Typer) -> None:
    """Add the commands."""
