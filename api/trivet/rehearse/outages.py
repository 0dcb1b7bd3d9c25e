"""Outages to rehearse: reading `ROUTE=10m@5m:529`, and applying them to the simulator at their times."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trivet.local.local_simulator import own_provider
from trivet_simulator import Control
from trivet_simulator.catalogue import REPLIES
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.errors import InvalidRequest
from trivet_tasks.spans import span_s

HANG = "timeout"
"""Kind of outage in which a provider takes calls and never answers."""
FAULTS: Mapping[str, str | None] = {
    "down": None,
    "429": "rate_limited",
    "500": "server_error",
    "503": "unavailable",
    "529": "overloaded",
    HANG: "hang",
}
"""Kinds of outages, with the fault that the simulator plays; `down` closes the port: connections are refused."""
_FORM = re.compile(r"(?P<name>[^=]+)=(?P<lasts>[^@:]+)(?:@(?P<starts>[^:]+))?(?::(?P<kind>.*))?")
_HINT = "Write it as ROUTE=10m, ROUTE=10m@5m to begin after 5 minutes, or ROUTE=10m@5m:529 for another kind."


@dataclass(frozen=True, slots=True)
class Outage:
    """The outage of one route. Times are seconds of the rehearsed time."""

    route: str
    lasts_s: float
    starts_s: float | None
    """Start, counted from the first job; None: after a tenth of the planned time."""
    kind: str = "down"
    """One of `FAULTS`."""

    def within(self, planned_s: float) -> "Outage":
        """Return the outage with its start, for a run that is planned to take so many seconds."""
        starts_s = planned_s / 10 if self.starts_s is None else self.starts_s
        return Outage(self.route, self.lasts_s, starts_s, self.kind)

    @property
    def ends_s(self) -> float:
        """End of an outage whose start is known."""
        return (self.starts_s or 0.0) + self.lasts_s


def read_outages(given: Sequence[str], routes: Mapping[str, RouteSettings]) -> list[Outage]:
    """Return the outages of `--outage` options; the name of a provider stands for all its routes.

        read_outages(["bedrock=10m:529"], settings.routes)

    Raises:
        InvalidRequest: one is not of the form, or names no route.
    """
    return [outage for text in given for outage in _read(text, routes)]


def _read(text: str, routes: Mapping[str, RouteSettings]) -> list[Outage]:
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise _wrong(f"{text!r} is not an outage.", _HINT)
    name, kind = found["name"].strip(), "down" if found["kind"] is None else found["kind"].strip()
    if kind not in FAULTS:
        raise _wrong(f"{kind!r} is not a kind of outage.", f"Use {', '.join(FAULTS)}.")
    lasts_s = _seconds(found["lasts"], text)
    starts_s = None if found["starts"] is None else _seconds(found["starts"], text)
    if not lasts_s:
        raise _wrong(f"{text!r} lasts no time.", _HINT)
    named = [name] if name in routes else [one for one, route in routes.items() if route.provider == name]
    if not named:
        raise _wrong(f"no route or provider is called {name!r}.", f"Routes: {', '.join(routes)}.")
    return [Outage(one, lasts_s, starts_s, kind) for one in named]


def _seconds(text: str, whole: str) -> float:
    seconds = span_s(text)
    if seconds is None:
        raise _wrong(f"{whole!r}: {text!r} is not a span of time.", _HINT)
    if seconds and text.strip()[-1].isdigit():
        raise _wrong(f"{whole!r}: {text!r} needs a unit: minutes, hours?", _HINT)
    return seconds


def _wrong(message: str, hint: str) -> InvalidRequest:
    return InvalidRequest(f"--outage: {message}", field="outage", hint=hint)


class OutagePlayer:
    """Plays outages on a simulator whose routes have providers of their own."""

    def __init__(
        self, control: Control, outages: Sequence[Outage], *, speed: float = 1.0, wires: Mapping[str, str] | None = None
    ) -> None:
        """Take outages whose starts are known.

        Args:
            speed: rehearsed seconds in a second, for the time that a limited provider says to wait.
            wires: by route, its wire in the simulator.
        """
        self._control = control
        self._speed = speed
        self._wires = wires or {}
        self._ahead = sorted(outages, key=lambda one: one.starts_s or 0.0)
        self._active: list[Outage] = []

    @property
    def active(self) -> tuple[Outage, ...]:
        """The outages under way."""
        return tuple(self._active)

    @property
    def over(self) -> bool:
        """True if no outage is under way or ahead."""
        return not self._ahead and not self._active

    def play(self, now_s: float) -> None:
        """Begin and end what is due at this moment of the rehearsed time."""
        due = [one for one in self._active if one.ends_s <= now_s]
        begun = [one for one in self._ahead if (one.starts_s or 0.0) <= now_s]
        self._ahead = self._ahead[len(begun) :]
        self._active = [one for one in (*self._active, *begun) if one not in due]
        for route in dict.fromkeys(one.route for one in (*due, *begun)):
            self._set(route)

    def _set(self, route: str) -> None:
        """Show the faults of a route's active outages: several may overlap."""
        provider, kinds = own_provider(route), [one.kind for one in self._active if one.route == route]
        self._control.down(provider) if "down" in kinds else self._control.up(provider)
        faults = [self._fault(fault, self._wires.get(route, "")) for kind in kinds if (fault := FAULTS[kind])]
        self._control.faults(provider, faults)

    def _fault(self, kind: str, wire: str) -> dict[str, object]:
        row = REPLIES.get(kind)
        reply = row.on(wire) if row and wire else None
        if reply is None or reply.retry_after_s is None:
            return {"kind": kind}
        return {"kind": kind, "retry_after_s": reply.retry_after_s / self._speed, "retry_after_as": "float"}
