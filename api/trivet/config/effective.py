"""Settings as they are in effect: references in place of secrets, stars in place of passwords."""

import json
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

from trivet_tasks.config.route_settings import RouteCosts, RouteSettings
from trivet_tasks.config.route_windows import window_at
from trivet_tasks.config.server_urls import masked
from trivet_tasks.config.settings import Settings

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SECTIONS_APART = ("store", "broker", "redis", "security", "routes", "budgets", "celery_apps", "schedules")
_SHOWN_APART = ("api_key", "admin_api_key", "environment", "costs", "prices", "windows")


def effective(settings: Settings) -> dict[str, Any]:
    """Return all settings, JSON-ready and without a secret; the URLs as they are used."""
    return {
        "store": {**settings.store.model_dump(mode="json"), "url": masked(settings.store_url)},
        "broker": {"url": masked(settings.broker_url)},
        "redis": {"url": masked(settings.redis_url)},
        "security": {"key": str(settings.security.key or "")},
        **settings.model_dump(mode="json", exclude={*_SECTIONS_APART}),
        "routes": {name: _route(route) for name, route in settings.routes.items()},
        **({"celery_apps": _celery_apps(settings)} if settings.celery_apps else {}),
        **({"budgets": [budget.definition() for budget in settings.budgets]} if settings.budgets else {}),
        **({"schedules": [one.definition() for one in settings.schedules]} if settings.schedules else {}),
    }


def _celery_apps(settings: Settings) -> dict[str, dict[str, Any]]:
    """Return the applications of the user. Options of their transports may hold passwords: only names are shown."""
    return {
        name: {
            "broker_url": app.shown_url,
            "broker_transport_options": dict.fromkeys(sorted(app.broker_transport_options), "***"),
        }
        for name, app in settings.celery_apps.items()
    }


def _route(route: RouteSettings) -> dict[str, Any]:
    declared = {"costs": route.costs.model_dump(mode="json")} if route.costs != RouteCosts() else {}
    prices = [price.model_dump(mode="json", exclude_none=True) for price in route.prices]
    windows = [window.model_dump(mode="json") for window in route.windows]
    return {
        **route.model_dump(mode="json", exclude={*_SHOWN_APART}),
        **declared,
        **({"prices": prices} if prices else {}),
        **({"windows": windows, "window_now": _window_now(route)} if windows else {}),
        "base_url": masked(route.base_url),
        **({"environment": True} if route.environment else {}),
        "api_key": "" if route.api_key is None else str(route.api_key),
        **({} if route.admin_api_key is None else {"admin_api_key": str(route.admin_api_key)}),
    }


def _window_now(route: RouteSettings) -> str | None:
    """Return the window that holds at this moment, by this machine's clock."""
    held = window_at(route.windows, time.time())
    return str(held) if held else None


def effective_toml(settings: Settings) -> str:
    """Return the same as TOML, with a comment that names its source."""
    lines = [f"# read from {settings.source}{f' ({settings.found})' if settings.found else ''}"]
    for table, values in _tables(effective(settings)):
        lines += table_lines(table, {key: value for key, value in values.items() if key != "window_now"})
        if "windows" in values:
            lines.append(f"# window now: {values.get('window_now', 'none')}")
    return "\n".join(lines)


def table_lines(heading: str, values: Mapping[str, Any]) -> list[str]:
    """Return one table of TOML after an empty line. The heading of an element of an array of tables is `[NAME]`."""
    return ["", f"[{heading}]", *(f"{key} = {_toml(value)}" for key, value in values.items())]


def toml_key(name: str) -> str:
    """Return a key as TOML writes it: quoted where it holds a dot or another special character."""
    return name if _PLAIN_KEY.fullmatch(name) else json.dumps(name)


def _tables(settings: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the tables of TOML by their names; a setting without a value is left out."""
    for section, values in settings.items():
        if isinstance(values, list):
            yield from ((f"[{section}]", entry) for entry in values)
            continue
        nested = values if section in ("classes", "routes", "celery_apps") else {"": values}
        for name, table in nested.items():
            heading = f"{section}.{toml_key(name)}" if name else section
            yield heading, {key: value for key, value in table.items() if value is not None}


def _toml(value: object) -> str:
    """Return a value as TOML writes it: JSON's form, but for tables."""
    if isinstance(value, Mapping):
        pairs = (f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items() if item is not None)
        return "{ " + ", ".join(pairs) + " }" if value else "{}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)
