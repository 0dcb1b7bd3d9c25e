"""`trivet config`: check, show, write and apply the configuration."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trivet.cli import options, output
from trivet.cli.options import Json
from trivet.cli.output import FAILED, Column, print_error, print_facts, print_line, print_table, print_whole
from trivet_tasks.config.addresses import effective_host
from trivet_tasks.config.celery_apps import CeleryAppSettings
from trivet_tasks.config.environment import ignored
from trivet_tasks.config.environment_faults import proxy_of
from trivet_tasks.config.finding import CONFIG_NAME, DATA_DIR
from trivet_tasks.config.installation_key import FILE_NAME as KEY_FILE
from trivet_tasks.config.installation_key import check_key, is_made_here, make_key_file, read_key
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.config.secret_refs import MalformedSecret, SecretRef
from trivet_tasks.config.server_urls import masked
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import ConfigError

if TYPE_CHECKING:
    from trivet.admin import Admin, Redefinition

_NOT_SET = " (not set here)"
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE")


group = typer.Typer(help="Check, show, write and apply the configuration.", no_args_is_help=True)


@group.command()
def check() -> None:
    """Check the configuration and show it as understood. Includes this machine's environment and the database.

    Exit codes: 1 when a credential is not set here, or there is no route and the broker is the embedded one, so that
    nobody else has routes; 2 when something is wrong.
    """
    from trivet_tasks.config.environment_faults import refuse

    with options.admin(required=False) as admin:
        settings, state = admin.settings, _database_state(admin)
    print_facts(
        [
            ("configuration", settings.source),
            ("found", settings.found or "no: there is no trivet.toml here or in a folder above"),
            ("database", f"{masked(settings.store_url)}{state}"),
            ("broker", "embedded, started by `trivet up`" if settings.embedded else masked(settings.broker_url)),
            ("shared state", masked(settings.redis_url)),
            ("security key", _security_key(settings)),
            *((f"Celery app {name}", _broker_of(app)) for name, app in settings.celery_apps.items()),
            *_surroundings(),
        ]
    )
    print_whole("")
    if settings.routes:
        _print_routes(settings)
    else:
        alone = "Nothing can be called." if settings.embedded else "That is right where jobs are only submitted."
        print_error(f"No route is configured. {alone} `trivet config init` proposes some.")
    refuse(settings)
    check_key(settings)
    if settings.security.key is not None and not _security_key(settings).endswith(_NOT_SET):
        read_key(settings)
    missing = [name for name, route in settings.routes.items() if _key(route.api_key).endswith(_NOT_SET)]
    if missing:
        print_error(f"Not set here: the credentials of {', '.join(missing)}.")
    if _security_key(settings).endswith(_NOT_SET):
        print_error("Not set here: [security] key. Workers need it.")
        missing.append("security")
    unset = [name for name, app in settings.celery_apps.items() if _broker_of(app).endswith(_NOT_SET)]
    if unset:
        print_error(f"Not set here: the broker of the Celery app {', '.join(unset)}. Schedulers need it.")
        missing += unset
    if missing or (settings.embedded and not settings.routes):
        raise typer.Exit(FAILED)


def _print_routes(settings: Settings) -> None:
    print_table(
        [
            Column("ROUTE"), Column("PROVIDER"), Column("REGION"), Column("HOST", spare=6), Column("KEY", spare=3),
            Column("REQUESTS/MIN", right=True, spare=2), Column("CALLS", right=True, spare=1),
            Column("RESIDENCY", spare=4), Column("COMPLIANCE", spare=5),
        ],
        [_row(name, route) for name, route in settings.routes.items()],
    )  # fmt: skip


@group.command()
def show(as_json: Json = False) -> None:
    """Print every setting as it is in effect. Secrets are shown as references, passwords as stars."""
    from trivet.config.effective import effective, effective_toml

    settings = options.settings(required=False)
    if as_json:
        output.print_json({"source": settings.source, "found": settings.found or None, **effective(settings)})
    else:
        print_whole(effective_toml(settings))


@group.command()
def init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path(CONFIG_NAME),
    force: Annotated[bool, typer.Option("--force", help="Replace the file when there is one.")] = False,
    scenario: Annotated[
        str | None,
        typer.Option(help="Write a reference set-up: aws-native, eu, multi-cloud, startup or sydney.", metavar="NAME"),
    ] = None,
) -> None:
    """Write a commented configuration. It proposes routes for the credentials found in the environment.

    With --scenario it has that set-up's routes, whatever was found, and what is missing is named. No secret is
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
    print_whole(f"{path} written.")
    _write_key(path)
    for proposal in proposals:
        state = f"proposed: {proposal.reason}" if proposal.usable else f"commented out: {proposal.reason}"
        print_whole(f"  [routes.{proposal.name}] {state}")
    print_whole("Read it through, then `trivet config check` and `trivet up`.")


