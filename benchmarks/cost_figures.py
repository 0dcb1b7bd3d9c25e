"""The figures of the benchmark of cost: one turn of a set-up, what several turns come to, and the goals."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

WORKER_GOAL = {"sqlite": 1.25, "postgres": 1.4}
"""CPU of the worker, as a multiple of the bare loop's."""
WHOLE_GOAL = 1.8
"""CPU of all processes but the simulator, likewise."""
ENQUEUE_GOAL = 15.0
"""`submit_many` as a multiple of a `.delay()` loop."""
REALTIME_GOAL_MS = (15.0, 60.0)
"""Added to a direct call, at p50 and p99."""
MEMORY_GOAL_MB = 300.0
"""A worker with 1,000 calls of 40 KB in flight."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of one set-up. Times are seconds, CPU is seconds a job, memory MB."""

    setup: str
    wire: str
    round: int
    jobs: int
    cpu: dict[str, float]
    """By part: worker, scheduler, producer, broker, database."""
    jobs_per_s: float
    peak_mb: dict[str, float]
    enqueue_per_s: float | None = None
    pick_up: tuple[float, ...] = ()

    @property
    def worker_cpu(self) -> float:
        """Of the worker processes."""
        return self.cpu["worker"]

    @property
    def whole_cpu(self) -> float:
        """Of all processes but the simulator."""
        return sum(self.cpu.values())


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        """None where nobody said anything."""
        found = [value for value in values if value is not None]
        return cls(statistics.median(found), min(found), max(found)) if found else None

    def shown(self, factor: float = 1.0, digits: int = 2) -> str:
        """`1.21 (1.18-1.30)`."""
        middle, low, high = (f"{value * factor:.{digits}f}" for value in (self.median, self.low, self.high))
        return f"{middle} ({low}-{high})"


@dataclass(frozen=True, slots=True)
class Line:
    """A set-up over all its turns."""

    setup: str
    wire: str
    worker_cpu: Spread
    whole_cpu: Spread
    worker_ratio: Spread | None
    whole_ratio: Spread | None
    parts: dict[str, float]
    """Median CPU a job by part, in seconds."""
    jobs_per_s: Spread
    enqueue_per_s: Spread | None
    worker_mb: Spread
    pick_up: dict[str, float]
    """p50, p95 and p99 over all rounds, in seconds."""


def lines(turns: Sequence[Turn]) -> list[Line]:
    """All set-ups, in the order of their first turns; each turn set against the bare loop of its own round and wire."""
    by_setup: dict[tuple[str, str], list[Turn]] = defaultdict(list)
    for turn in turns:
        by_setup[turn.setup, turn.wire].append(turn)
    bare = {(turn.round, turn.wire): turn for turn in turns if turn.setup == "bare SDK loop"}
    return [_line(name, wire, of, bare) for (name, wire), of in by_setup.items()]


def _line(name: str, wire: str, turns: list[Turn], bare: dict[tuple[int, str], Turn]) -> Line:
    worker, whole = Spread.of(t.worker_cpu for t in turns), Spread.of(t.whole_cpu for t in turns)
    speed, memory = Spread.of(t.jobs_per_s for t in turns), Spread.of(t.peak_mb["worker"] for t in turns)
    assert worker is not None
    assert whole is not None
    assert speed is not None
    assert memory is not None
    paired = [(turn, bare.get((turn.round, wire))) for turn in turns]
    return Line(
        name,
        wire,
        worker,
        whole,
        Spread.of(t.worker_cpu / b.worker_cpu if b else None for t, b in paired),
        Spread.of(t.whole_cpu / b.worker_cpu if b else None for t, b in paired),
        {part: statistics.median(t.cpu[part] for t in turns) for part in turns[0].cpu},
        speed,
        Spread.of(t.enqueue_per_s for t in turns),
        memory,
        percentiles([value for turn in turns for value in turn.pick_up]),
    )


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99, in the values' own unit; empty where there are too few."""
    if len(values) < 2:
        return {}
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98]}


