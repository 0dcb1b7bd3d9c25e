"""Limits that really count, the way each provider counts them.

Anthropic: token buckets that refill continuously; output tokens are counted when produced, `max_tokens` is not held.
Bedrock: a rolling minute; `max_tokens` is held up front and settled to what was used. Vertex: a rolling minute; output
is counted when produced. A gate holds one set of figures; a call must pass every gate that covers its model.
"""

from __future__ import annotations

import fnmatch
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from trivet_simulator.checks import ControlError, known, mapping, number, whole

FIGURES = ("requests_per_minute", "input_tokens_per_minute", "output_tokens_per_minute", "concurrency", "burst_s")
REQUESTS, INPUT, OUTPUT, CONCURRENCY = "requests", "input_tokens", "output_tokens", "concurrency"
COUNTED = (REQUESTS, INPUT, OUTPUT)
MINUTE_S = 60.0


@dataclass(frozen=True, slots=True)
class Figures:
    """One set of limits; None is unlimited. `burst_s`: a token bucket holds that many seconds' worth."""

    requests_per_minute: float | None = None
    input_tokens_per_minute: float | None = None
    output_tokens_per_minute: float | None = None
    concurrency: int | None = None
    burst_s: float = MINUTE_S

    def per_minute(self, what: str) -> float | None:
        """The limit a minute of requests, input_tokens or output_tokens."""
        if what == REQUESTS:
            return self.requests_per_minute
        return self.input_tokens_per_minute if what == INPUT else self.output_tokens_per_minute


@dataclass(frozen=True, slots=True)
class Rule:
    """Figures for the models that match a glob: shared by all of them, or for each by itself."""

    models: str
    figures: Figures
    each: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """Reason for which a call was not let in: the limit, its size, and the seconds until there would be room."""

    what: str
    limit: float
    wait_s: float


@dataclass(slots=True)
class Need:
    """Tokens that a call asks for: its input and its `max_tokens`; `output` becomes the number that it really used."""

    input: float
    max_output: float
    output: float = 0.0


class Gate(Protocol):
    """One set of figures being counted."""

    figures: Figures
    in_flight: int

    def refuses(self, now: float, need: Need) -> Refusal | None:
        """Return the reason for which this call may not pass now, or None."""

    def take(self, now: float, need: Need) -> object:
        """Count the call; returns what `settle` needs."""

    def settle(self, now: float, held: object, need: Need) -> None:
        """Count what the call really used."""

    def left(self, now: float, what: str) -> tuple[float, float]:
        """The rest of one limit, and the seconds until all of it is there again."""


class BucketGate:
    """Token buckets with continuous refill (Anthropic)."""

    def __init__(self, figures: Figures, now: float) -> None:
        self.figures = figures
        self.in_flight = 0
        self._rate = {w: f / MINUTE_S for w in COUNTED if (f := figures.per_minute(w)) is not None}
        self._size = {w: max(1.0, rate * figures.burst_s) if rate else 0.0 for w, rate in self._rate.items()}
        self._level = dict(self._size)
        self._at = now

    def _refill(self, now: float) -> None:
        passed, self._at = now - self._at, now
        for what, rate in self._rate.items():
            self._level[what] = min(self._size[what], self._level[what] + passed * rate)

    def refuses(self, now: float, need: Need) -> Refusal | None:
        """A call larger than a bucket passes when that bucket is full; it would never pass otherwise."""
        self._refill(now)
        for what, amount in ((REQUESTS, 1.0), (INPUT, need.input), (OUTPUT, 1.0)):
            level = self._level.get(what)
            if level is None:
                continue
            rate = self._rate[what]
            if not rate:
                return Refusal(what, 0.0, MINUTE_S)
            lacking = min(amount, self._size[what]) - level
            if lacking > 1e-9:
                return Refusal(what, rate * MINUTE_S, lacking / rate)
        return None

    def take(self, now: float, need: Need) -> object:  # noqa: ARG002 - a bucket needs no time here
        """Requests and input now; output when it is known."""
        for what, amount in ((REQUESTS, 1.0), (INPUT, need.input)):
            if what in self._level:
                self._level[what] -= amount
        return None

    def settle(self, now: float, held: object, need: Need) -> None:  # noqa: ARG002
        """Output may take the bucket below zero: the next calls pay for it by waiting."""
        self._refill(now)
        if OUTPUT in self._level:
            self._level[OUTPUT] -= need.output

    def left(self, now: float, what: str) -> tuple[float, float]:
        """Level and seconds until the bucket is full."""
        self._refill(now)
        level, rate = self._level[what], self._rate[what]
        return max(0.0, level), ((self._size[what] - level) / rate if rate else MINUTE_S)


