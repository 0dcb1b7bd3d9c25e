"""`trivet routes check`: compare the configuration with the accounts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from trivet.cli import options, output
from trivet.cli.options import Json, named_routes
from trivet.cli.output import FAILED, Column, print_line, print_table, print_whole
from trivet.times import seconds

if TYPE_CHECKING:
    from trivet.live_check.report import Finding, LimitRow, RouteReport

MODELS_SHOWN = 3
_STYLES = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "red"}


def check(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Routes; none: all.")] = None,
    live: Annotated[
        bool,
        typer.Option(
            "--live",
            help="Ask the accounts, too. On the Anthropic API without admin_api_key that sends one message of one token: "
            "a fraction of a cent.",
        ),
    ] = False,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Model that you use; may be repeated. Default: every model the routes may serve."),
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that one account may take.")] = 20.0,
    as_json: Json = False,
) -> None:
    """Check the settings of routes. With --live, compare them with their accounts.

    Exit codes: 0 fine (warnings allowed), 1 an error was found, 2 usage or configuration.
    """
    from trivet.live_check.report import Level
    from trivet.live_check.run import check_routes

    settings = options.settings()
    routes = {name: settings.routes[name] for name in named_routes(settings, names or ())}
    reports = check_routes(routes, models=model or (), live=live, timeout_s=timeout)
    if as_json:
        output.print_json({"live": live, "routes": [_as_object(report) for report in reports]})
    else:
        _print(reports, live=live)
    if any(report.worst is Level.ERROR for report in reports):
        raise typer.Exit(FAILED)


def _print(reports: "Sequence[RouteReport]", *, live: bool) -> None:
    from rich.text import Text

    from trivet.live_check.report import Level

    print_table(
        [
            Column("ROUTE"), Column("PROVIDER", spare=2), Column("REGION", spare=1), Column("RESULT"),
            Column("ERRORS", right=True), Column("WARNINGS", right=True), Column("NOTES", right=True, spare=4),
            Column("TOOK", right=True, spare=5, optional=True),
        ],
        [
            [
                report.route, report.provider, report.region, Text(report.worst, style=_STYLES[report.worst]),
                *(f"{report.count(level) or ''}" for level in (Level.ERROR, Level.WARNING, Level.NOTE)),
                seconds(report.took_s) if report.live else "",
            ]
            for report in reports
        ],
    )  # fmt: skip
    for report in reports:
        print_line("")
        print_line(
            Text(report.route, style="bold") + Text(f"  {report.account}" if report.account else "", style="dim")
        )
        _print_findings(report.findings)
    rows = [(report, row) for report in reports for row in report.limits]
    if rows:
        print_line("")
        _print_limits(rows)
    for report in reports:
        if report.paste:
            print_line("")
            print_line(f"For trivet.toml, in place of its limits for {report.route}:", style="bold")
            for line in report.paste.splitlines():
                print_whole(line)
    if not live:
        print_line("")
        print_line("No account was asked: --live does that.", style="dim")


def _print_findings(findings: "Sequence[Finding]") -> None:
    """Print the worst first, under the name of their level."""
    from trivet.live_check.report import Level

    for level in reversed(Level):
        group = [finding for finding in findings if finding.level is level]
        if group:
            print_line(level, style=_STYLES[level], indent=2)
        for finding in group:
            about = f"{_models(finding.models)}: " if finding.models and level is not Level.OK else ""
            print_line(f"{about}{finding.what}", indent=4)
            if level is not Level.OK:
                print_line(f"at {finding.where}", style="dim", indent=6)
            if finding.action:
                print_line(f"do: {finding.action}", indent=6)


def _print_limits(rows: "Sequence[tuple[RouteReport, LimitRow]]") -> None:
    from rich.text import Text

    print_table(
        [
            Column("ROUTE", cut=True), Column("MODELS", cut=True), Column("LIMIT"), Column("SET", right=True),
            Column("ACCOUNT", right=True), Column("RESULT", spare=1), Column("SOURCE", spare=2, cut=True),
        ],
        [
            [
                report.route, _models(row.models), _LIMITS.get(row.limit, row.limit),
                "none" if row.configured is None else f"{row.configured:,}", f"{row.account:,}",
                Text(row.level, style=_STYLES[row.level]), row.source,
            ]
            for report, row in rows
        ],
    )  # fmt: skip


_LIMITS = {
    "requests_per_minute": "req/min",
    "input_tokens_per_minute": "in/min",
    "output_tokens_per_minute": "out/min",
    "tokens_per_minute": "in+out/min",
    "tokens_per_day": "tokens/day",
}


def _models(models: Sequence[str]) -> str:
    """Return some of the names, and the number of the others."""
    more = len(models) - MODELS_SHOWN
    return ", ".join(models[:MODELS_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _as_object(report: "RouteReport") -> dict[str, object]:
    from dataclasses import asdict

    given = asdict(report)
    for finding in given["findings"]:
        del finding["settled_by"]
    return {**given, "result": report.worst, "took_s": round(report.took_s, 3)}
