"""Requests as a command is given them: a prompt, a JSON file, a JSON Lines file, tags."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from trivet.cli.progress import bar
from trivet_tasks.errors import InvalidRequest
from trivet_tasks.requests.request_json import read_json

if TYPE_CHECKING:
    from trivet_tasks.config.settings import Settings
    from trivet_tasks.jobs import JobSpec
    from trivet_tasks.requests.jsonl import FileCheck


def read_prompt(given: str | None) -> str | None:
    """Return the prompt; `-` stands for standard input. InvalidRequest when that is not text."""
    if given != "-":
        return given
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"prompt: standard input is not UTF-8 text (byte {error.start}).", field="prompt"
        ) from None


def read_request(path: Path) -> dict[str, Any]:
    """Return the request in a JSON file. InvalidRequest when there is none."""
    try:
        request = read_json(path.read_bytes())
    except OSError as error:
        raise InvalidRequest(f"{path}: cannot be read: {error.strerror}.") from None
    except InvalidRequest as error:
        raise InvalidRequest(f"{path}: {error.message}", field=error.field) from None
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(
            f"{path}: is not JSON: {error.msg} in line {error.lineno}, column {error.colno}."
        ) from None
    if not isinstance(request, dict):
        raise InvalidRequest(f"{path}: must hold one request as a JSON object.")
    return request


def read_tags(given: list[str] | None) -> dict[str, str] | None:
    """Return `name=value` pairs as a request has them. InvalidRequest when one has no `=`."""
    tags: dict[str, str] = {}
    for pair in given or ():
        name, equals, value = pair.partition("=")
        if not equals:
            raise InvalidRequest(f"--tag: {pair!r} must read name=value.", field="tags")
        tags[name.strip()] = value.strip()
    return tags or None


def check_with_bar(
    file: Path,
    settings: "Settings",
    defaults: dict[str, Any],
    *,
    now: float,
    skip_bad: bool,
    each: "Callable[[JobSpec], None] | None" = None,
) -> "FileCheck":
    """Check a JSON Lines file of requests whole, with a bar on a terminal; see `check_file`.

    Args:
        defaults: laid under every request.
        now: seconds since the epoch.
        skip_bad: leave bad lines out instead of refusing the file.
        each: called with every good request.

    Raises:
        InvalidRequest: the file cannot be read, or some of its lines are bad; names the options that could fix them.
    """
    from trivet_tasks.requests.jsonl import check_file

    try:
        with bar(f"Checking {file.name}", 0, unit="jobs") as advance:

            def tell(rows: int, share: float) -> None:
                advance(rows, about=round(rows / share))

            check = check_file(file, settings, defaults, now=now, skip_bad=skip_bad, tell=tell, each=each)
            tell(check.rows, 1.0)
            return check
    except InvalidRequest as error:
        for field in ("model", "max_tokens"):
            if any(problem.message.startswith(f"{field}: is missing") for problem in error.problems):
                error.hint += f"\n--{field.replace('_', '-')} gives one to all lines that lack it."
        raise
