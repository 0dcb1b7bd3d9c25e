"""`trivet keys`: keys of the HTTP gateway: creating, listing, rotating and revoking them."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trivet.cli import options, output
from trivet.cli.options import Json
from trivet.cli.output import Cell, Column, print_error, print_line, print_table, print_whole
from trivet.times import ago, iso, moment
from trivet_tasks.gateway_keys import KeyTerms, shown_prefix
from trivet_tasks.states import KeyState

if TYPE_CHECKING:
    from trivet.admin import GatewayKey, NewKey

_STYLES = {
    KeyState.ACTIVE: "green",
    KeyState.REPLACED: "yellow",
    KeyState.EXPIRED: "red",
    KeyState.REVOKED: "dim",
}
Name = Annotated[str, typer.Argument(help="The key's name.", show_default=False)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the key and nothing else.")]

group = typer.Typer(no_args_is_help=True, help="Keys of the HTTP gateway: create, list, rotate, revoke them.")


@group.command()
def create(
    name: Name,
    tenant: Annotated[str | None, typer.Option(help="Tenant of all its jobs. Not given: they have none.")] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", "--tags", help="Tag of all its jobs, as name=value; repeatable.")
    ] = None,
    latency: Annotated[
        list[str] | None,
        typer.Option(
            "--class", "--classes", help="Latency class that it may use; repeatable, or with commas. Default: all."
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", "--models", help="Model or pattern (claude-haiku-*) that it may use; likewise. Default: all."
        ),
    ] = None,
    residency: Annotated[
        list[str] | None, typer.Option(help="Residency that all its jobs need; repeatable, or with commas.")
    ] = None,
    compliance: Annotated[list[str] | None, typer.Option(help="Compliance that all its jobs need; likewise.")] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Limit on its spending, as 20/day or 500/month (USD), or the name of one of the [[budgets]]."
        ),
    ] = None,
    requests_per_minute: Annotated[
        int | None, typer.Option(help="Limit on its requests a minute, over all gateway processes.")
    ] = None,
    admin: Annotated[
        bool, typer.Option("--admin", help="It sees the jobs of all tenants, and may use the gateway's operations.")
    ] = False,
    expires: Annotated[str | None, typer.Option(help="Time after which it expires: 90d, 12h. Default: never.")] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Create a key and print it. This is the only time: it is stored as a hash."""
    lives_s = None if expires is None else options.age_s("--expires", expires)
    with options.admin() as operations:
        made = operations.keys.create(
            name,
            tenant=tenant,
            tags=options.read_tags(tag),
            classes=_listed(latency),
            models=_listed(model),
            residency=_listed(residency),
            compliance=_listed(compliance),
            budget=budget,
            requests_per_minute=requests_per_minute,
            admin=admin,
            lives_s=lives_s,
        )
    _print_new(made, quiet=quiet, as_json=as_json)


@group.command("list")
def list_(
    every: Annotated[bool, typer.Option("--all", help="Revoked and expired keys, too.")] = False,
    as_json: Json = False,
) -> None:
    """Keys with their limits, last use and state. A key itself is never shown again: only how it begins."""
    with options.admin() as operations:
        found = operations.keys.list()
    keys = [key for key in found.keys if every or key.state(found.now) in (KeyState.ACTIVE, KeyState.REPLACED)]
    if as_json:
        shown = [_as_object(key, found.now) for key in keys]
        output.print_json({"keys": shown, "missing_budgets": sorted(found.missing_budgets), "now": iso(found.now)})
    elif not keys:
        hidden = " `--all` shows those that were." if found.keys else ""
        print_line(f"There is no key that works: `trivet keys create NAME` makes one.{hidden}")
    else:
        _print(keys, found.now, found.missing_budgets)