@dataclass(frozen=True, slots=True)
class Realtime:
    """Realtime jobs and direct calls between them, while a batch ran. Seconds."""

    database: str
    took: tuple[float, ...]
    direct: tuple[float, ...]
    failed: int
    batch_left: int
    """Jobs of the batch that had not ended when the last realtime one was sent."""

    @property
    def added(self) -> tuple[float, float]:
        """Time that a job takes beyond a direct call, at p50 and p99."""
        took, direct = percentiles(self.took), percentiles(self.direct)
        return took["p50"] - direct["p50"], took["p99"] - direct["p99"]


@dataclass(frozen=True, slots=True)
class Holding:
    """One worker with many large calls in flight."""

    calls: int
    characters: int
    peak_mb: float
    idle_mb: float


@dataclass(frozen=True, slots=True)
class Goal:
    """A goal, and this run's result for it."""

    what: str
    wanted: str
    found: str
    reached: bool


def goals(
    of: Sequence[Line], enqueued: Sequence[Mapping[str, float]], realtime: Sequence[Realtime], holding: Holding | None
) -> list[Goal]:
    """Each goal that this run can say something of.

    Args:
        enqueued: by round, jobs handed over a second: `delay`, `SQLite`, `PostgreSQL`.
    """
    found: list[Goal] = []
    for line in of:
        database = "sqlite" if "SQLite" in line.setup else "postgres" if "PostgreSQL" in line.setup else None
        if database is None:
            continue
        name = f"{line.setup}, {line.wire}"
        if line.worker_ratio and line.whole_ratio:
            limit = WORKER_GOAL[database]
            worker, whole = line.worker_ratio, line.whole_ratio
            found.append(Goal(f"{name}: worker CPU / bare loop", f"<= {limit}", worker.shown(), worker.median <= limit))
            found.append(
                Goal(f"{name}: all CPU / bare loop", f"<= {WHOLE_GOAL}", whole.shown(), whole.median <= WHOLE_GOAL)
            )
    for database in ("SQLite", "PostgreSQL"):
        ratio = Spread.of(one[database] / one["delay"] for one in enqueued)
        if ratio:
            rate = Spread.of(one[database] for one in enqueued)
            assert rate is not None
            found.append(
                Goal(
                    f"submit_many on {database} / .delay() in a loop",
                    f">= {ENQUEUE_GOAL:.0f}",
                    f"{ratio.shown(digits=1)}; {rate.median:.0f} jobs a second",
                    ratio.median >= ENQUEUE_GOAL,
                )
            )
    for one in realtime:
        added = [value * 1000 for value in one.added]
        good = all(value <= limit for value, limit in zip(added, REALTIME_GOAL_MS, strict=True)) and not one.failed
        found.append(
            Goal(
                f"realtime on {one.database}: added at p50, p99",
                f"<= {REALTIME_GOAL_MS[0]:.0f} ms, {REALTIME_GOAL_MS[1]:.0f} ms",
                f"{added[0]:.1f} ms, {added[1]:.1f} ms; {one.failed} failed of {len(one.took) + one.failed}",
                good,
            )
        )
    if holding:
        found.append(
            Goal(
                f"{holding.calls} calls of {holding.characters // 1000} KB in flight in one worker: peak RSS",
                f"<= {MEMORY_GOAL_MB:.0f} MB",
                f"{holding.peak_mb:.0f} MB (idle {holding.idle_mb:.0f})",
                holding.peak_mb <= MEMORY_GOAL_MB,
            )
        )
    return found


def as_document(
    turns: Sequence[Turn],
    of: Sequence[Line],
    enqueued: Sequence[Mapping[str, float]],
    realtime: Sequence[Realtime],
    holding: Holding | None,
) -> dict[str, Any]:
    """For the JSON of the run."""
    return {
        "lines": [asdict(line) for line in of],
        "goals": [asdict(goal) for goal in goals(of, enqueued, realtime, holding)],
        "enqueued_per_s": list(enqueued),
        "realtime": [{**asdict(one), "added": one.added} for one in realtime],
        "holding": asdict(holding) if holding else None,
        "turns": [asdict(turn) for turn in turns],
    }
