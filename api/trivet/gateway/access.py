"""Authentication of requests by their keys, and the rates and budgets of these.

A key is looked up in the database once in 5 s and kept in memory: a revoked key stops within that time, and a request costs
no statement as a rule. In memory it is found by its SHA-256; with the digest in the database it is compared in constant time.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, ParamSpec, Protocol, TypeVar

from cachetools import LRUCache, TLRUCache, TTLCache

from trivet.admin.key_budgets import KeyBudgets
from trivet.admin.keys import FoundKey
from trivet.gateway.principal import AccessError, Forbidden, Principal, RateLimited, Unauthenticated
from trivet_tasks.errors import TrivetError
from trivet_tasks.gateway_keys import digest_of, id_of, matches
from trivet_tasks.requests.request_json import estimate_input
from trivet_tasks.requests.request_messages import content_blocks
from trivet_tasks.states import KeyState

__all__ = ["Access", "AccessError", "Forbidden", "KeySource", "Principal", "RateLimited", "Unauthenticated"]

log = logging.getLogger("trivet.gateway")
P = ParamSpec("P")
T = TypeVar("T")

KEPT_S = 5.0
"""Seconds within which a revoked or changed key stops."""
BUDGETS_S = 1.0
"""Seconds for which the state of budgets is kept."""
USED_S = 60.0
"""Seconds between two records of the keys that were used."""
MAX_KEPT = 10_000
"""Valid keys kept in memory, and the same number of wrong ones."""
LOOKING = 2
"""New keys looked up at a time, so that guesses do not take all threads and connections; the same of keys that worked
before, so that guesses do not delay those either."""

NO_KEY = "A key is needed: send it as x-api-key, or as Authorization: Bearer."
WRONG_KEY = "The key is not valid. Whoever runs this Trivet can give you another."
TWO_KEYS = "x-api-key and Authorization name two different keys: send one of them."


class KeySource(Protocol):
    """The part of `trivet.admin.Keys` that a gateway uses."""

    def find(self, key_id: str) -> FoundKey | None:
        """Return a key by its id; None: there is none."""

    def take_request(self, name: str, per_minute: int) -> float:
        """Count a request. Returns the seconds to wait; 0: it may go."""

    def note_used(self, key_ids: Collection[str]) -> None:
        """Record that these keys were used."""

    def budgets(self) -> KeyBudgets:
        """Return the state of all budgets."""


class Run(Protocol):
    """Runs a blocking call in a thread, as `Gateway.run` does."""

    async def __call__(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the call's result."""


class _Kept(NamedTuple):
    principal: Principal
    seconds: float


