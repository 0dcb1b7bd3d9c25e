"""`trivet rehearse`: a file of requests through outages of providers, on this machine and on a scaled clock."""

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trivet.cli import options, output
from trivet.cli.extras import need
from trivet.cli.options import JsonExact, count, wrong
from trivet.cli.output import FAILED, print_error
from trivet.cli.progress import bar
from trivet.cli.rehearse_view import as_object, outage_words, print_report
from trivet.cli.submit import check_with_bar
from trivet.times import seconds
from trivet_tasks.errors import ConfigError, ProcessFailed
from trivet_tasks.spans import span_s

if TYPE_CHECKING:
    from trivet.rehearse.rehearsal import Moment, Rehearsal
    from trivet.rehearse.report import RehearsalReport
    from trivet_tasks.config.settings import Settings

OUTPUT_TOKENS = "300"
LONG_S = 600.0
"""Seconds of a rehearsal from which a smaller sample is proposed."""
_PATIENCE_S = 600.0
"""Rehearsed seconds beyond three times the planned time and the outages after which it is broken off."""


def rehearse(
    file: Annotated[Path, typer.Argument(help="A JSON Lines file as for `trivet bulk`; - reads standard input.")],
    outage: Annotated[
        list[str] | None,
        typer.Option(
            help="A failure: bedrock-us-east-1=10m lasts 10 minutes, from a tenth of the planned time on; @5m begins after 5 "
            "minutes; :529, :500, :503, :429 or :timeout instead of refused connections. A provider's name takes all its "
            "routes. May be repeated.",
            metavar="ROUTE=TIME[@START][:KIND]",
        ),
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Run it without the outages first, and report both.")
    ] = False,
    speed: Annotated[
        float | None,
        typer.Option(min=1, help="Rehearsed seconds in a second. Default: as many as make it last about two minutes."),
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option(min=1, help="Rehearse so many requests, spread over the file; limits shrink with them."),
    ] = None,
    limit: Annotated[
        str | None,
        typer.Option("--for", metavar="TIME", help="Break off after this rehearsed time, e.g. 2h. Default: when done."),
    ] = None,
    output_tokens: Annotated[
        str, typer.Option(help="Median tokens of an answer, if max_tokens allows them.")
    ] = OUTPUT_TOKENS,
    latency: Annotated[str | None, typer.Option(help="Latency class of the lines that name none.")] = None,
    model: Annotated[str | None, typer.Option(help="Model of the lines that name none.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Maximum tokens of the lines that do not set it.")] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave bad lines out instead of refusing the file.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, max=16, help="Number of workers.")] = 1,
    as_json: JsonExact = False,
) -> None:
    """Rehearse an outage: a file of requests through your own routes, limits and classes, with simulated providers.

    Trivet is real, and runs in a temporary folder on this machine; no call leaves it, and nothing is paid. Times are
    scaled, so that an hour takes minutes.

    Exit codes: 0 every job succeeded, 1 some failed, expired or still waited, 2 usage or configuration, 130 on Ctrl-C.
    """
    from trivet_tasks.requests.sources import readable_twice

    settings = options.settings()
    if not settings.routes:
        raise ConfigError(
            f"{settings.source}: no route is configured, so there is nothing to rehearse.",
            hint="`trivet config init` writes a file that proposes routes.",
        )
    need("trivet rehearse", "worker", "embedded")
    given = {"latency": latency, "model": model, "max_tokens": max_tokens}
    defaults = {name: value for name, value in given.items() if value is not None}
    limit_s = None if limit is None else _limit(limit)
    with readable_twice(file) as (path, name):
        rehearsal = _rehearsal(
            path, name, settings, defaults, skip_bad=skip_bad, tokens=int(count("--output-tokens", output_tokens)),
            outages=outage or [], speed=speed, sample=sample, limit_s=limit_s, workers=workers,
        )  # fmt: skip
        reports = _run_all(rehearsal, compare=compare)
    report, before = reports[-1], reports[0] if len(reports) > 1 else None
    output.print_json(as_object(report, before)) if as_json else print_report(report, before)
    if report.interrupted:
        raise typer.Exit(130)
    if not report.good:
        raise typer.Exit(FAILED)


