"""Prefixes that requests of a file share, and the saving if the providers' prompt caches keep them.

They are found by the rule of a batch (`trivet_tasks.requests.prompt_cache.Sharing`) in groups of the size of a batch's, and
summed up by the pace at which a prefix is used, because a cache forgets what nobody reads for five minutes or an hour.
"""

import math
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Generic, Literal, NamedTuple, TypeAlias, TypeVar

import orjson

from trivet.client.submitting import GROUP_ROWS
from trivet.plan.terms import exact
from trivet_store.database.engine import BULK_BYTES
from trivet_tasks.jobs import JobSpec, Prefix
from trivet_tasks.prices.price_book import TokenPrices
from trivet_tasks.requests.prompt_cache import BYTES_PER_TOKEN, Sharing, least_tokens, prefixes_of

Keep: TypeAlias = Literal["5m", "1h"]
KEPT_S: Mapping[Keep, float] = {"5m": 300.0, "1h": 3600.0}
"""Seconds that a provider keeps a prefix after it was last used."""
MAX_TRACKED = 10_000
"""Prefixes that are followed at a time. One that comes back after so many others counts as a new one: the saving is then
rather too low."""
_PER_OCTAVE = 4
_Kind = TypeVar("_Kind", bound=Hashable)


class Use(NamedTuple, Generic[_Kind]):
    """The use of prefixes that cost and are used alike."""

    kind: _Kind
    """The kind of the first request with a prefix; those of a kind have the same price."""
    asked: str | None
    """The requests' own `prompt_cache`, `5m` or `1h`; None: they do not ask for it."""
    warmed: bool
    """True if the first request with a prefix is sent alone."""
    pace: int
    """Mean number of lines from one use to the next, as a logarithm."""

    @property
    def lines_apart(self) -> float:
        """Mean number of lines from one use to the next, within 10 %."""
        return 2 ** (self.pace / _PER_OCTAVE)


@dataclass(slots=True)
class Used:
    """Sums over the prefixes of one `Use`."""

    prefixes: int = 0
    calls: int = 0
    prefix_tokens: int = 0
    """Tokens of all prefixes, each counted once."""
    call_tokens: int = 0
    """Tokens of all prefixes, each counted at every call."""


@dataclass(slots=True)
class _Followed(Generic[_Kind]):
    kind: _Kind
    asked: str | None
    warmed: bool
    tokens: int
    first: int
    last: int
    calls: int = 0


class PrefixCounter(Generic[_Kind]):
    """Counts shared prefixes while requests stream by. Keeps digests of some, and no text but that of a group."""

    def __init__(self, most: int = MAX_TRACKED) -> None:
        self._most = most
        self._sharing = Sharing()
        self._group: list[tuple[JobSpec, _Kind, str | None]] = []
        self._bytes = 0
        self._seen = 0
        self._followed: OrderedDict[tuple[str, str | None], _Followed[_Kind]] = OrderedDict()
        self._uses: dict[Use[_Kind], Used] = {}

    def add(self, job: JobSpec, kind: _Kind) -> None:
        """Count a request of this kind."""
        asked = job.prompt_cache
        self._bytes += len(job.body)
        prefixes = _prefixes(job) if asked is None else job.prefixes
        self._group.append((replace(job, body=b"", prefixes=prefixes), kind, asked))
        if len(self._group) >= GROUP_ROWS["sqlite"] or self._bytes >= BULK_BYTES:
            self._end_group()

    def uses(self) -> dict[Use[_Kind], Used]:
        """Return the sums over all shared prefixes; call it once, at the end."""
        self._end_group()
        while self._followed:
            self._forget_oldest()
        return self._uses

    def _end_group(self) -> None:
        found = self._sharing.shared([job for job, _, _ in self._group])
        for shared, (_, kind, asked) in zip(found, self._group, strict=True):
            self._seen += 1
            if shared is not None:
                self._count(shared.prefix, kind, asked=asked, warmed=shared.warmed)
        self._group, self._bytes = [], 0

    def _count(self, prefix: Prefix, kind: _Kind, *, asked: str | None, warmed: bool) -> None:
        key = (prefix.digest, asked)
        followed = self._followed.get(key)
        if followed is None:
            tokens = prefix.size // BYTES_PER_TOKEN
            followed = self._followed[key] = _Followed(kind, asked, warmed, tokens, self._seen, self._seen)
        else:
            self._followed.move_to_end(key)
        followed.calls += 1
        followed.last = self._seen
        if len(self._followed) > self._most:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        _, one = self._followed.popitem(last=False)
        apart = (one.last - one.first) / (one.calls - 1) if one.calls > 1 else 1
        pace = round(_PER_OCTAVE * math.log2(apart))
        used = self._uses.setdefault(Use(one.kind, one.asked, one.warmed, pace), Used())
        used.prefixes += 1
        used.calls += one.calls
        used.prefix_tokens += one.tokens
        used.call_tokens += one.calls * one.tokens


def _prefixes(job: JobSpec) -> tuple[Prefix, ...]:
    if len(job.body) < BYTES_PER_TOKEN * least_tokens(job.model):
        return ()
    return prefixes_of(job.model, orjson.loads(job.body), job.body)


def saving(
    use: Use[_Kind],
    used: Used,
    routes: Iterable[tuple[Decimal, TokenPrices]],
    keep: Keep,
    *,
    line_s: float,
    call_s: float,
) -> Decimal:
    """Return what the prompt cache saves in USD, the surcharge of writing deducted; below 0 where writing costs more.

    Every route that gets a share writes each prefix once. Where none is sent alone first, so do the calls that begin
    before the first has ended. A prefix that is used too seldom is written at every call.

    Args:
        routes: the share of the calls that a route gets, with its prices.
        keep: time for which the provider is asked to keep a prefix.
        line_s: seconds of the run for one line of the file.
        call_s: seconds that a call takes.
    """
    with exact():
        gap_s = use.lines_apart * line_s
        writes = Decimal(used.prefixes)
        if gap_s > KEPT_S[keep]:
            writes = Decimal(used.calls)
        elif not use.warmed:
            at_once = used.calls if gap_s * used.calls <= call_s else 1 + round(call_s / gap_s)
            writes = Decimal(min(used.calls, used.prefixes * at_once))
        written_once = Decimal(used.prefix_tokens) * writes / used.prefixes
        total = Decimal(0)
        for share, prices in routes:
            through = used.call_tokens * share
            written = min(through, written_once)
            dearer = (prices.cache_write_5m if keep == "5m" else prices.cache_write_1h) - prices.input
            total += (through - written) * (prices.input - prices.cache_read) - written * dearer
        return total
