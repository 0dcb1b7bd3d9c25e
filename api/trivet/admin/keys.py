"""Keys of the HTTP gateway: giving them out, taking them back, and what the gateway asks of them."""

import time
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from trivet.admin.group import Group
from trivet.admin.key_budgets import KeyBudgets
from trivet.client.connections import current_operator
from trivet_routing.request_rate import RequestRate
from trivet_store import gateway_keys
from trivet_store.cluster.registry import registered
from trivet_store.gateway_keys import GatewayKey
from trivet_store.ledger.budgets import FRESH_S
from trivet_store.ledger.budgets import registered as registered_budgets
from trivet_tasks.config.budgets import BudgetSettings
from trivet_tasks.errors import InvalidRequest
from trivet_tasks.gateway_keys import Token, new_token, read_budget, read_terms
from trivet_tasks.states import KeyState

DEFAULT_GRACE_S = 3_600.0
"""Seconds for which the old secret works after a rotation."""
MAX_SPAN_S = 10 * 365 * 86_400.0
_LABELS_S = FRESH_S + 0.25
"""Seconds after which every producer knows the label of a new budget."""


class KeyList(NamedTuple):
    """Keys at one moment."""

    keys: tuple[GatewayKey, ...]
    """By name, the oldest first."""
    now: float
    """Seconds since the epoch, by the database's clock."""
    missing_budgets: frozenset[str] = frozenset()
    """Names of budgets that working keys are to have and that there are none of: gateways refuse requests of these keys."""


class NewKey(NamedTuple):
    """A key that was just created, with its secret, which is shown nowhere else and never again."""

    key: GatewayKey
    token: Token
    replaces: GatewayKey | None = None
    """The key that was rotated to it."""


class FoundKey(NamedTuple):
    """A key as it was looked up. `now` is seconds since the epoch, by the database's clock."""

    key: GatewayKey
    now: float


