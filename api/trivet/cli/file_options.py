"""Options that take a file, or `-` for standard output."""

from itertools import pairwise
from typing import Any

import typer
from typer.core import TyperGroup

_FILES = ("--csv", "--html")


class FileOptions(TyperGroup):
    """Refuses --csv and --html without a file, and says what may stand there; else the next option would be the file."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Check the files before the options are read."""
        for name, value in pairwise([*args, ""]):
            if name in _FILES and (not value or value.startswith("--")):
                raise typer.BadParameter(f"{name}: the file is missing. Name one, or - to print it.")
        return super().parse_args(ctx, args)