class _Held:
    __slots__ = ("amounts", "at")

    def __init__(self, at: float, amounts: dict[str, float]) -> None:
        self.at = at
        self.amounts = amounts


class RollingGate:
    """A rolling minute (Bedrock with `hold_max`, Vertex without)."""

    def __init__(self, figures: Figures, *, hold_max: bool) -> None:
        self.figures = figures
        self.in_flight = 0
        self._hold_max = hold_max
        self._calls: deque[_Held] = deque()
        self._used = dict.fromkeys(COUNTED, 0.0)

    def _expire(self, now: float) -> None:
        calls, used = self._calls, self._used
        while calls and calls[0].at <= now - MINUTE_S:
            for what, amount in calls.popleft().amounts.items():
                used[what] -= amount

    def _wants(self, need: Need) -> dict[str, float]:
        return {REQUESTS: 1.0, INPUT: need.input, OUTPUT: need.max_output if self._hold_max else 0.0}

    def refuses(self, now: float, need: Need) -> Refusal | None:
        """Refused while the minute so far plus this call is over a limit."""
        self._expire(now)
        for what, amount in self._wants(need).items():
            limit = self.figures.per_minute(what)
            if limit is None:
                continue
            # where output is counted as it comes, a full minute refuses the next call
            over = self._used[what] + max(amount, 1.0) - limit
            if over > 1e-9:
                return Refusal(what, limit, self._room_in(now, what, over))
        return None

    def _room_in(self, now: float, what: str, over: float) -> float:
        for held in self._calls:
            over -= held.amounts[what]
            if over <= 1e-9:
                return held.at + MINUTE_S - now
        return MINUTE_S

    def take(self, now: float, need: Need) -> object:
        """Hold what the call may use."""
        held = _Held(now, self._wants(need))
        self._calls.append(held)
        for what, amount in held.amounts.items():
            self._used[what] += amount
        return held

    def settle(self, now: float, held: object, need: Need) -> None:
        """Correct the held output to what was used, unless the minute of the call is over."""
        assert isinstance(held, _Held)
        if held.at <= now - MINUTE_S:
            return
        self._used[OUTPUT] += need.output - held.amounts[OUTPUT]
        held.amounts[OUTPUT] = need.output

    def left(self, now: float, what: str) -> tuple[float, float]:
        """Return the rest of this minute, and the seconds until all of it has rolled out."""
        self._expire(now)
        limit = self.figures.per_minute(what) or 0.0
        last = self._calls[-1].at + MINUTE_S - now if self._calls else 0.0
        return max(0.0, limit - self._used[what]), last


@dataclass(slots=True)
class Ticket:
    """A call that was let in; give it back with `Limits.settle` exactly once."""

    need: Need
    held: list[tuple[Gate, object]]
    open: bool = True