class Keys(Group):
    """Keys of the HTTP gateway. Every change records an event with its author; secrets are in none.

    made = admin.keys.create("search", tenant="acme", budget="20/day", requests_per_minute=600)
    print(made.token.text)
    """

    def list(self) -> KeyList:
        """Return all keys, revoked and expired ones too.

        Example:
            names = {key.name for key in admin.keys.list().keys}
        """
        store = self._connections.store
        with store.read() as connection:
            keys = tuple(gateway_keys.every(connection))
            known = {row.settings.name for row in registered_budgets(connection)}
            now = store.now(connection)
            working = (key for key in keys if key.state(now) in (KeyState.ACTIVE, KeyState.REPLACED))
            named = {key.terms.budget for key in working if key.terms.budget is not None}
            return KeyList(keys, now, frozenset(named - known))

    def create(
        self,
        name: str,
        *,
        tenant: str | None = None,
        tags: Mapping[str, str] | None = None,
        classes: Sequence[str] = (),
        models: Sequence[str] = (),
        residency: Sequence[str] = (),
        compliance: Sequence[str] = (),
        budget: str | None = None,
        requests_per_minute: int | None = None,
        admin: bool = False,
        lives_s: float | None = None,
        by: str | None = None,
    ) -> NewKey:
        """Create a key. With a budget of its own this takes a second, within which every process learns to count its jobs.

            admin.keys.create("nightly", classes=["batch", "deferred"], models=["claude-haiku-*"], budget="20/day")

        Args:
            name: 1 to 64 letters, digits, dots, dashes and underscores.
            tenant: of all its jobs. None: they have none.
            tags: of all its jobs; they win over those of a request.
            classes: latency classes that it may use; empty: all.
            models: models that it may use, as names or patterns such as `claude-haiku-*`; empty: all.
            residency: added to that of each request, as is `compliance`.
            budget: `20/day` or `500/month` (USD), or the name of a budget of the configuration that counts its jobs.
            requests_per_minute: limit over all gateway processes.
            admin: it sees the jobs of all tenants and may use the gateway's operations.
            lives_s: seconds until it expires; None: never.
            by: None: the user and machine of this process.

        Raises:
            InvalidRequest: a value is wrong, or the name is taken.
            NotFound: there is no such budget.
        """
        _check_span("lives_s", lives_s)
        given = None if budget is None else read_budget(name, budget)
        own = given if isinstance(given, BudgetSettings) else None
        terms = read_terms(
            name,
            tenant=tenant,
            tags=tags,
            classes=classes,
            models=models,
            residency=residency,
            compliance=compliance,
            budget=given.name if isinstance(given, BudgetSettings) else given,
            requests_per_minute=requests_per_minute,
            admin=admin,
        )
        store, token = self._connections.store, new_token()
        with store.write() as connection:
            key = gateway_keys.create(
                store, connection, token, terms, budget=own, lives_s=lives_s, by=by or current_operator()
            )
        if own is not None:
            time.sleep(_LABELS_S)
        return NewKey(key, token)

    def rotate(self, name: str, *, grace_s: float = DEFAULT_GRACE_S, by: str | None = None) -> NewKey:
        """Give a key a new secret. The old one works for the grace; budget, limits and counters go on.

            admin.keys.rotate("search", grace_s=0).token

        Args:
            grace_s: seconds for which the old secret works, too.
            by: None: the user and machine of this process.

        Raises:
            NotFound: there is no such key, or it was revoked.
            InvalidRequest: the grace is negative or longer than ten years.
        """
        _check_span("grace_s", grace_s, least=0)
        store, token = self._connections.store, new_token()
        with store.write() as connection:
            key, old = gateway_keys.rotate(store, connection, name, token, grace_s=grace_s, by=by or current_operator())
        return NewKey(key, token, old)

    def revoke(self, name: str, *, by: str | None = None) -> bool:
        """Revoke a key, and the one that it replaced. Gateways refuse it within 5 s. Its jobs go on, within its budget.

            admin.keys.revoke("search")

        Returns:
            False: it was revoked before.

        Raises:
            NotFound: there never was such a key.
        """
        store = self._connections.store
        with store.write() as connection:
            return gateway_keys.revoke(store, connection, name, by=by or current_operator()) > 0

    def find(self, key_id: str) -> FoundKey | None:
        """Return a key by its id, whatever its state is; None: there is none."""
        store = self._connections.store
        with store.read() as connection:
            key = gateway_keys.find(connection, key_id)
            return None if key is None else FoundKey(key, store.now(connection))

    def exist(self) -> bool:
        """Return whether there is, or ever was, any key."""
        with self._connections.store.read() as connection:
            return gateway_keys.exist(connection)

    def adopt(self, token: Token, name: str, *, by: str | None = None) -> bool:
        """Create an admin key of a secret that is kept already, unless there is any key. Returns whether it is here now."""
        store = self._connections.store
        terms = read_terms(name, admin=True)
        with store.write() as connection:
            return gateway_keys.adopt(store, connection, token, terms, by=by or current_operator())

    def note_used(self, key_ids: Collection[str]) -> None:
        """Record that these keys were used just now."""
        store = self._connections.store
        with store.write() as connection:
            gateway_keys.note_used(store, connection, key_ids)

    def take_request(self, name: str, per_minute: int) -> float:
        """Count a request of a key if its rate allows it. Returns the seconds to wait; 0: it may go.

        Raises:
            BrokerUnavailable: Redis does not answer. Without it no call is made either.
        """
        with self._connections.requires_redis():
            return self._rate.take(name, per_minute)

    def budgets(self) -> KeyBudgets:
        """Return the state of all budgets now, with the prices that tell what a request may cost."""
        store = self._connections.store
        with store.read() as connection:
            routes = registered(store, connection)
            return KeyBudgets.read(connection, store.now(connection), routes, self._connections.directory.costs)

    @cached_property
    def _rate(self) -> RequestRate:
        return RequestRate(self._connections.redis)


def _check_span(field: str, seconds: float | None, *, least: float = 1) -> None:
    if seconds is not None and not least <= seconds <= MAX_SPAN_S:
        raise InvalidRequest(f"{field}: must be from {least:g} s to ten years, is {seconds:g} s.", field=field)
