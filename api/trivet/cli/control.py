"""`trivet batch pause|resume|priority`: holding back a batch, a tenant or a latency class, and putting it first."""

from typing import TYPE_CHECKING, Annotated

import typer

from trivet.cli import options, output
from trivet.cli.options import Json, wrong
from trivet.cli.output import print_error, print_line

if TYPE_CHECKING:
    from trivet.admin import ControlChange

NEGATIVE_NUMBERS = {"ignore_unknown_options": True}
"""Settings of a command that takes numbers such as -5."""
Name = Annotated[str | None, typer.Argument(help="The batch's name.", show_default=False)]
Tenant = Annotated[str | None, typer.Option(help="All work of this tenant instead of one batch.", show_default=False)]
Class = Annotated[
    str | None, typer.Option("--class", help="All work of this latency class instead.", show_default=False)
]


def pause(
    name: Name = None,
    tenant: Tenant = None,
    latency: Class = None,
    reason: Annotated[str, typer.Option(help="Reason, shown wherever the pause is.")] = "",
    as_json: Json = False,
) -> None:
    """Let no job of a batch, a tenant or a class begin until it is resumed, over restarts too.

    Running calls end; jobs in queues wait again within a second. New jobs are paused, too. Deadlines go on.
    """
    with options.admin() as admin:
        change = admin.controls.pause(batch=name, tenant=tenant, latency=latency, reason=reason)
    word = "is paused; what runs ends" if change.changed else "was paused before"
    if reason and not change.changed:
        word += ", and its reason is as it was: resume it first to give another"
    _print(change, word, as_json=as_json, paused=True)


def resume(name: Name = None, tenant: Tenant = None, latency: Class = None, as_json: Json = False) -> None:
    """Let paused work go on."""
    with options.admin() as admin:
        change = admin.controls.resume(batch=name, tenant=tenant, latency=latency)
    _print(change, "goes on" if change.changed else "was not paused", as_json=as_json, paused=False)


def priority(
    given: Annotated[
        list[str], typer.Argument(metavar="[NAME] N", help="The batch's name, and its priority: -10 to 10; 0: default.")
    ],
    tenant: Tenant = None,
    latency: Class = None,
    as_json: Json = False,
) -> None:
    """Dispatch a batch, or the work of a tenant or a class, before all work of lower priority.

    The priority of a job is the sum of those of its batch, its tenant and its class. Work of lower priority waits as
    long as work of higher priority can go; jobs near their deadline still get up to a fifth.
    """
    wanted = 2 if tenant is None and latency is None else 1
    if len(given) != wanted:
        raise wrong("priority", f"takes {'a batch and a number' if wanted == 2 else 'one number'}.", "See --help.")
    try:
        number = int(given[-1])
    except ValueError:
        raise wrong("priority", f"{given[-1]!r} is not a whole number.", "Use -10 to 10.") from None
    with options.admin() as admin:
        batch = given[0] if wanted == 2 else None
        change = admin.controls.prioritize(number, batch=batch, tenant=tenant, latency=latency)
    _print(change, f"has priority {number}", as_json=as_json, priority=number)


def _print(change: "ControlChange", said: str, *, as_json: bool, **state: object) -> None:
    if as_json:
        output.print_json({"kind": change.kind, "value": change.value, "changed": change.changed, **state})
    else:
        print_line(f"{change.kind} {change.value} {said}.")
    if change.idle:
        print_error(
            f"No job of the tenant {change.value} waits or runs: this is for jobs to come. Check the name if there should be.",
            style="yellow",
        )
