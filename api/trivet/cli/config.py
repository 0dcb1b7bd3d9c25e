"""`trivet config`: check, show, write and apply the configuration."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from trivet.cli import config_apply, context
from trivet_tasks.config.installation_key import FILE_NAME as KEY_FILE
from trivet_tasks.config.installation_key import check_key, make_key_file, read_key
from trivet_tasks.config.route_hosts import effective_host
from trivet_tasks.config.route_settings import RouteCosts, RouteSettings
from trivet_tasks.config.route_windows import window_at
from trivet_tasks.config.secret_refs import MalformedSecret, SecretRef
from trivet_tasks.config.settings import CONFIG_NAME, DATA_DIR, Settings
from trivet_tasks.errors import ConfigError
from trivet_tasks.urls import masked

_NOT_SET = " (not set here)"
_SHOWN_APART = ("api_key", "admin_api_key", "environment", "costs", "windows")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="Check, show, write and apply the configuration.", no_args_is_help=True)
    group.command()(check)
    group.command()(show)
    group.command()(init)
    config_apply.register(group)
    app.add_typer(group, name="config")


def check() -> None:
    """Read the configuration and say what was understood, with this machine's environment and the database.

    Exit codes: 1 when a credential is not set here, 2 when something is wrong.
    """
    from trivet.cli.config_surroundings import database_state, print_surroundings
    from trivet_tasks.config.environment_faults import refuse

    settings = context.settings()
    state = database_state(settings)
    for name, value in (
        ("configuration", settings.source),
        ("database", f"{masked(settings.store_url)}{state}"),
        ("broker", "embedded, started by `trivet up`" if settings.embedded else masked(settings.broker_url)),
        ("shared state", masked(settings.redis_url)),
        ("security key", _security_key(settings)),
    ):
        context.out.print(f"{name:<14} {value}", markup=False, soft_wrap=True)
    print_surroundings()
    context.out.print()
    if settings.routes:
        _print_routes(settings)
    else:
        context.out.print("No route is configured: `trivet config init` proposes some.")
    refuse(settings)
    check_key(settings)
    if settings.security.key is not None and not _security_key(settings).endswith(_NOT_SET):
        read_key(settings)
    missing = [name for name, route in settings.routes.items() if _key(route.api_key).endswith(_NOT_SET)]
    if missing:
        context.err.print(f"Not set here: the credentials of {', '.join(missing)}.", markup=False, soft_wrap=True)
    if _security_key(settings).endswith(_NOT_SET):
        context.err.print("Not set here: [security] key. Workers need it.", markup=False, soft_wrap=True)
        missing.append("security")
    if missing:
        raise typer.Exit(1)


def _print_routes(settings: Settings) -> None:
    from trivet.cli.tables import Column, print_table

    print_table(
        [
            Column("ROUTE"), Column("PROVIDER"), Column("REGION"), Column("HOST", spare=6), Column("KEY", spare=3),
            Column("REQUESTS/MIN", right=True, spare=2), Column("CALLS", right=True, spare=1),
            Column("RESIDENCY", spare=4), Column("COMPLIANCE", spare=5),
        ],
        [_row(name, route) for name, route in settings.routes.items()],
    )  # fmt: skip


def show(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Print every setting as it is in effect. Secrets are shown as references, passwords as stars."""
    settings = context.settings()
    effective = _effective(settings)
    if as_json:
        context.print_json({"source": settings.source, **effective})
        return
    lines = [f"# read from {settings.source}"]
    for table, values in _tables(effective):
        lines += [
            "",
            f"[{table}]",
            *(f"{key} = {_toml(value)}" for key, value in values.items() if key != "window_now"),
        ]
        if "windows" in values:
            lines.append(f"# window now: {values.get('window_now', 'none')}")
    context.out.print("\n".join(lines), markup=False, soft_wrap=True)


def init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path(CONFIG_NAME),
    force: Annotated[bool, typer.Option("--force", help="Replace the file when there is one.")] = False,
    scenario: Annotated[
        str | None,
        typer.Option(help="Write a reference set-up: aws-native, multi-cloud, startup or sydney.", metavar="NAME"),
    ] = None,
) -> None:
    """Write a commented configuration that proposes routes for the credentials found in the environment.

    With --scenario it has that set-up's routes, whatever was found, and what is still missing is said. No secret is
    written, and no job is sent: a route is used once `trivet up` or a worker reads the file.
    """
    if path.is_dir():
        path = path / CONFIG_NAME
    if scenario is not None:
        _init_scenario(path, scenario, force=force)
        return
    from trivet.config.template import found_credentials, template

    proposals = found_credentials(os.environ, Path.home())
    _write(path, template(proposals), force=force)
    context.out.print(f"{path} written.", markup=False, soft_wrap=True)
    _write_key(path)
    for proposal in proposals:
        state = f"proposed: {proposal.reason}" if proposal.usable else f"commented out: {proposal.reason}"
        context.out.print(f"  [routes.{proposal.name}] {state}", markup=False, soft_wrap=True)
    context.out.print("Read it through, then `trivet config check` and `trivet up`.")


