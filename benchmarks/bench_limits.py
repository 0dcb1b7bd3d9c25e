"""Share of three routes' limits that four workers use, and how often they overrun them.

    make bench-limits [JOBS=10000] [LIMITS="--part requests"]

Two parts, one after the other, on the same running Trivet. In the first the jobs are small, so that requests bind; in
the second they are large, so that input tokens bind. The simulator enforces the limits: on the Anthropic wire as a token
bucket, on those of Bedrock and Vertex as a rolling minute. All figures come from its call log. Exit code 1 when a job
was lost or a goal was missed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from limit_figures import Phase, RouteFigures, of_calls, phases
from rich.console import Console
from rich.table import Table
from running import Running, machine, running, save

from trivet import ResultTimeout
from trivet_simulator.calls import Call

ROUTES = {"anthropic": "anthropic", "bedrock-us-east-1": "bedrock", "vertex-global": "vertex"}
"""Provider of each route."""
MODEL = "claude-haiku-4-5"
MAX_TOKENS = 64
GOAL_REFUSED = 0.001
GOAL_USED = 0.95
CHARS_PER_TOKEN = 4
"""As the simulator counts; see `trivet_simulator.answers`."""
WORDS = "the river keeps a slow account of every stone that it has carried past the harbour wall "
SIMULATOR = ("--latency-median", "0.3", "--latency-p95", "0.9", "--seed", "1")
PROGRESS_S = 30.0


@dataclass(frozen=True, slots=True)
class Part:
    """Jobs of one size."""

    name: str
    jobs: int
    tokens: int
    """Input tokens of each, roughly."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of a part."""

    part: Part
    submitted: int
    by_status: dict[str, int]
    seconds: float
    steady_s: float
    total: RouteFigures
    routes: dict[str, RouteFigures]

    @property
    def lost(self) -> int:
        """Jobs that reached no end."""
        return self.submitted - sum(self.by_status.values())

    @property
    def good(self) -> bool:
        """Every goal was reached."""
        all_there = self.by_status.get("succeeded") == self.submitted
        return all_there and self.total.refused_share < GOAL_REFUSED and self.total.used_share >= GOAL_USED


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    made.add_argument("--jobs", type=int, default=10_000, help="of both parts together (default 10000)")
    made.add_argument("--workers", type=int, default=4, help="bulk worker processes (default 4)")
    made.add_argument("--requests", type=int, default=600, help="a minute and route (default 600)")
    made.add_argument("--tokens", type=int, default=300_000, help="input tokens a minute and route (default 300000)")
    made.add_argument("--large", type=int, default=1_000, help="input tokens of a large job (default 1000)")
    made.add_argument("--part", choices=("requests", "tokens"), action="append", help="only this part")
    return made


def parts(arguments: argparse.Namespace) -> list[Part]:
    """Six in ten jobs are small, four large; all are of one kind when only one part is asked for."""
    chosen = arguments.part or ("requests", "tokens")
    small = round(arguments.jobs * 0.6) if "tokens" in chosen else arguments.jobs
    large = arguments.jobs - small if "requests" in chosen else arguments.jobs
    all_parts = [Part("requests", small, 100), Part("tokens", large, arguments.large)]
    return [part for part in all_parts if part.name in chosen]


