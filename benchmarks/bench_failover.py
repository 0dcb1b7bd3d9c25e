"""Trivet and a LiteLLM Router through the same outages, at the same time, each with a simulator of its own.

    make bench-failover [FAILOVER="--repeats 3 --only hanging"]

Each contender gets the same jobs at the same rate, prefers the same first leg, and gives a call the same time. Trivet has
its default settings; what the LiteLLM setups set stands in `peers/litellm_router.py`. The figures are explained in
`failover_figures.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict

from contender import Contender, Load, Record
from failover_figures import CallRecord, Figures, figures, medians
from litellm_contender import PEER_PYTHON, LiteLlmContender, litellm_version
from outages import Outage, outages, play
from rich.console import Console
from rich.table import Table
from running import machine, save
from trivet_contender import WORKERS, TrivetContender

from trivet_simulator import Control

SETUPS = ("as-it-comes", "cooldown", "cooldown+retries", "ordered+retries")
DISTURBED_S = 0.25
"""Maximum delay of a submit: with more the contender waited for a core, and its figures are void."""
LEAD_S = 1.0
"""Between the last contender being ready and the first job."""
ROWS: tuple[tuple[str, str, str], ...] = (
    ("failed", "failed jobs", "count"),
    ("first_success_s", "outage to first success", "s"),
    ("dead_calls", "calls to what was out", "calls"),
    ("back_s", "return to first success there", "s"),
    ("longest_s", "longest job", "s"),
    ("median_s", "median job meanwhile", "s"),
    ("p99_s", "p99 job meanwhile", "s"),
    ("usual_s", "median job before", "s"),
    ("late_s", "submitted late (p95)", "s"),
)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    made.add_argument("--rate", type=float, default=5.0, help="jobs a second to each contender (default 5)")
    made.add_argument("--before", type=float, default=10.0, metavar="S", help="seconds before the outage (default 10)")
    made.add_argument("--outage", type=float, default=50.0, metavar="S", help="how long it lasts (default 50)")
    made.add_argument("--limited", type=float, default=10.0, metavar="S", help="how long all are limited (default 10)")
    made.add_argument("--after", type=float, default=60.0, metavar="S", help="seconds of jobs after it (default 60)")
    made.add_argument("--attempt-timeout", type=float, default=15.0, metavar="S", help="of one call (default 15)")
    made.add_argument("--patience", type=float, default=60.0, metavar="S", help="wait for the last jobs (default 60)")
    made.add_argument("--apart", action="store_true", help="one contender after the other (five times as long)")
    made.add_argument("--repeats", type=int, default=1, help="runs of each outage; medians are shown (default 1)")
    made.add_argument("--only", action="append", metavar="OUTAGE", help="overloaded, hanging, refused, 'all limited'")
    made.add_argument("--setup", action="append", choices=SETUPS, help="LiteLLM setups (default: all)")
    return made


def run(outage: Outage, groups: Sequence[Sequence[Contender]], load: Load, console: Console) -> dict[str, Figures]:
    """One outage for all contenders, those of a group at the same time. Returns their figures."""
    found: dict[str, Figures] = {}
    for group in groups:
        with contextlib.ExitStack() as stack:
            console.print(f"[dim]{outage.name}: starting {', '.join(one.name for one in group)}[/]")
            for one in group:
                stack.enter_context(one)
            for one in group:
                one.wait_ready()
            start = time.time() + LEAD_S
            for one in group:
                one.begin(start)
            console.print(f"[dim]{outage.name}: {load.seconds + LEAD_S:.0f} s of jobs, then the last of them[/]")
            windows = play(outage, start, {one.name: one.simulator for one in group})
            for one in group:
                record = one.collect()
                calls = _calls(one.simulator, record) if outage.logged else record.calls
                found[one.name] = figures(outage, windows[one.name], record.jobs, calls, start=start, rate=load.rate)
    return found


def _calls(simulator: Control, record: Record) -> list[CallRecord]:
    """The calls as the simulator saw them."""
    return [CallRecord(c.started, c.provider, c.attempt in record.probes) for c in simulator.calls(running=True)]


def table(outage: Outage, found: dict[str, Figures]) -> Table:
    """The contenders side by side in one outage."""
    made = Table(title=f"{outage.name}: {outage.about}, for {outage.up_s - outage.down_s:g} s", title_justify="left")
    made.add_column("")
    for name in found:
        made.add_column(name.replace(" ", "\n"), justify="right")
    for field, title, unit in ROWS:
        made.add_row(title, *(_shown(figures, field, unit) for figures in found.values()))
    return made


def _shown(row: Figures, field: str, unit: str) -> str:
    value: float = getattr(row, field)
    match unit:
        case "count":
            return f"{value:g} of {row.jobs:g}"
        case "calls" if row.dead_probes:
            return f"{value:g} ({row.dead_probes:g} probes)"
        case "calls":
            return f"{value:g}"
    if math.isinf(value):
        return "not in this run" if field in ("first_success_s", "back_s") else "no answer"
    return f"{value:.1f} s" if field != "late_s" else f"{value:.2f} s"


def main() -> int:
    """Run all and print tables. Exit code 1 when Trivet failed a job, 2 when LiteLLM is not there."""
    arguments = parser().parse_args()
    console = Console(width=max(120, Console().width))
    if not PEER_PYTHON.exists():
        console.print(f"LiteLLM is not installed in {PEER_PYTHON.parent.parent}: `make bench-failover` does that.")
        return 2
    chosen = [
        outage
        for outage in outages(arguments.before, arguments.outage, arguments.after, arguments.limited)
        if not arguments.only or outage.name in arguments.only
    ]
    setups = arguments.setup or SETUPS
    results: dict[str, list[dict[str, Figures]]] = {}
    for outage in chosen:
        load = Load(arguments.rate, outage.end_s, arguments.attempt_timeout, arguments.patience)
        runs = results[outage.name] = []
        for _ in range(arguments.repeats):
            contenders: list[Contender] = [TrivetContender(load), *(LiteLlmContender(setup, load) for setup in setups)]
            runs.append(run(outage, [[one] for one in contenders] if arguments.apart else [contenders], load, console))
        console.print(table(outage, {name: medians([one[name] for one in runs]) for name in runs[0]}))
    facts = machine(litellm=litellm_version())
    console.print(
        f"{arguments.rate:g} jobs a second to each, {'one after the other' if arguments.apart else 'all at once'}; "
        f"{arguments.repeats} run(s) of each outage. {facts['cores']} cores, Python {facts['python']}, "
        f"Trivet {facts['trivet']} with {WORKERS} worker processes, LiteLLM {facts['litellm']} with one."
    )
    late = sorted(
        {who for runs in results.values() for one in runs for who, row in one.items() if row.late_s > DISTURBED_S}
    )
    if late:
        console.print(
            f"[yellow]Not to be quoted: jobs of {', '.join(late)} were submitted late, because the machine, or it, was "
            f"too busy. Try on a quiet machine, at a lower --rate, or with --apart.[/]"
        )
    path = save(
        "failover",
        {
            "machine": facts,
            "late": late,
            "options": {key: value for key, value in vars(arguments).items() if value is not None},
            "outages": {
                name: [{who: _finite(row) for who, row in one.items()} for one in runs]
                for name, runs in results.items()
            },
        },
    )
    console.print(f"[dim]{path}[/]")
    return int(any(one["trivet"].failed for runs in results.values() for one in runs))


def _finite(row: Figures) -> dict[str, float | None]:
    """For JSON, which has no infinity."""
    return {name: None if math.isinf(value) else value for name, value in asdict(row).items()}


if __name__ == "__main__":
    sys.exit(main())
