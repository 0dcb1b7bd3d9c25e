"""Options: those before the sub-command and the settings they lead to, common ones, and values as people type them."""

import logging
import re
import sys
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from trivet.periods import period as period
from trivet.periods import since as since
from trivet_tasks.config.settings import Settings, load_settings
from trivet_tasks.errors import ConfigError, InvalidRequest
from trivet_tasks.requests.request_json import read_json
from trivet_tasks.spans import span_s

if TYPE_CHECKING:
    from trivet.admin import Admin
    from trivet.client.client import Client

DEFAULT_SINCE = "30d"
_COUNT = re.compile(r"(\d+(?:\.\d+)?)([kmbg]?)")
_TIMES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9}
_SHARE = re.compile(r"(\d*\.?\d+)\s*(%?)")
_MAX_DIGITS = 30

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
JsonExact = Annotated[bool, typer.Option("--json", help="Print JSON; amounts are strings, exact.")]
Since = Annotated[str, typer.Option(help="7d, 24h, 30m, or a moment in ISO 8601 (UTC where it names no zone).")]
Until = Annotated[str | None, typer.Option(help="The end, as for --since; that moment is not in it.")]

Cache = Annotated[
    bool | None,
    typer.Option(
        "--cache/--no-cache",
        help="Whether an earlier answer to an equal request may be used. Default: [cache] enabled.",
        show_default=False,
    ),
]
WithRequest = Annotated[
    bool, typer.Option("--with-request", help="With the request, prompt and all; null once it was pruned.")
]

_config: Path | None = None


class Dedupe(StrEnum):
    """Scope of the keys of a batch, wider than the batch itself."""

    TENANT = "tenant"


def set_up(config: Path | None, *, verbose: bool) -> None:
    """Keep the options given before the sub-command."""
    global _config
    _config = config
    if verbose:
        logging.getLogger().setLevel(logging.INFO)


def config_option() -> Path | None:
    """Return the file named with `--config`, if any."""
    return _config


def settings(*, required: bool = True) -> Settings:
    """Return the settings of this run. ConfigError when they are wrong, or required and not there."""
    return load_settings(_config, required=required)


def client() -> "Client":
    """Return a client with the settings of this run."""
    from trivet.client.client import Client

    return Client(settings=settings())


def admin(*, required: bool = True) -> "Admin":
    """Return an operations API with the settings of this run (`settings`)."""
    from trivet.admin import Admin

    return Admin(settings=settings(required=required))


def named_routes(settings: Settings, names: Iterable[str]) -> list[str]:
    """Return the names of configured routes, each once; all routes where none is named.

    Raises:
        ConfigError: one is not configured, or none is.
    """
    if not settings.routes:
        raise ConfigError(f"{settings.source}: no route is configured.", hint="`trivet config init` proposes some.")
    named = list(dict.fromkeys(names))
    for name in named:
        if name not in settings.routes:
            near = get_close_matches(name, settings.routes, n=1, cutoff=0.5)
            hint = f"Did you mean {near[0]}?" if near else f"Configured: {', '.join(settings.routes)}."
            raise ConfigError(f"{settings.source}: no route is called {name!r}.", hint=hint)
    return named or list(settings.routes)


def span_or_moment(given: str | None) -> float | str | None:
    """Return a `deadline` or `not_before` as a request has it: a span as seconds, anything else as it is."""
    if given is None:
        return None
    seconds = span_s(given)
    return given if seconds is None else seconds


def age_s(option: str, given: str) -> float:
    """Return the seconds of an age such as `30d`. Its unit must be named: a deletion must not depend on a guess.

    Raises:
        InvalidRequest: it is not a span, or a number without a unit.
    """
    seconds = span_s(given)
    if seconds is None or given.strip()[-1].isdigit():
        fault = "is not a span of time." if seconds is None else "needs a unit: days, hours, minutes?"
        raise wrong(option, f"{given!r} {fault}", "Use 30d, 12h, 90m or 90s.")
    return seconds


Timeout = Annotated[str | None, typer.Option(help="Wait at most this long: seconds, or 90s, 10m, 24h.", metavar="TIME")]


def timeout_s(given: str | None) -> float | None:
    """Return the seconds of `--timeout`; a number without a unit is seconds. None: no limit.

    Raises:
        InvalidRequest: it is not a span.
    """
    seconds = None if given is None else span_s(given)
    if given is not None and seconds is None:
        raise wrong("--timeout", f"{given!r} is not a span of time.", "Use seconds, or 90s, 10m, 24h.")
    return seconds


def count(option: str, given: str, *, above: int = 0) -> Decimal:
    """Return a number such as `10M`, `2.5k`, `1_000` or `1,000`, which must be above `above`.

    Raises:
        InvalidRequest: it is not one, or not above it.
    """
    found = _COUNT.fullmatch(given.strip().lower().replace("_", "").replace(",", ""))
    number = Decimal(found[1]) * _TIMES[found[2]] if found and len(given) <= _MAX_DIGITS else None
    if number is None:
        raise wrong(option, f"{given!r} is not a number.", "Use 2000, 2k, 10M or 1.5B.")
    if number <= above:
        raise wrong(option, f"must be above {above}, is {given}.")
    return number


def share(option: str, given: str) -> Decimal:
    """Return a part of a whole, from 0 to 1: `0.6` or `60%`.

    Raises:
        InvalidRequest: it is not one.
    """
    found = _SHARE.fullmatch(given.strip())
    part = Decimal(found[1]) / (100 if found[2] else 1) if found and len(given) <= _MAX_DIGITS else None
    if part is None or part > 1:
        raise wrong(option, f"{given!r} is not a share.", "Use a number from 0 to 1, or per cent: 0.6 or 60%.")
    return part


def amount_usd(option: str, given: str) -> Decimal:
    """Return an amount of USD such as `25`, `$0.50` or `1,000`. Its bounds are checked where it is used.

    Raises:
        InvalidRequest: it is not a number.
    """
    try:
        return Decimal(given.removeprefix("$").replace(",", ""))
    except InvalidOperation:
        hint = f"Write it as in {option} 25 or {option} 0.50."
        raise wrong(option, f"{given!r} is not an amount of USD.", hint) from None


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


def stem_of(path: Path) -> str:
    """Return the name of a file without its ending; without `.jsonl.gz` of a compressed one."""
    return Path(path.stem).stem if path.suffix.lower() == ".gz" else path.stem


def read_tags(given: list[str] | None) -> dict[str, str] | None:
    """Return `name=value` pairs as a request has them. InvalidRequest when one has no `=`."""
    tags: dict[str, str] = {}
    for pair in given or ():
        name, equals, value = pair.partition("=")
        if not equals:
            raise InvalidRequest(f"--tag: {pair!r} must read name=value.", field="tags")
        tags[name.strip()] = value.strip()
    return tags or None


def wrong(option: str, message: str, hint: str = "") -> InvalidRequest:
    """Return the error about an option's value; its field is the option's name as in Python."""
    field = option.partition(":")[0].lstrip("-").replace("-", "_")
    return InvalidRequest(f"{option}: {message}", field=field, hint=hint)
