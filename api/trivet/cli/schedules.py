"""`trivet schedules`: recurring work, its next times and last runs; running, pausing and resuming one."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from trivet.cli import options, output
from trivet.cli.options import Json
from trivet.cli.output import Cell, Column, print_line, print_table
from trivet.times import ago, iso, moment, zone_moment
from trivet_tasks.states import RunState

if TYPE_CHECKING:
    from trivet.admin import Run, Schedule, ScheduleList

_STYLES = {
    RunState.DONE: "green",
    RunState.FAILED: "red",
    RunState.WAITING: "yellow",
    RunState.RUNNING: "",
    RunState.SUPERSEDED: "dim",
}
Name = Annotated[str, typer.Argument(help="The schedule's name.", show_default=False)]

group = typer.Typer()


@group.callback(invoke_without_command=True)
def schedules(asked: typer.Context, as_json: Json = False) -> None:
    """Recurring work: the next time of each schedule, and its last run with its result, batch and error."""
    if asked.invoked_subcommand is not None:
        if as_json:
            raise typer.BadParameter("options come after the sub-command.")
        return
    with options.admin() as admin:
        found = admin.schedules.list()
    if as_json:
        output.print_json({"schedules": [_as_object(one) for one in found.schedules], "now": iso(found.now)})
    elif not found.schedules:
        print_line("There is no schedule: [[schedules]] in the configuration of the schedulers makes one.")
    else:
        _print(found)


@group.command()
def runs(
    name: Name,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="Maximum number of runs.")] = 20,
    as_json: Json = False,
) -> None:
    """The latest runs of a schedule, the newest first."""
    with options.admin() as admin:
        found = admin.schedules.runs(name, limit)
    if as_json:
        output.print_json([_run_object(run) for run in found])
    elif not found:
        print_line(f"{name} has not run yet.")
    else:
        print_table(
            [
                Column("PLANNED"), Column("STATE"), Column("BEGAN", spare=2), Column("ENDED", spare=1),
                Column("BATCH", optional=True), Column("BY", spare=3, optional=True), Column("RESULT", cut=True),
            ],
            [
                [
                    moment(run.planned_at), _state(run), moment(run.started_at), moment(run.done_at), run.batch or "",
                    run.asked_by or "", _said(run),
                ]
                for run in found
            ],
        )  # fmt: skip


@group.command()
def run(name: Name, as_json: Json = False) -> None:
    """Run a schedule now, once, also a paused or disabled one. A scheduler begins within a second or so."""
    with options.admin() as admin:
        found = admin.schedules.run(name)
    if as_json:
        output.print_json(_run_object(found))
    else:
        print_line(f"{name} runs as soon as a scheduler takes it. Progress: trivet schedules runs {name}")


@group.command()
def pause(name: Name, as_json: Json = False) -> None:
    """Let a schedule be due at no time until it is resumed, over restarts too. Runs that have begun go on."""
    with options.admin() as admin:
        changed = admin.schedules.pause(name)
    _report(name, changed, "is paused" if changed else "was paused before", as_json=as_json, paused=True)


@group.command()
def resume(name: Name, as_json: Json = False) -> None:
    """Let a paused schedule be due again, from its next time on."""
    with options.admin() as admin:
        changed = admin.schedules.resume(name)
    _report(name, changed, "is due again" if changed else "was not paused", as_json=as_json, paused=False)


def _report(name: str, changed: bool, said: str, *, as_json: bool, paused: bool) -> None:
    if as_json:
        output.print_json({"name": name, "changed": changed, "paused": paused})
    else:
        print_line(f"{name} {said}.")


def _print(found: "ScheduleList") -> None:
    print_table(
        [
            Column("SCHEDULE"), Column("WORK", cut=True), Column("CRONTAB", spare=2), Column("NEXT"),
            Column("NEXT UTC", spare=1), Column("LAST"), Column("STATE"), Column("BATCH", optional=True, spare=3),
            Column("RESULT", cut=True),
        ],
        [_row(one, found.now) for one in found.schedules],
    )  # fmt: skip


def _row(one: "Schedule", now: float) -> list[Cell]:
    last = one.last
    planned = "" if last is None else f"{ago(now - last.planned_at)} ago"
    state: Cell = "" if last is None else _state(last)
    batch, said = ("", "") if last is None else (last.batch or "", _said(last))
    return [
        one.name, one.work, f"{one.crontab} {one.timezone}", _next_words(one),
        "" if one.paused_at is not None else moment(one.next_at), planned, state, batch, said,
    ]  # fmt: skip


def _next_words(one: "Schedule") -> Cell:
    """Return the next time in the schedule's zone: `2026-12-01 06:30 +0100`."""
    from rich.text import Text

    if one.next_at is None:
        return Text("disabled", style="dim")
    if one.paused_at is not None:
        return Text(f"paused by {one.paused_by}", style="yellow")
    return zone_moment(one.next_at, one.timezone)


def _state(run: "Run") -> Cell:
    from rich.text import Text

    return Text(run.state, style=_STYLES[run.state])


def _said(run: "Run") -> str:
    again = " It is tried again." if run.error and run.done_at is None else ""
    return f"{run.error}{again}" if run.error and not run.superseded else run.result or ""


def _as_object(one: "Schedule") -> dict[str, Any]:
    """Return a schedule as JSON has it; times are in ISO 8601, UTC."""
    last = None if one.last is None else _run_object(one.last)
    return {**one._asdict(), "next_at": _iso(one.next_at), "paused_at": _iso(one.paused_at), "last": last}


def _run_object(run: "Run") -> dict[str, Any]:
    times = {key: _iso(getattr(run, key)) for key in ("planned_at", "started_at", "done_at")}
    return {**run._asdict(), **times, "state": run.state}


def _iso(at: float | None) -> str | None:
    return None if at is None else iso(at)
