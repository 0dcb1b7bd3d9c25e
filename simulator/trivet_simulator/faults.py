"""A fault as it is set on a provider, and the book that says which one hits a call."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from email.utils import formatdate
from typing import Any

from trivet_simulator import matching
from trivet_simulator.catalogue import BEHAVIOURS, BY_STATUS, REPLIES, Reply, kinds
from trivet_simulator.checks import ControlError, known, mapping, number, text, whole
from trivet_simulator.matching import RequestFilter, filter_from

FIELDS = (
    "kind",
    *matching.FIELDS,
    "times",
    "share",
    "flap_on_s",
    "flap_off_s",
    "for_s",
    "delay_s",
    "retry_after_s",
    "retry_after_as",
    "seconds",
    "after_bytes",
    "factor",
    "status",
    "body",
    "headers",
    "megabytes",
    "tokens",
    "category",
)
REFUSAL_CATEGORIES = ("cyber", "bio", "frontier_llm", "reasoning_extraction", "general_harms")
"""Of `stop_details` (anthropic 2.12, `types/refusal_stop_details.py`)."""
RETRY_FORMS = ("seconds", "float", "date", "ms", "none")


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. `kind` is a name of the catalogue; the rest narrows it or gives its figures (seconds throughout)."""

    kind: str
    model: str | None = None
    """Only calls whose model matches this glob."""
    contains: str | None = None
    """Only requests of which a string contains this."""
    matches: str | None = None
    """Only requests of which a string has a match of this regular expression."""
    times: int | None = None
    """Only the first so many calls it would hit."""
    share: float = 1.0
    """Hits a call with this probability."""
    flap_on_s: float | None = None
    flap_off_s: float | None = None
    """Active for `flap_on_s`, then away for `flap_off_s`, and so on from the moment it is set."""
    for_s: float | None = None
    """Ends by itself after so long."""
    delay_s: float = 0.0
    """Wait before an error is answered or a connection reset."""
    retry_after_s: float | None = None
    """None: the catalogue's figure; with `for_s`, what is left of it."""
    retry_after_as: str = "seconds"
    """seconds (whole), float, date, ms (`retry-after-ms`), none."""
    seconds: float = 5.0
    """Seconds of delay of `slow_first_byte` and `slow_drip`."""
    after_bytes: int | None = None
    """Bytes of a streamed body that come before the silence of `stalled_stream`; None: half of it."""
    factor: float = 10.0
    """Factor on the time of an answer, for `latency`."""
    status: int | None = None
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    """`raw`: what to answer. Pages and floods take them too, in place of their own."""
    megabytes: float = 1024.0
    """Size of the answer of `gzip_bomb` and `huge_error`, unpacked."""
    tokens: int = 10**19
    """`absurd_tokens`: what each count says."""

    category: str | None = "general_harms"
    """`refusal`: the category of its `stop_details`."""

    @property
    def only(self) -> RequestFilter:
        """The requests that it is for."""
        return RequestFilter(self.model, self.contains, self.matches)

    def as_json(self) -> dict[str, Any]:
        """The fields as the control port shows them."""
        return asdict(self)


def fault_from(document: Mapping[str, Any], wire: str) -> Fault:
    """Read a fault for one wire from control input; `kind` may be a bare status. ControlError names a bad field."""
    known(document, FIELDS)
    kind = document.get("kind")
    if isinstance(kind, int) and not isinstance(kind, bool):
        kind = BY_STATUS[wire].get(kind, kind)
    if not isinstance(kind, str) or kind not in kinds(wire):
        if isinstance(kind, str) and kind in REPLIES:
            raise ControlError("kind", f"the {wire} wire has no {kind!r}; it has: {', '.join(kinds(wire))}")
        raise ControlError("kind", f"must be a fault of the catalogue, not {kind!r}: {', '.join(kinds(wire))}")
    status = whole(document, "status", low=200, high=999)
    if kind == "raw" and status is None:
        raise ControlError("status", "is needed for a raw fault")
    on_s, off_s = number(document, "flap_on_s", above=True), number(document, "flap_off_s", above=True)
    if (on_s is None) != (off_s is None):
        raise ControlError("flap_off_s" if off_s is None else "flap_on_s", "flap_on_s and flap_off_s come together")
    headers = mapping(document.get("headers") or {}, "headers")
    for name, value in headers.items():
        if not isinstance(value, str) or "\n" in value + name or "\r" in value + name:
            raise ControlError(f"headers.{name}", "must be a string on one line")
    share, seconds, factor = number(document, "share", high=1), number(document, "seconds"), number(document, "factor")
    megabytes, tokens = (
        number(document, "megabytes", high=65_536),
        whole(document, "tokens", low=-(2**63), high=2**64 - 1),
    )
    only = filter_from(document)
    return Fault(
        kind=kind,
        model=only.model,
        contains=only.contains,
        matches=only.matches,
        times=whole(document, "times", low=1),
        share=1.0 if share is None else share,
        flap_on_s=on_s,
        flap_off_s=off_s,
        for_s=number(document, "for_s", above=True),
        delay_s=number(document, "delay_s") or 0.0,
        retry_after_s=number(document, "retry_after_s"),
        retry_after_as=text(document, "retry_after_as", choices=RETRY_FORMS) or "seconds",
        seconds=5.0 if seconds is None else seconds,
        after_bytes=whole(document, "after_bytes", low=0, high=2**40),
        factor=10.0 if factor is None else factor,
        status=status,
        body=text(document, "body") or "",
        headers=headers,
        megabytes=1024.0 if megabytes is None else megabytes,
        tokens=10**19 if tokens is None else tokens,
        category=text(document, "category", choices=REFUSAL_CATEGORIES) or "general_harms",
    )


