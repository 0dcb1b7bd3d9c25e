"""The `trivet` command: one module per group of commands."""

from trivet.cli.main import main, run

__all__ = ["main", "run"]
