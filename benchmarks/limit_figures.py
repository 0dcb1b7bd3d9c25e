"""Figures of a run under limits: the simulator's call log in, shares of the limits out. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trivet_simulator.calls import Call

WARM_UP_S = 60.0
"""A rolling minute says nothing before it has been a minute."""
MINUTE_S = 60.0


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of time, in seconds since the epoch, in which there was always work waiting."""

    start: float
    end: float

    @property
    def minutes(self) -> float:
        """Its length."""
        return (self.end - self.start) / MINUTE_S

    def has(self, call: Call) -> bool:
        """Return whether the call began in it."""
        return self.start <= call.started < self.end


@dataclass(frozen=True, slots=True)
class RouteFigures:
    """One route, or all together. A used share is of what the limits allow in that time, 1.0 being all."""

    calls: int
    succeeded: int
    refused: int
    """429s: the simulator's limits were in the way."""
    other: int
    """Neither answered nor refused."""
    requests_share: float
    """Successful calls in the steady phase."""
    tokens_share: float
    """Input tokens of successful calls in the steady phase."""
    requests_share_whole: float
    """Successful calls over the whole part, its beginning and its end included."""
    tokens_share_whole: float
    """Input tokens over the whole part."""
    busiest_minute: int
    """The most successful calls in any 60 seconds."""

    @property
    def refused_share(self) -> float:
        """429s of all calls."""
        return self.refused / self.calls if self.calls else 0.0

    @property
    def used_share(self) -> float:
        """Of the limit that binds, in the steady phase."""
        return max(self.requests_share, self.tokens_share)

    @property
    def used_share_whole(self) -> float:
        """Of the limit that binds, over the whole part."""
        return max(self.requests_share_whole, self.tokens_share_whole)


def phases(calls: Sequence[Call], total: int) -> tuple[Phase, Phase]:
    """The whole of a part, from its first call to its last answer, and its steady phase.

    Steady is from a minute after the first call (a quarter of the part, when it is short) until nineteen in twenty of
    its jobs have been called: after that some routes may be out of work.
    """
    begun = sorted(call.started for call in calls)
    whole = Phase(begun[0], max(call.finished or call.started for call in calls))
    late = begun[min(len(begun) - 1, int(total * 0.95))]
    warm = min(WARM_UP_S, (late - whole.start) / 4)
    return whole, Phase(whole.start + warm, late)


def of_calls(
    calls: Sequence[Call], whole: Phase, steady: Phase, *, requests: float, tokens: float, routes: int = 1
) -> RouteFigures:
    """Figures of the calls of one route, or of several whose limits add up."""
    good = [call for call in calls if call.complete]
    inside = [call for call in good if steady.has(call)]
    refused = sum(call.fault == "limit" for call in calls)
    return RouteFigures(
        calls=len(calls),
        succeeded=len(good),
        refused=refused,
        other=len(calls) - len(good) - refused,
        requests_share=_share(len(inside), requests * routes, steady),
        tokens_share=_share(_tokens(inside), tokens * routes, steady),
        requests_share_whole=_share(len(good), requests * routes, whole),
        tokens_share_whole=_share(_tokens(good), tokens * routes, whole),
        busiest_minute=_busiest_minute(good),
    )


def _share(used: float, allowed_per_minute: float, phase: Phase) -> float:
    allowed = allowed_per_minute * phase.minutes
    return used / allowed if allowed > 0 else 0.0


def _tokens(calls: Sequence[Call]) -> int:
    return sum((call.usage or {}).get("input_tokens", 0) for call in calls)


def _busiest_minute(calls: Sequence[Call]) -> int:
    begun = sorted(call.started for call in calls)
    most, first = 0, 0
    for last, moment in enumerate(begun):
        while begun[first] <= moment - MINUTE_S:
            first += 1
        most = max(most, last - first + 1)
    return most