def retry_headers(seconds: float | None, form: str) -> dict[str, str]:
    """The header that says when to come back, in the form asked for; a date is rounded up to the next second."""
    if seconds is None or form == "none":
        return {}
    if form == "ms":
        return {"retry-after-ms": str(math.ceil(seconds * 1000))}
    if form == "float":
        return {"retry-after": f"{seconds:.3f}"}
    if form == "date":
        return {"retry-after": formatdate(math.ceil(time.time() + seconds), usegmt=True)}
    return {"retry-after": str(math.ceil(seconds))}


@dataclass(slots=True)
class _Page:
    fault: Fault
    set_at: float
    hits: int = 0

    def left_s(self, now: float) -> float | None:
        return None if self.fault.for_s is None else max(0.0, self.set_at + self.fault.for_s - now)

    def hits_now(self, model: str, document: Mapping[str, Any], now: float, rng: random.Random) -> bool:
        fault = self.fault
        if self.left_s(now) == 0.0 or (fault.times is not None and self.hits >= fault.times):
            return False
        if fault.flap_on_s is not None and fault.flap_off_s is not None:
            phase = (now - self.set_at) % (fault.flap_on_s + fault.flap_off_s)
            if phase >= fault.flap_on_s:
                return False
        if not fault.only.passes(model, document):
            return False
        return fault.share >= 1.0 or rng.random() < fault.share


@dataclass(frozen=True, slots=True)
class Hit:
    """A fault that hits a call: for an error answer its `reply` and the headers that go with it."""

    fault: Fault
    reply: Reply | None = None
    headers: dict[str, str] = field(default_factory=dict)


def hit_of(fault: Fault, wire: str, left_s: float | None = None) -> Hit:
    """The hit of a fault on a wire; `left_s` are the seconds until it ends by itself, where it does."""
    if fault.kind in BEHAVIOURS:
        return Hit(fault)
    reply = REPLIES[fault.kind].on(wire)
    assert reply is not None
    seconds = fault.retry_after_s
    if seconds is None and reply.retry_after_s is not None:
        seconds = reply.retry_after_s if left_s is None else left_s
    return Hit(fault, reply, {**retry_headers(seconds, fault.retry_after_as), **fault.headers})


class FaultBook:
    """The faults set on one provider; the first that matches hits."""

    def __init__(self, wire: str, rng: random.Random) -> None:
        self._wire = wire
        self._rng = rng
        self._pages: list[_Page] = []

    def set(self, faults: list[Fault], now: float, *, add: bool) -> None:
        """Replace what is set, or add to it."""
        self._pages = [*(self._pages if add else []), *(_Page(fault, now) for fault in faults)]

    def clear(self) -> None:
        """No faults any more."""
        self._pages = []

    def pick(self, model: str, document: Mapping[str, Any], now: float) -> Hit | None:
        """The fault that hits a call of this model with this body now, or None."""
        for page in self._pages:
            if page.hits_now(model, document, now, self._rng):
                page.hits += 1
                return hit_of(page.fault, self._wire, page.left_s(now))
        return None

    def as_json(self) -> list[dict[str, Any]]:
        """Return the faults that are set, with the number of times that each has hit."""
        return [{**page.fault.as_json(), "hits": page.hits} for page in self._pages]