class Access:
    """Decides whose a request is, and whether it may go now. One per gateway process, for one event loop.

        access = Access(gateway.admin.keys, gateway.run)
        principal = await access.admit(request.headers)
        request = principal.bind(body)
        await access.check_budget(principal, request, size)

    Args:
        keys: the operations API's group of keys.
        run: runs a blocking call in a thread.
        timer: monotonic seconds.
    """

    def __init__(self, keys: KeySource, run: Run, timer: Callable[[], float] = time.monotonic) -> None:
        self._keys = keys
        self._run = run
        self._timer = timer
        self._valid: TLRUCache[str, _Kept] = TLRUCache(MAX_KEPT, lambda _, kept, now: now + kept.seconds, timer)
        self._wrong: TTLCache[str, bool] = TTLCache(MAX_KEPT, KEPT_S, timer)
        self._lock = threading.Lock()
        self._worked: LRUCache[str, bool] = LRUCache(MAX_KEPT)
        self._looking = asyncio.Semaphore(LOOKING)
        self._looking_again = asyncio.Semaphore(LOOKING)
        self._reading = asyncio.Lock()
        self._budgets: tuple[float, KeyBudgets] | None = None
        self._used: set[str] = set()
        self._noting: asyncio.Task[None] | None = None

    async def admit(self, headers: Mapping[str, str]) -> Principal:
        """Return the principal of a request, and count the request in its rate. Waits for nothing as a rule.

        Args:
            headers: names in lower case, or a mapping that takes any case.

        Raises:
            Unauthenticated: there is no key, it is not valid, or the two headers differ.
            RateLimited: its rate is used up.
            StoreUnavailable: the database is away, and the key is not in memory.
            BrokerUnavailable: the key has a rate, and Redis is away.
        """
        principal = await self.principal_of(headers)
        self._note(principal.key_id)
        if principal.requests_per_minute is not None:
            wait = await self._run(self._keys.take_request, principal.name, principal.requests_per_minute)
            if wait > 0:
                raise RateLimited(
                    f"The key {principal.name} may send {principal.requests_per_minute:,} requests a minute. "
                    f"Try again in {wait:.1f} s.",
                    wait,
                )
        return principal

    async def principal_of(self, headers: Mapping[str, str]) -> Principal:
        """Return the principal of a request, which is not counted. Waits for nothing as a rule.

        Raises:
            Unauthenticated, StoreUnavailable: as `admit`.
        """
        token = _token(headers)
        return self._known(token) or await self._looked_up(token, headers)

    def authenticate(self, headers: Mapping[str, str]) -> Principal:
        """Return the principal of a request. Blocks while it looks up a key that is not in memory; thread-safe.

        Raises:
            Unauthenticated, StoreUnavailable: as `admit`.
        """
        token = _token(headers)
        principal = self._known(token)
        if principal is not None:
            return principal
        kept = self._look_up(token)
        with self._lock:
            if kept is None:
                self._wrong[digest_of(token)] = True
                raise Unauthenticated(WRONG_KEY)
            self._valid[digest_of(token)] = kept
            self._worked[digest_of(token)] = True
        return kept.principal

    async def check_budget(self, principal: Principal, request: Mapping[str, Any], size: int) -> None:
        """Check that the budget of the key has room for a request, so that it is not made a job that waits for money.

        The maximum cost on the cheapest route counts. The state of the budgets is read once a second at most; requests
        that arrive within that second are held by the schedulers, which let no budget be exceeded.

        Args:
            request: as `Principal.bind` returns it.
            size: bytes of its body.

        Raises:
            RateLimited: it has no room; names the budget and when its window turns.
            Forbidden: there is no such budget any more.
            StoreUnavailable: the database is away.
        """
        if principal.budget is None:
            return
        model, max_tokens = request.get("model"), request.get("max_tokens")
        if not isinstance(model, str) or not isinstance(max_tokens, int):
            return  # whoever reads the request refuses it
        budgets = await self._budgets_with(principal.budget)
        tokens = estimate_input(request, size, content_blocks(request))
        shortfall = budgets.shortfall(principal.budget, model, tokens, max_tokens)
        if shortfall is not None:
            raise RateLimited(shortfall.words(), shortfall.retry_after_s)

    async def check_budget_known(self, principal: Principal) -> None:
        """Check that there is a budget for a key that is to have one, for requests whose cost is not looked at here.

        Raises:
            Forbidden: there is none any more: without it nothing would limit the key.
            StoreUnavailable: the database is away.
        """
        if principal.budget is not None:
            await self._budgets_with(principal.budget)

    async def close(self) -> None:
        """Record the last uses of keys."""
        if self._noting is not None:
            self._noting.cancel()
        await self._record()

    async def _looked_up(self, token: str, headers: Mapping[str, str]) -> Principal:
        with self._lock:
            worked = digest_of(token) in self._worked
        async with self._looking_again if worked else self._looking:  # meanwhile another request may have brought it
            known = self._known(token)
            return known if known is not None else await self._run(self.authenticate, headers)

    def _known(self, token: str) -> Principal | None:
        """Return the principal of a key in memory; None: it has to be looked up."""
        digest = digest_of(token)
        with self._lock:
            if digest in self._wrong:
                raise Unauthenticated(WRONG_KEY)
            kept = self._valid.get(digest)
        return None if kept is None else kept.principal

    def _look_up(self, token: str) -> _Kept | None:
        key_id, began = id_of(token), self._timer()
        found = None if key_id is None else self._keys.find(key_id)
        # always compared: a wrong secret takes as long as a wrong id
        right = matches(token, "" if found is None else found.key.digest)
        if found is None or not right or found.key.state(found.now) not in (KeyState.ACTIVE, KeyState.REPLACED):
            return None
        expires_at = found.key.expires_at
        seconds = KEPT_S if expires_at is None else min(KEPT_S, expires_at - found.now)
        # a look-up that took long has seen the key as it was before
        return _Kept(Principal.of(found.key.id, found.key.terms), seconds - (self._timer() - began))

    async def _budgets_with(self, name: str) -> KeyBudgets:
        """Return the budgets, among them the one of this name. Forbidden where there is none."""
        budgets = await self._read_budgets()
        if not budgets.knows(name):
            raise Forbidden(
                f"The budget {name} of this key is not known: it was taken out of the configuration. "
                "Whoever runs this Trivet can put it back, or make a key with another."
            )
        return budgets

    async def _read_budgets(self) -> KeyBudgets:
        async with self._reading:
            if self._budgets is None or self._timer() - self._budgets[0] >= BUDGETS_S:
                self._budgets = (self._timer(), await self._run(self._keys.budgets))
            return self._budgets[1]

    def _note(self, key_id: str) -> None:
        self._used.add(key_id)
        if self._noting is None or self._noting.done():
            self._noting = asyncio.get_running_loop().create_task(self._record_later())

    async def _record_later(self) -> None:
        await asyncio.sleep(USED_S)
        await self._record()

    async def _record(self) -> None:
        used, self._used = self._used, set()
        if not used:
            return
        try:
            await self._run(self._keys.note_used, used)
        except TrivetError as error:
            self._used |= used
            log.debug("the last use of %d keys is not recorded yet: %s", len(used), error)


def _token(headers: Mapping[str, str]) -> str:
    """Return the key of a request.

    Raises:
        Unauthenticated: there is none, or there are two.
    """
    scheme, _, bearer = headers.get("authorization", "").strip().partition(" ")
    given = {headers.get("x-api-key", "").strip(), bearer.strip() if scheme.lower() == "bearer" else ""} - {""}
    if len(given) > 1:
        raise Unauthenticated(TWO_KEYS)
    if not given:
        raise Unauthenticated(NO_KEY)
    return given.pop()
