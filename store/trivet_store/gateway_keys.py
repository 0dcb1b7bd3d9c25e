"""Keys of the HTTP gateway: their rows, from creation over rotation to revocation. Secrets are not here, only their digests.

The newest key of a name is the one that is neither revoked nor replaced; there is at most one. A key that was rotated works
beside it until its grace is over.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, bindparam, text

from trivet_store import events
from trivet_store.database.engine import Store
from trivet_store.ledger import budgets
from trivet_tasks.config.budgets import BudgetSettings, exact_usd
from trivet_tasks.errors import InvalidRequest, NotFound
from trivet_tasks.gateway_keys import KeyTerms, Token, digest_of
from trivet_tasks.states import KeyState


@dataclass(frozen=True, slots=True)
class GatewayKey:
    """A key and its state. Times are seconds since the epoch, by the database's clock."""

    id: str
    digest: str = field(repr=False)
    terms: KeyTerms
    created_at: float
    created_by: str
    expires_at: float | None
    """None: never."""
    revoked_at: float | None
    last_used_at: float | None
    """Exact to a minute. None: never."""
    replaced_by: str | None
    """Id of the key that it was rotated to."""

    @property
    def name(self) -> str:
        """The key's name."""
        return self.terms.name

    def state(self, now: float) -> KeyState:
        """Return its state at a moment."""
        if self.revoked_at is not None:
            return KeyState.REVOKED
        if self.expires_at is not None and self.expires_at <= now:
            return KeyState.EXPIRED
        return KeyState.ACTIVE if self.replaced_by is None else KeyState.REPLACED

    @classmethod
    def of(cls, row: Row[Any]) -> "GatewayKey":
        """Return the key in a row."""
        return cls(
            row.id, row.digest, KeyTerms.of(row.name, row.terms), row.created_at, row.created_by, row.expires_at,
            row.revoked_at, row.last_used_at, row.replaced_by,
        )  # fmt: skip


_ALL = text("SELECT * FROM gateway_keys ORDER BY name, created_at")
_BY_ID = text("SELECT * FROM gateway_keys WHERE id = :id")
_NEWEST = text("SELECT * FROM gateway_keys WHERE name = :name AND revoked_at IS NULL AND replaced_by IS NULL")
_ANY = text("SELECT 1 FROM gateway_keys LIMIT 1")
_OF_NAME = text("SELECT 1 FROM gateway_keys WHERE name = :name LIMIT 1")
# any conflict counts: processes of one machine may insert the same key at once
_CREATE = text(
    """
    INSERT INTO gateway_keys (id, name, digest, terms, created_at, created_by, expires_at)
    VALUES (:id, :name, :digest, :terms, :now, :by, :expires_at)
    ON CONFLICT DO NOTHING
    """
)
# the time left may be shorter than the grace
_REPLACE = text(
    """
    UPDATE gateway_keys SET replaced_by = :replaced_by,
           expires_at = CASE WHEN expires_at < :expires_at THEN expires_at ELSE :expires_at END
     WHERE id = :id AND revoked_at IS NULL AND replaced_by IS NULL
    """
)
_REVOKE = text("UPDATE gateway_keys SET revoked_at = :now WHERE name = :name AND revoked_at IS NULL")
_USED = text(
    """
    UPDATE gateway_keys SET last_used_at = :now WHERE id IN :ids AND (last_used_at IS NULL OR last_used_at < :now)
    """
).bindparams(bindparam("ids", expanding=True))


def create(
    store: Store,
    connection: Connection,
    token: Token,
    terms: KeyTerms,
    *,
    budget: BudgetSettings | None = None,
    lives_s: float | None = None,
    by: str,
) -> GatewayKey:
    """Create a key.

    Args:
        budget: its own budget, which `terms` names; None: it has none, or one of the configuration.
        lives_s: seconds until it expires; None: never.
        by: the person.

    Raises:
        InvalidRequest: the name is taken, or the budget that it names does not count the jobs of this key.
        NotFound: there is no such budget.
    """
    now = store.now(connection)
    if terms.budget and budget is None:
        _check_budget(connection, terms, terms.budget)
    key = _insert(connection, token, terms, now, None if lives_s is None else now + lives_s, by)
    if key is None:
        raise InvalidRequest(
            f"name: there is a key called {terms.name!r}.",
            field="name",
            hint=f"`trivet keys rotate {terms.name}` gives it a new secret; after `trivet keys revoke {terms.name}` the "
            "name is free.",
        )
    if budget is None:
        budgets.remove_of_key(connection, terms.name)  # of an earlier key of this name
    else:
        budgets.add_of_key(connection, budget, now)
    limit = "" if budget is None else f", {exact_usd(budget.usd)} per {budget.per}"
    events.note(connection, "key created", f"{terms.name} ({token.key_id}) by {by}{limit}", now)
    return key


