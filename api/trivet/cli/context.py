"""What the options before the sub-command said, and how commands print."""

import json
import logging
import sys
from dataclasses import asdict, is_dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from trivet import times
from trivet_tasks.config.settings import Settings, load_settings
from trivet_tasks.foreign_text import escaped, for_terminal

if TYPE_CHECKING:
    from trivet.admin import Admin
    from trivet.client.client import Client

out = Console(highlight=False, soft_wrap=False)
err = Console(stderr=True, highlight=False)

_config: Path | None = None

seconds = times.seconds


def set_up(config: Path | None, *, verbose: bool) -> None:
    """Keep the options that stand before the sub-command."""
    global _config
    _config = config
    if verbose:
        logging.getLogger().setLevel(logging.INFO)


def config_option() -> Path | None:
    """The file named with `--config`, if any."""
    return _config


def settings() -> Settings:
    """The settings of this run. ConfigError when they are wrong."""
    return load_settings(_config)


def client() -> "Client":
    """A client with the settings of this run."""
    from trivet.client.client import Client

    return Client(settings=settings())


def admin() -> "Admin":
    """Return an operations API with the settings of this run."""
    from trivet.admin import Admin

    return Admin(settings=settings())


def as_json(value: Any) -> str:
    """A JSON document on one line; dataclasses as objects, amounts as strings."""
    return json.dumps(value, default=_plain, ensure_ascii=False)


def shown(text: str) -> str:
    """Return a model's text as it is to be printed: as it came, but on a terminal without what would steer it."""
    return for_terminal(text) if sys.stdout.isatty() else text


def shown_json(document: str) -> str:
    """Return a JSON document as it is to be printed: on a terminal, what would steer it is escaped."""
    return escaped(document) if sys.stdout.isatty() else document


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    print(shown_json(as_json(value)))  # noqa: T201


def usd(amount: Decimal | None) -> str:
    """An amount as people read it: cents where there are any, more digits where it is small."""
    if amount is None:
        return "unpriced"
    return f"${amount:,.2f}" if amount >= 1 or amount == 0 else f"${amount:.6f}"


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, bytes):
        return value.decode()
    raise TypeError(f"{type(value).__name__} has no JSON form")