def _init_scenario(path: Path, name: str, *, force: bool) -> None:
    from trivet.config.scenario_file import scenario_file

    scenario = scenario_file(name, os.environ, Path.home())
    proposals = scenario.routes
    _write(path, scenario.text, force=force)
    context.out.print(f"{path} written: {name}, {scenario.title}.", markup=False, soft_wrap=True)
    _write_key(path)
    for proposal in proposals:
        state = "ready" if proposal.usable else "not ready"
        context.out.print(f"  [routes.{proposal.name}] {state}: {proposal.reason}", markup=False, soft_wrap=True)
    missing = [proposal.name for proposal in proposals if not proposal.usable]
    if missing:
        then = "no job can run" if len(missing) == len(proposals) else "jobs go to the other routes"
        text = f"Still missing on this machine: credentials or settings for {', '.join(missing)}. Until they are there, {then}."
        context.out.print(text, markup=False, soft_wrap=True)
    context.out.print(
        "Read it through, then `trivet config check`, `trivet routes check --live` and `trivet up`.", soft_wrap=True
    )


def _write(path: Path, text: str, *, force: bool) -> None:
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(
            f"{path}: is there already.", hint="Use --force to replace it, or name another file."
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}.") from None


def _write_key(path: Path) -> None:
    """Make the key that signs cached answers, beside the configuration. One that is there stays."""
    key = path.absolute().parent / DATA_DIR / KEY_FILE
    try:
        made = make_key_file(key)
    except OSError as error:
        raise ConfigError(f"{key}: the key that signs cached answers cannot be written: {error.strerror}.") from None
    if made:
        context.out.print(f"{key} written: the key that signs cached answers.", markup=False, soft_wrap=True)


def _row(name: str, route: RouteSettings) -> tuple[str, ...]:
    return (
        name,
        route.provider if route.endpoint == "invoke" else f"{route.provider}, {route.endpoint}",
        route.region or "",
        effective_host(route),
        _key(route.api_key),
        "no limit" if route.requests_per_minute is None else f"{route.requests_per_minute:,}",
        f"{route.max_concurrency:,}",
        ", ".join(route.residency),
        ", ".join(route.compliance),
    )


def _security_key(settings: Settings) -> str:
    """Say where the key is that signs cached answers."""
    if settings.security.key is not None:
        return _key(settings.security.key)
    path = settings.data_dir / KEY_FILE
    return str(path) if path.exists() else "made when first needed"


def _key(reference: SecretRef | None) -> str:
    if reference is None:
        return "the provider's own chain"
    try:
        reference.resolve()
    except MalformedSecret:
        return f"{reference} (no key)"
    except ConfigError:
        return f"{reference}{_NOT_SET}"
    return str(reference)


def _effective(settings: Settings) -> dict[str, Any]:
    """All settings, JSON-ready and without a secret; the URLs as they are used."""
    return {
        "store": {**settings.store.model_dump(mode="json"), "url": masked(settings.store_url)},
        "broker": {"url": masked(settings.broker_url)},
        "redis": {"url": masked(settings.redis_url)},
        "security": {"key": str(settings.security.key or "")},
        **settings.model_dump(mode="json", include={"health", "leases", "worker", "dispatch", "classes"}),
        "routes": {name: _route(route) for name, route in settings.routes.items()},
        **({"budgets": [budget.definition() for budget in settings.budgets]} if settings.budgets else {}),
    }


def _route(route: RouteSettings) -> dict[str, Any]:
    declared = {"costs": route.costs.model_dump(mode="json")} if route.costs != RouteCosts() else {}
    windows = [window.model_dump(mode="json") for window in route.windows]
    return {
        **route.model_dump(mode="json", exclude={*_SHOWN_APART}),
        **declared,
        **({"windows": windows, "window_now": _window_now(route)} if windows else {}),
        "base_url": masked(route.base_url),
        **({"environment": True} if route.environment else {}),
        "api_key": "" if route.api_key is None else str(route.api_key),
        **({} if route.admin_api_key is None else {"admin_api_key": str(route.admin_api_key)}),
    }


def _window_now(route: RouteSettings) -> str | None:
    """The window that holds at this moment, by this machine's clock."""
    held = window_at(route.windows, time.time())
    return str(held) if held else None


def _tables(effective: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The tables of TOML by their names; a setting without a value is left out."""
    for section, values in effective.items():
        if isinstance(values, list):
            yield from ((f"[{section}]", entry) for entry in values)
            continue
        nested = values if section in ("classes", "routes") else {"": values}
        for name, table in nested.items():
            yield f"{section}.{name}".rstrip("."), {key: value for key, value in table.items() if value is not None}


def _toml(value: object) -> str:
    """A value of TOML: JSON's form, but for tables."""
    if isinstance(value, Mapping):
        pairs = (f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items() if item is not None)
        return "{ " + ", ".join(pairs) + " }" if value else "{}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)