def adopt(store: Store, connection: Connection, token: Token, terms: KeyTerms, *, by: str) -> bool:
    """Create a key unless there is any. Returns whether this key is here now.

    Of several processes that do so at once, with the same key or with others, one creates it.
    """
    if (found := find(connection, token.key_id)) is not None:
        return found.digest == digest_of(token.text)
    if exist(connection):
        return False
    now = store.now(connection)
    if _insert(connection, token, terms, now, None, by) is None:
        return find(connection, token.key_id) is not None
    events.note(connection, "key created", f"{terms.name} ({token.key_id}) by {by}", now)
    return True


def rotate(
    store: Store, connection: Connection, name: str, token: Token, *, grace_s: float, by: str
) -> tuple[GatewayKey, GatewayKey]:
    """Give a key a new secret. Returns the new key and the old one, which works for `grace_s` seconds more at most.

    A key that expires gets the same span of life once more.

    Raises:
        NotFound: there is no such key, or it was revoked.
        InvalidRequest: somebody else rotates it at this moment.
    """
    old = newest(connection, name)
    now = store.now(connection)
    expires_at = None if old.expires_at is None else now + (old.expires_at - old.created_at)
    grace = {"id": old.id, "replaced_by": token.key_id, "expires_at": now + grace_s}
    if not connection.execute(_REPLACE, grace).rowcount:
        raise InvalidRequest(f"name: the key {name!r} was changed at this moment.", field="name", hint="Try again.")
    key = _insert(connection, token, old.terms, now, expires_at, by)
    replaced = find(connection, old.id)
    if key is None or replaced is None:
        raise InvalidRequest(f"name: the key {name!r} was changed at this moment.", field="name", hint="Try again.")
    said = f"{name}: {token.key_id} replaces {old.id}, which works for {grace_s:.0f} s more, by {by}"
    events.note(connection, "key rotated", said, now)
    return key, replaced


def revoke(store: Store, connection: Connection, name: str, *, by: str) -> int:
    """Revoke all keys of a name, those in their grace too. Returns how many; 0: it was revoked.

    Its own budget goes, too: at once, or once the last of its jobs has ended.

    Raises:
        NotFound: there never was such a key.
    """
    now = store.now(connection)
    revoked = connection.execute(_REVOKE, {"name": name, "now": now}).rowcount
    if not revoked:
        if connection.execute(_OF_NAME, {"name": name}).one_or_none() is None:
            raise _unknown(name)
        return 0
    budgets.remove_orphans(connection)
    events.note(connection, "key revoked", f"{name} by {by}", now)
    return revoked


def find(connection: Connection, key_id: str) -> GatewayKey | None:
    """Return a key by its id, whatever its state is."""
    row = connection.execute(_BY_ID, {"id": key_id}).one_or_none()
    return None if row is None else GatewayKey.of(row)


def newest(connection: Connection, name: str) -> GatewayKey:
    """Return the key of a name that is neither revoked nor replaced.

    Raises:
        NotFound: there is none.
    """
    row = connection.execute(_NEWEST, {"name": name}).one_or_none()
    if row is None:
        raise _unknown(name)
    return GatewayKey.of(row)


def every(connection: Connection) -> list[GatewayKey]:
    """Return all keys that ever were, by name, the oldest first."""
    return [GatewayKey.of(row) for row in connection.execute(_ALL)]


def exist(connection: Connection) -> bool:
    """Return whether there is, or ever was, any key."""
    return connection.execute(_ANY).one_or_none() is not None


def note_used(store: Store, connection: Connection, key_ids: Collection[str]) -> None:
    """Record that these keys were used just now."""
    if key_ids:
        connection.execute(_USED, {"ids": sorted(key_ids), "now": store.now(connection)})


def _insert(
    connection: Connection, token: Token, terms: KeyTerms, now: float, expires_at: float | None, by: str
) -> GatewayKey | None:
    """Return the new key; None where the name is taken."""
    digest = digest_of(token.text)
    made = connection.execute(
        _CREATE,
        {
            "id": token.key_id,
            "name": terms.name,
            "digest": digest,
            "terms": terms.definition(),
            "now": now,
            "by": by,
            "expires_at": expires_at,
        },
    )
    return GatewayKey(token.key_id, digest, terms, now, by, expires_at, None, None, None) if made.rowcount else None


def _check_budget(connection: Connection, terms: KeyTerms, name: str) -> None:
    row = next((row for row in budgets.registered(connection) if row.settings.name == name), None)
    if row is None:
        raise NotFound(
            f"No budget is called {name!r}.",
            hint="`trivet budgets` lists them; --budget 20/day gives the key one of its own.",
        )
    settings = row.settings
    if settings.route or settings.batch or not settings.counts(False, terms.labels):
        raise InvalidRequest(
            f"budget: {name!r} counts {settings.scope}, and so not all jobs of this key.",
            field="budget",
            hint="Give the key that tag or tenant, or a budget of its own: --budget 20/day.",
        )


def _unknown(name: str) -> NotFound:
    return NotFound(f"No key is called {name[:64]!r}, or it was revoked.", hint="`trivet keys list --all` shows them.")