def requests_of(part: Part) -> Iterator[dict[str, str]]:
    """The part's requests, each a little different."""
    text = WORDS * (part.tokens * CHARS_PER_TOKEN // len(WORDS))
    return ({"prompt": f"Page {number}: {text}"} for number in range(part.jobs))


def run_part(trivet: Running, part: Part, arguments: argparse.Namespace, console: Console) -> Outcome:
    """Submit the part, wait for its last job, and read the simulator's log of it."""
    control = trivet.simulator
    before = {call.request_id for call in control.iter_calls()}
    name = f"{part.name}-{time.time_ns()}"
    batch = trivet.client.submit_many(requests_of(part), name=name, model=MODEL, max_tokens=MAX_TOKENS)
    patience = (
        time.monotonic()
        + 120
        + 3
        * part.jobs
        * max(60 / (len(ROUTES) * arguments.requests), 60 * part.tokens / (len(ROUTES) * arguments.tokens))
    )
    while time.monotonic() < patience:
        try:
            batch.wait(timeout=PROGRESS_S)
            break
        except ResultTimeout:
            console.print(f"[dim]{part.name}: {batch.progress().ended} of {part.jobs} jobs done[/]")
    progress = batch.progress()
    ended = {state: getattr(progress, state) for state in ("succeeded", "failed", "expired", "cancelled")}
    calls = [call for call in control.iter_calls() if call.request_id not in before]
    return _outcome(part, {state: count for state, count in ended.items() if count}, calls, arguments)


def _outcome(part: Part, by_status: dict[str, int], calls: list[Call], arguments: argparse.Namespace) -> Outcome:
    whole, steady = phases(calls, part.jobs)
    limits = {"requests": arguments.requests, "tokens": arguments.tokens}
    routes = {
        route: of_calls([call for call in calls if call.provider == provider], whole, steady, **limits)
        for route, provider in ROUTES.items()
    }
    total = of_calls(calls, whole, steady, **limits, routes=len(ROUTES))
    return Outcome(part, part.jobs, by_status, _seconds(whole), _seconds(steady), total, routes)


def _seconds(phase: Phase) -> float:
    return phase.end - phase.start


def table(outcome: Outcome) -> Table:
    """A part, route by route."""
    part = outcome.part
    made = Table(
        title=f"{part.jobs} jobs of about {part.tokens} input tokens: {part.name} bind ({outcome.seconds:.0f} s)",
        title_justify="left",
    )
    for title in ("", "calls", "429", "429 share", "other", "used, steady", "used, whole run", "busiest minute"):
        made.add_column(title, justify="right" if title else "left")
    for name, row in (*outcome.routes.items(), ("all", outcome.total)):
        made.add_row(
            name,
            str(row.calls),
            str(row.refused),
            f"{row.refused_share:.2%}",
            str(row.other),
            f"{row.used_share:.1%}",
            f"{row.used_share_whole:.1%}",
            str(row.busiest_minute),
            end_section=name == "vertex-global",
        )
    return made


def main() -> int:
    """Run, print, save."""
    arguments = parser().parse_args()
    console = Console(width=max(120, Console().width))
    route_limits = {"requests_per_minute": arguments.requests, "input_tokens_per_minute": arguments.tokens}
    console.print(
        f"{arguments.jobs} jobs, {arguments.workers} worker processes; each of {len(ROUTES)} routes allows "
        f"{arguments.requests} requests and {arguments.tokens} input tokens a minute"
    )
    outcomes = []
    with running(
        workers=arguments.workers,
        simulator=SIMULATOR,
        route_settings=dict.fromkeys(ROUTES, route_limits),
    ) as trivet:
        for provider in ROUTES.values():
            trivet.simulator.limits(provider, **route_limits)
        for part in parts(arguments):
            outcomes.append(run_part(trivet, part, arguments, console))
            console.print(table(outcomes[-1]))
    calls = sum(outcome.total.calls for outcome in outcomes)
    refused = sum(outcome.total.refused for outcome in outcomes)
    lost = sum(outcome.lost for outcome in outcomes)
    statuses = sum((Counter(outcome.by_status) for outcome in outcomes), Counter())
    used = ", ".join(f"{outcome.total.used_share:.1%} ({outcome.part.name})" for outcome in outcomes)
    console.print(
        f"{calls} calls, {refused} of them 429 ({refused / calls:.3%}, goal under {GOAL_REFUSED:.1%}); "
        f"used in the steady phase: {used}, goal {GOAL_USED:.0%}; jobs lost: {lost}; "
        + ", ".join(f"{count} {status}" for status, count in statuses.items())
    )
    path = save(
        "limits",
        {
            "machine": machine(),
            "options": {key: value for key, value in vars(arguments).items() if value is not None},
            "parts": [asdict(outcome) for outcome in outcomes],
        },
    )
    console.print(f"[dim]{path}[/]")
    return 0 if all(outcome.good for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
