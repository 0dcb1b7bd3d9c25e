"""Gateway keys as values: what a key allows, its secret, and its budget.

A key reads `trivet_ID_SECRET`: a prefix that scanners for leaked secrets recognise, the id by which its row is found, and
256 random bits. Only their SHA-256 is stored. A slow hash would add nothing: it makes guesses from a dictionary dear, and
nobody finds 256 random bits by guessing, while every request would pay for it.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

import orjson
from pydantic import ValidationError

from trivet_tasks.config.budgets import KEY_BUDGETS, BudgetSettings, Per
from trivet_tasks.errors import InvalidRequest
from trivet_tasks.latency import Latency
from trivet_tasks.requests.request_terms import (
    MAX_TAGS,
    MAX_TENANT_CHARS,
    read_latency,
    read_name,
    read_names,
    read_tags,
)

KEY_TAG = "trivet_key"
"""Tag with the key's name, which the gateway puts on every job of a key. No request over HTTP can set it."""
MAX_REQUESTS_PER_MINUTE = 1_000_000

_PREFIX = "trivet_"
_TOKEN = re.compile(r"trivet_([0-9a-f]{12})_[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_BUDGET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_PERIODS = {"day": Per.DAY, "month": Per.MONTH}


class Token(NamedTuple):
    """A new key, for the one moment at which its secret is known. Its `repr` does not show it."""

    key_id: str
    text: str
    """The whole key, as clients send it."""

    def __repr__(self) -> str:
        return f"Token({self.key_id!r})"


def new_token() -> Token:
    """Return a new key of 256 random bits."""
    key_id = secrets.token_hex(6)
    return Token(key_id, f"{_PREFIX}{key_id}_{secrets.token_hex(32)}")


def id_of(token: str) -> str | None:
    """Return the id that a key names; None where the text has not the form of a key."""
    found = _TOKEN.fullmatch(token)
    return found[1] if found else None


def shown_prefix(key_id: str) -> str:
    """Return the part of a key that may be shown: `trivet_0f3a…`."""
    return f"{_PREFIX}{key_id}_…"


def digest_of(token: str) -> str:
    """Return the hex digest under which a key is stored."""
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()


def matches(token: str, digest: str) -> bool:
    """Return whether a key has this digest. Takes equally long wherever they differ."""
    return hmac.compare_digest(digest_of(token), digest)


@dataclass(frozen=True, slots=True)
class KeyTerms:
    """Permissions and limits of a key. Empty collections allow all.

    Example:
        KeyTerms("search", tenant="acme", classes=(Latency.INTERACTIVE,), requests_per_minute=600)
    """

    name: str
    tenant: str | None = None
    """Tenant of all its jobs. None: its jobs have no tenant; an admin key may name any."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Tags of all its jobs; they win over those of a request."""
    classes: tuple[Latency, ...] = ()
    models: tuple[str, ...] = ()
    """Patterns as of a shell: `claude-haiku-*`."""
    residency: tuple[str, ...] = ()
    """Added to the residency of each request, as is the next."""
    compliance: tuple[str, ...] = ()
    budget: str | None = None
    """Name of the budget that its jobs count in."""
    requests_per_minute: int | None = None
    """Over all gateway processes. None: no limit."""
    admin: bool = False
    """True: it sees the jobs of all tenants and may use the operations of the gateway."""

    def definition(self) -> str:
        """Return the terms as JSON, without the name."""
        given = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "name"}
        kept = {name: value for name, value in given.items() if value}
        return orjson.dumps(kept, option=orjson.OPT_SORT_KEYS).decode()

    @classmethod
    def of(cls, name: str, definition: str) -> "KeyTerms":
        """Return the terms that `definition` wrote."""
        read: dict[str, Any] = orjson.loads(definition)
        for listed in ("models", "residency", "compliance"):
            read[listed] = tuple(read.get(listed, ()))
        read["classes"] = tuple(Latency(one) for one in read.get("classes", ()))
        return cls(name, **read)

    @property
    def labels(self) -> dict[str, str]:
        """Facts of all its jobs that budgets may select by."""
        tags = {f"tag:{tag}": value for tag, value in self.tags.items()}
        tenant = {} if self.tenant is None else {"tenant": self.tenant}
        return {**tags, f"tag:{KEY_TAG}": self.name, **tenant}


def read_terms(
    name: str,
    *,
    tenant: str | None = None,
    tags: Mapping[str, str] | None = None,
    classes: Collection[str] = (),
    models: Sequence[str] = (),
    residency: Sequence[str] = (),
    compliance: Sequence[str] = (),
    budget: str | None = None,
    requests_per_minute: int | None = None,
    admin: bool = False,
) -> KeyTerms:
    """Return checked terms; `budget` as it is to be stored, a name.

    Raises:
        InvalidRequest: names the field, and what it may be.
    """
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            "name: must be 1 to 64 letters, digits, dots, dashes and underscores, and begin with a letter or digit.",
            field="name",
        )
    if admin and tenant is not None:
        raise InvalidRequest(
            "admin: an admin key sees every tenant, so it has none of its own.",
            field="admin",
            hint="Leave out one of the two.",
        )
    read = read_tags(tags)
    if KEY_TAG in read:
        raise InvalidRequest(f"tags.{KEY_TAG}: is set by Trivet to the key's name.", field=f"tags.{KEY_TAG}")
    if len(read) >= MAX_TAGS:
        raise InvalidRequest(
            f"tags: a key may have at most {MAX_TAGS - 1} tags: the gateway adds {KEY_TAG}.", field="tags"
        )
    if requests_per_minute is not None and not 1 <= requests_per_minute <= MAX_REQUESTS_PER_MINUTE:
        raise InvalidRequest(
            f"requests_per_minute: must be from 1 to {MAX_REQUESTS_PER_MINUTE:,}, is {requests_per_minute:,}.",
            field="requests_per_minute",
        )
    return KeyTerms(
        name,
        read_name(tenant, "tenant", MAX_TENANT_CHARS),
        read,
        tuple(dict.fromkeys(read_latency(one) for one in classes)),
        read_names(list(models), "models"),
        read_names(list(residency), "residency"),
        read_names(list(compliance), "compliance"),
        budget,
        requests_per_minute,
        admin,
    )


def read_budget(key_name: str, given: str) -> BudgetSettings | str:
    """Return the budget of a key's own, of `20/day` or `$500/month`; or the name of a budget of the configuration.

    Raises:
        InvalidRequest: it is neither.
    """
    amount, slash, per = given.strip().partition("/")
    if not slash:
        if _BUDGET_NAME.fullmatch(amount):
            return amount
        raise _wrong_budget(given)
    try:
        usd = Decimal(amount.strip().removeprefix("$").replace(",", ""))
    except InvalidOperation:
        raise _wrong_budget(given) from None
    period = _PERIODS.get(per.strip())
    if period is None or not usd.is_finite():
        raise _wrong_budget(given)
    try:
        return BudgetSettings(name=f"{KEY_BUDGETS}{key_name}", usd=usd, per=period, tag=f"{KEY_TAG}={key_name}")
    except ValidationError:
        raise _wrong_budget(given) from None


def _wrong_budget(given: str) -> InvalidRequest:
    return InvalidRequest(
        f"budget: {given[:60]!r} is neither an amount of USD per day or month nor the name of a budget.",
        field="budget",
        hint="Use 20/day, 500/month, or the name of one of the [[budgets]].",
    )