class Limits:
    """All limits of one provider. `wire` decides how they are counted."""

    def __init__(self, wire: str, rules: tuple[Rule, ...] = ()) -> None:
        self._wire = wire
        self.rules = rules
        self._gates: dict[tuple[int, str], Gate] = {}

    def _gate(self, index: int, rule: Rule, model: str, now: float) -> Gate:
        key = (index, model if rule.each else "")
        gate = self._gates.get(key)
        if gate is None:
            if self._wire == "anthropic":
                gate = BucketGate(rule.figures, now)
            else:
                gate = RollingGate(rule.figures, hold_max=self._wire == "bedrock")
            self._gates[key] = gate
        return gate

    def _covering(self, model: str, now: float) -> list[Gate]:
        return [
            self._gate(i, rule, model, now)
            for i, rule in enumerate(self.rules)
            if fnmatch.fnmatchcase(model, rule.models)
        ]

    def admit(self, now: float, model: str, need: Need) -> Ticket | Refusal:
        """Let the call in through every gate, or say which limit is in the way; the longest wait wins."""
        if not self.rules:
            return Ticket(need, [])
        gates = self._covering(model, now)
        worst: Refusal | None = None
        for gate in gates:
            refusal = gate.refuses(now, need)
            limit = gate.figures.concurrency
            if refusal is None and limit is not None and gate.in_flight >= limit:
                refusal = Refusal(CONCURRENCY, limit, 1.0)
            if refusal is not None and (worst is None or refusal.wait_s > worst.wait_s):
                worst = refusal
        if worst is not None:
            return worst
        held = []
        for gate in gates:
            gate.in_flight += 1
            held.append((gate, gate.take(now, need)))
        return Ticket(need, held)

    def settle(self, now: float, ticket: Ticket, output: float) -> None:
        """The call is over and used this many output tokens. A second call does nothing."""
        if not ticket.open:
            return
        ticket.open = False
        ticket.need.output = output
        for gate, held in ticket.held:
            gate.in_flight -= 1
            gate.settle(now, held, ticket.need)

    def left(self, now: float, model: str) -> dict[str, tuple[float, float, float]]:
        """Per limited figure: limit a minute, what is left, seconds until whole; the tightest gate speaks."""
        out: dict[str, tuple[float, float, float]] = {}
        if not self.rules:
            return out
        for gate in self._covering(model, now):
            for what in COUNTED:
                limit = gate.figures.per_minute(what)
                if limit is None:
                    continue
                left, whole_in = gate.left(now, what)
                if what not in out or left < out[what][1]:
                    out[what] = (limit, left, whole_in)
        return out

    def as_json(self) -> list[dict[str, Any]]:
        """The rules as the control port shows them."""
        return [{"models": r.models, "each_model": r.each, **asdict(r.figures)} for r in self.rules]


def rules_from(document: Mapping[str, Any]) -> tuple[Rule, ...]:
    """Read limits from control input.

    Figures at the top are for the provider, or with `each_model` for each model by itself; `models` maps globs to
    figures a group of models shares. ControlError names a bad field.
    """
    known(document, (*FIGURES, "each_model", "models"))
    each = document.get("each_model", False)
    if not isinstance(each, bool):
        raise ControlError("each_model", f"must be true or false, not {each!r}")
    rules = []
    if any(document.get(name) is not None for name in FIGURES if name != "burst_s"):
        rules.append(Rule("*", _figures(document), each))
    for glob, value in mapping(document.get("models") or {}, "models").items():
        where = f"models.{glob}"
        inner = mapping(value, where)
        known(inner, FIGURES, f"{where}.")
        try:
            rules.append(Rule(glob, _figures(inner)))
        except ControlError as error:
            raise ControlError(f"{where}.{error.field}", str(error).partition(": ")[2]) from None
    return tuple(rules)


def _figures(document: Mapping[str, Any]) -> Figures:
    burst = number(document, "burst_s", high=3600, above=True)
    return Figures(
        requests_per_minute=number(document, "requests_per_minute", high=1e9),
        input_tokens_per_minute=number(document, "input_tokens_per_minute", high=1e12),
        output_tokens_per_minute=number(document, "output_tokens_per_minute", high=1e12),
        concurrency=whole(document, "concurrency", high=1_000_000),
        burst_s=MINUTE_S if burst is None else burst,
    )