@group.command()
def apply(
    places: Annotated[
        bool,
        typer.Option(
            "--places",
            help="Also redefine where routes lead. Workers with another file then take no more work of them.",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the changes without making them.")] = False,
    as_json: Json = False,
) -> None:
    """Put the figures of this file's routes in force. Use it to roll back to an earlier version.

    They count everywhere within two seconds. Where a route of this file leads elsewhere than the one that is served, it
    stays where it is, and the workers that serve it are named: with --places these take no more of its work until they are
    restarted with this file. Limits set by hand and routes that are not in the file stay.
    """
    with options.admin() as admin:
        source = admin.settings.source
        done = admin.configuration.apply(places=places, dry_run=dry_run)
    if as_json:
        redefinitions = {name: one._asdict() for name, one in done.redefinitions.items()}
        output.print_json(
            {
                "source": source,
                "applied": not dry_run,
                "changes": done.changes,
                "places": places,
                "redefinitions": redefinitions,
            }
        )
        return
    for name, changes in done.changes.items():
        print_line(f"{name}: {', '.join(changes)}")
    for name, redefinition in done.redefinitions.items():
        print_line(_redefined(name, redefinition, places=places), style="yellow")
    if not done.changes and not done.redefinitions:
        print_line("Nothing differs from what is in force.")
    elif dry_run:
        print_line("Nothing was changed: --dry-run.")
    elif done.changes:
        print_line("In force within two seconds.")


def _init_scenario(path: Path, name: str, *, force: bool) -> None:
    from trivet.config.template import scenario_file

    scenario = scenario_file(name, os.environ, Path.home())
    proposals = scenario.routes
    _write(path, scenario.text, force=force)
    print_whole(f"{path} written: {name}, {scenario.title}.")
    _write_key(path)
    for proposal in proposals:
        state = "ready" if proposal.usable else "not ready"
        print_whole(f"  [routes.{proposal.name}] {state}: {proposal.reason}")
    missing = [proposal.name for proposal in proposals if not proposal.usable]
    if missing:
        then = "no job can run" if len(missing) == len(proposals) else "jobs go to the other routes"
        text = f"Still missing on this machine: credentials or settings for {', '.join(missing)}. Until they are there, {then}."
        print_whole(text)
    print_whole("Read it through, then `trivet config check`, `trivet routes check --live` and `trivet up`.")


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
    """Make the key that signs cached answers, beside the configuration. An existing one is kept."""
    key = path.absolute().parent / DATA_DIR / KEY_FILE
    try:
        made = make_key_file(key)
    except OSError as error:
        raise ConfigError(f"{key}: the key that signs cached answers cannot be written: {error.strerror}.") from None
    if made:
        print_whole(f"{key} written: the key that signs cached answers.")


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
    """Return the place of the key that signs cached answers."""
    if settings.security.key is not None:
        return _key(settings.security.key)
    path = settings.data_dir / KEY_FILE
    if not is_made_here(settings):
        return "none; workers cache no answers"
    return str(path) if path.exists() else "made when first needed"


def _broker_of(app: CeleryAppSettings) -> str:
    return _key(SecretRef.parse(app.broker_url)) if app.is_reference else app.shown_url


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


def _database_state(admin: "Admin") -> str:
    """Return the note to print behind the database's URL."""
    state = admin.configuration.database_state()
    if state is None:
        return ""
    if state.impairment:
        return f" (does not answer now: {state.impairment})"
    prepared = "statements are prepared" if state.prepares else "nothing is prepared"
    pooled = f", through a connection pooler: {prepared}" if state.pooled else ""
    schema = f"schema {state.schema}" if state.schema else "no schema yet: run `trivet db upgrade`"
    return f" ({schema}{pooled})"


def _surroundings() -> Iterator[tuple[str, str]]:
    """Yield the proxy and certificates in force, and the variables that are set and change nothing."""
    proxies = [found for scheme in ("https", "http") if (found := proxy_of(scheme))]
    for variable, value in dict.fromkeys(proxies):
        yield "proxy", f"{masked(value)} ({variable})"
    if proxies and (direct := os.environ.get("no_proxy") or os.environ.get("NO_PROXY")):
        yield "no proxy for", direct
    for name in _CERTIFICATES:
        if path := os.environ.get(name):
            yield "certificates", f"{path} ({name})"
    if names := ignored():
        yield "ignored", f"{', '.join(names)} (docs/reference/environment.md)"


def _redefined(name: str, one: "Redefinition", *, places: bool) -> str:
    workers = ", ".join(one.workers) or "none"
    if places:
        return f"{name}: redefined. Restart the workers that served it where it was: {workers}."
    return (
        f"{name}: this file has another {', '.join(one.fields)}. It stays as it is: --places redefines it, and stops the "
        f"work of the route on: {workers}."
    )