@group.command()
def rotate(
    name: Name,
    grace: Annotated[str, typer.Option(help="Time for which the old secret works, too: 1h, 7d; 0s for none.")] = "1h",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Give a key a new secret and print it. Tenant, limits and budget stay."""
    grace_s = options.age_s("--grace", grace)
    with options.admin() as operations:
        made = operations.keys.rotate(name, grace_s=grace_s)
    _print_new(made, quiet=quiet, as_json=as_json)


@group.command()
def revoke(name: Name, as_json: Json = False) -> None:
    """Revoke a key: gateways refuse it within 5 s. Its jobs go on, within its budget, which goes with the last of them."""
    with options.admin() as operations:
        changed = operations.keys.revoke(name)
    if as_json:
        output.print_json({"name": name, "changed": changed})
    else:
        print_line(f"{name} {'is revoked; gateways refuse it within 5 s' if changed else 'was revoked before'}.")


def _listed(given: list[str] | None) -> list[str]:
    """Return the values of an option that may be repeated, or hold several with commas between."""
    return [one.strip() for part in given or () for one in part.split(",") if one.strip()]


def _print_new(made: "NewKey", *, quiet: bool, as_json: bool) -> None:
    key, old = made.key, made.replaces
    if as_json:
        replaced = None if old is None else _as_object(old, key.created_at)
        output.print_json({"key": made.token.text, **_as_object(key, key.created_at), "replaces": replaced})
        return
    if not quiet:
        print_error(f"The key {key.name}. Keep it now: it is not shown again.")
        if old is not None:
            works = old.expires_at is not None and old.expires_at > key.created_at
            until = f"works until {moment(old.expires_at)}" if works else "is refused within 5 s"
            print_error(f"The old one ({shown_prefix(old.id)}) {until}.")
    print_whole(made.token.text)


def _print(keys: "list[GatewayKey]", now: float, missing: Collection[str]) -> None:
    print_table(
        [
            Column("NAME"), Column("KEY"), Column("STATE"), Column("TENANT", optional=True), Column("MAY", cut=True),
            Column("BUDGET", optional=True), Column("PER MINUTE", right=True, optional=True), Column("LAST USED"),
            Column("EXPIRES", optional=True, spare=1), Column("CREATED", spare=2), Column("BY", spare=3),
        ],
        [_row(key, now, missing) for key in keys],
    )  # fmt: skip


def _row(key: "GatewayKey", now: float, missing: Collection[str]) -> list[Cell]:
    from rich.text import Text

    state, terms = key.state(now), key.terms
    used = "never" if key.last_used_at is None else f"{ago(now - key.last_used_at)} ago"
    budget: Cell = terms.budget or ""
    if terms.budget in missing and state in (KeyState.ACTIVE, KeyState.REPLACED):
        budget = Text(f"{terms.budget} (not known: refused)", style="red")
    return [
        key.name, shown_prefix(key.id), Text(state, style=_STYLES[state]), terms.tenant or "", _permissions(terms),
        budget, f"{terms.requests_per_minute:,}" if terms.requests_per_minute else "", used,
        moment(key.expires_at), moment(key.created_at), key.created_by,
    ]  # fmt: skip


def _permissions(terms: KeyTerms) -> str:
    """Return what a key may do and what it fixes: `batch, deferred; claude-haiku-*; in eu; team=search`."""
    parts = [
        "admin" if terms.admin else "",
        ", ".join(one.value for one in terms.classes),
        ", ".join(terms.models),
        f"in {', '.join(terms.residency)}" if terms.residency else "",
        f"under {', '.join(terms.compliance)}" if terms.compliance else "",
        ", ".join(f"{name}={value}" for name, value in terms.tags.items()),
    ]
    return "; ".join(part for part in parts if part) or "all"


def _as_object(key: "GatewayKey", now: float) -> dict[str, Any]:
    """Return a key as JSON has it, without its digest; times are in ISO 8601, UTC."""
    terms = key.terms
    times = {name: getattr(key, name) for name in ("created_at", "expires_at", "revoked_at", "last_used_at")}
    return {
        "name": key.name,
        "id": key.id,
        "prefix": shown_prefix(key.id),
        "state": key.state(now).value,
        "tenant": terms.tenant,
        "tags": dict(terms.tags),
        "classes": [one.value for one in terms.classes],
        "models": list(terms.models),
        "residency": list(terms.residency),
        "compliance": list(terms.compliance),
        "budget": terms.budget,
        "requests_per_minute": terms.requests_per_minute,
        "admin": terms.admin,
        "created_by": key.created_by,
        "replaced_by": key.replaced_by,
        **{name: None if at is None else iso(at) for name, at in times.items()},
    }