def _rehearsal(
    path: Path,
    name: str,
    settings: "Settings",
    defaults: dict[str, Any],
    *,
    skip_bad: bool,
    tokens: int,
    outages: list[str],
    speed: float | None,
    sample: int | None,
    limit_s: float | None,
    workers: int,
) -> "Rehearsal":
    """Check the file and the options, and return what is to be run."""
    from trivet.plan.planner import Planner
    from trivet.rehearse.outages import read_outages
    from trivet.rehearse.pace import WorkplanReader, choose_speed
    from trivet.rehearse.rehearsal import Rehearsal

    asked = read_outages(outages, settings.routes)
    check, workplan = WorkplanReader(Planner(settings), tokens).read(
        lambda each: check_with_bar(path, settings, defaults, now=time.time(), skip_bad=skip_bad, each=each, name=name)
    )
    planned = tuple(one.within(workplan.planned_s) for one in asked)
    number = min(sample or workplan.requests, workplan.requests)
    last_s = max((one.ends_s for one in planned), default=0.0)
    return Rehearsal(
        settings,
        check,
        defaults,
        workplan,
        planned,
        speed=choose_speed(workplan, planned, number / workplan.requests, speed),
        sample=number,
        limit_s=3 * workplan.planned_s + last_s + _PATIENCE_S if limit_s is None else limit_s,
        workers=workers,
    )


def _limit(given: str) -> float:
    seconds_given = span_s(given)
    if not seconds_given or given.strip()[-1].isdigit():
        raise wrong("--for", f"{given!r} is not a span of time with a unit.", "Use 30m, 2h or 90s.")
    return seconds_given


def _run_all(rehearsal: "Rehearsal", *, compare: bool) -> "list[RehearsalReport]":
    """Run the rehearsal, and before it the same without outages if both are to be compared."""
    _announce(rehearsal)
    reports = []
    if compare and rehearsal.outages:
        reports.append(_run(replace(rehearsal, outages=()), "Without an outage"))
        if reports[0].interrupted:
            return reports
    return [*reports, _run(rehearsal, "Rehearsing")]


def _announce(rehearsal: "Rehearsal") -> None:
    """Say what is about to be run, and what of it would surprise."""
    workplan, speed = rehearsal.workplan, rehearsal.speed
    expected_s = max([workplan.planned_s, *(one.ends_s for one in rehearsal.outages)]) / speed
    of = f" of {workplan.requests:,}" if rehearsal.sample < workplan.requests else ""
    print_error(
        f"Rehearsing {rehearsal.sample:,}{of} requests at speed {speed:g}: planned {seconds(workplan.planned_s)}, "
        f"which is {seconds(workplan.planned_s / speed)} here."
    )
    for one in rehearsal.outages:
        print_error(f"  {outage_words(one)}")
        if one.starts_s is not None and one.starts_s > workplan.planned_s:
            print_error(f"  It begins after the planned end, {seconds(workplan.planned_s)}: it may meet no job.")
    if expected_s > LONG_S:
        fewer = max(1, int(rehearsal.sample * LONG_S / 2 / expected_s))
        print_error(
            f"This takes {seconds(expected_s)} or more. --sample {fewer} rehearses fewer requests in less time."
        )


def _run(rehearsal: "Rehearsal", title: str) -> "RehearsalReport":
    """Run one rehearsal with a bar, or lines where there is no terminal."""
    from trivet.rehearse.rehearsal import run_rehearsal

    try:
        with bar(title, rehearsal.sample, unit="jobs") as advance:

            def show(moment: "Moment") -> None:
                out = ", ".join(f"{one.route} {one.kind}" for one in moment.active)
                note = f"{seconds(moment.at_s)} rehearsed" + (f", outage: {out}" if out else "")
                advance(moment.progress.ended, note, held=f"planned {seconds(rehearsal.workplan.planned_s)}")

            return run_rehearsal(rehearsal, show, print_error)
    except ProcessFailed as error:
        print_error(f"trivet: {error}")
        raise typer.Exit(FAILED) from None
    except KeyboardInterrupt:
        print_error("Stopped before the first job.")
        raise typer.Exit(130) from None
