"""Monitor of the demo: the condition of each route and its start, the time jobs were throttled, and the speed.

A route that is limited is so until it has taken calls for a while: between two refusals its breaker opens for a moment.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from trivet.demo.ledger import Reading, RouteReading
from trivet_tasks.outcomes import Outcome
from trivet_tasks.states import RouteState

CALM_S = 1.2
"""Seconds without a limited route or throttled jobs after which that counts as over."""
PACE_S = 0.2
"""A wait for a permit that is shorter is the ordinary pace of a rate limit, not throttling."""
RATE_OVER_S = 3.0

_CAUSES: dict[str, str] = {
    Outcome.CONNECTION: "connections fail",
    Outcome.RATE_LIMITED: "429",
    Outcome.OVERLOADED: "overloaded",
    Outcome.SERVER_ERROR: "server errors",
    Outcome.TIMEOUT: "timeouts",
    Outcome.INCOMPLETE: "answers are cut",
    Outcome.UNUSABLE: "the account is refused",
}
"""Words for the outcome that begins a breaker's cause."""

SETTLED_S = 1.0
"""Age in seconds at which a line of the journal is printed for good: by then the jobs it moved are counted."""


@dataclass(slots=True)
class Line:
    """One thing that happened, `at_s` seconds into the run. `who` is `demo` or `trivet`."""

    at_s: float
    who: str
    text: str
    moved: int = 0
    """Jobs that failed over because of it; grows while it lasts."""

    def __str__(self) -> str:
        jobs = "1 job" if self.moved == 1 else f"{self.moved:,} jobs"
        return self.text + (f" → {jobs} failed over" if self.moved else "")


class Journal:
    """All lines so far, oldest first."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self._printed = 0

    def add(self, at_s: float, who: str, text: str) -> Line:
        """Write a line; the caller may go on counting in it."""
        line = Line(at_s, who, text)
        self.lines.append(line)
        return line

    @property
    def all_printed(self) -> bool:
        """True if `unprinted` has handed out every line."""
        return self._printed == len(self.lines)

    def unprinted(self, now_s: float) -> Iterator[Line]:
        """The lines not handed out here before that have settled by now."""
        while self._printed < len(self.lines) and self.lines[self._printed].at_s <= now_s - SETTLED_S:
            self._printed += 1
            yield self.lines[self._printed - 1]


@dataclass(slots=True)
class Condition:
    """The condition of a route: `healthy`, `limited` or `open`, and since when on the monotonic clock."""

    word: str
    since: float
    seen: float
    """Time at which it was last seen so; a route stays limited for `CALM_S` longer."""
    left_before: int = 0
    line: Line | None = None


@dataclass(slots=True)
class _Spell:
    """A time of throttling: its line, and when it was last seen."""

    line: Line
    throttled_before_s: float
    seen: float


class ConditionMonitor:
    """Takes the readings in their order and keeps the facts that a person wants to see."""

    def __init__(self, journal: Journal, began: float) -> None:
        self.conditions: dict[str, Condition] = {}
        self.throttled_s = 0.0
        """Seconds during which jobs waited and no route had a permit to give: each was open, limited by its provider,
        or out of its own minute limits. Measured from the readings: when one finds jobs waiting and the next permit of
        any route at least `PACE_S` away, the time until that permit counts, at most until the next reading."""
        self.throttled = False
        """True if jobs were throttled at the last reading."""
        self._journal = journal
        self._began = began
        self._before: Reading | None = None
        self._spell: _Spell | None = None
        self._ended: deque[tuple[float, int]] = deque()

    @property
    def per_s(self) -> float:
        """Jobs that ended per second, over the last few."""
        if len(self._ended) < 2:
            return 0.0
        (first, before), (last, now) = self._ended[0], self._ended[-1]
        return (now - before) / (last - first)

    def update(self, reading: Reading) -> None:
        """Take the next reading."""
        for name, route in reading.routes.items():
            self._update_route(name, route, reading.at)
        self._throttling(reading)
        self._ended.append((reading.at, reading.progress.ended))
        while self._ended[0][0] < reading.at - RATE_OVER_S:
            self._ended.popleft()
        self._before = reading

    def _update_route(self, name: str, route: RouteReading, now: float) -> None:
        before = self.conditions.get(name)
        seen: str = RouteState.OPEN if route.breaker.shut else route.breaker.state
        if before is None:
            before = self.conditions[name] = Condition(RouteState.HEALTHY, self._began, now)
        if seen == RouteState.HEALTHY and before.word == RouteState.LIMITED and now - before.seen < CALM_S:
            seen = "healthy for a moment"
        elif seen == before.word:
            before.seen = now
        else:
            self.conditions[name] = self._changed(name, before, seen, route, now)
        condition = self.conditions[name]
        if condition.line is not None:
            condition.line.moved = route.tally.left - condition.left_before

    def _changed(self, name: str, before: Condition, word: str, route: RouteReading, now: float) -> Condition:
        at_s = now - self._began
        if word == RouteState.HEALTHY:
            ended = before.seen if before.word == RouteState.LIMITED else now
            self._journal.add(at_s, "trivet", f"{name} healthy again after {ended - before.since:.1f} s")
            return Condition(word, now, now)
        outcome, _, said = route.breaker.cause.partition(":")
        text = f"{name} {word}: {_CAUSES.get(outcome, said.strip()[:60] or outcome)}"
        left = self._before.routes[name].tally.left if self._before and name in self._before.routes else 0
        return Condition(word, now, now, left, self._journal.add(at_s, "trivet", text))

    def _throttling(self, reading: Reading) -> None:
        before = self._before
        if before is not None and _throttled(before):
            self.throttled_s += min(before.next_permit_s(), reading.at - before.at)
        self.throttled = _throttled(reading)
        if self.throttled and self._spell is None:
            text = f"throttled: no route takes calls, {reading.progress.waiting:,} jobs wait"
            line = self._journal.add(reading.at - self._began, "trivet", text)
            self._spell = _Spell(line, self.throttled_s, reading.at)
        if self._spell is not None:
            if self.throttled:
                self._spell.seen = reading.at
            elif reading.at - self._spell.seen >= CALM_S:
                lasted_s = self.throttled_s - self._spell.throttled_before_s
                self._spell.line.text += f" ({lasted_s:.1f} s)"
                self._spell = None


def _throttled(reading: Reading) -> bool:
    return reading.progress.waiting > 0 and reading.next_permit_s() >= PACE_S


@dataclass(frozen=True, slots=True)
class State:
    """All there is to show. `elapsed_s` counts from the first submit; `submitted` are jobs accepted so far."""

    elapsed_s: float
    jobs: int
    submitted: int
    reading: Reading | None
    watch: ConditionMonitor
    journal: Journal
