"""Monitor of budgets: reports once that a budget warns, holds or releases, in the events and in one scheduler's log."""

import logging
import time
from collections.abc import Sequence

from sqlalchemy import Connection

from trivet_routing import budget_headroom
from trivet_routing.budget_headroom import Balance, BudgetHeadroom
from trivet_routing.route_directory import RouteDirectory
from trivet_store.database.engine import Store
from trivet_store.ledger import budgets, spending
from trivet_store.ledger.budgets import State
from trivet_tasks.config.budgets import exact_usd
from trivet_tasks.states import BudgetState

log = logging.getLogger("trivet.budgets")

LOOK_S = 1.0
"""Seconds between two looks; dispatchers notice by themselves that they hold jobs."""
TIDY_S = 3_600.0
"""Seconds between two deletions of old counters, and of budgets of revoked keys."""


def note_states(connection: Connection, found: BudgetHeadroom, now: float) -> list[tuple[int, str]]:
    """Record changed states of budgets. Returns the lines to log after the commit: level and words."""
    changes = []
    for balance in found.balances:
        row, state = balance.row, balance.state()
        if (state.state, state.window, state.needs_usd) == (row.state, row.state_window, row.needs_usd):
            continue
        kind, level, said = _change(balance, state)
        if budgets.note_state(connection, row, state, kind, said, now) and kind:
            changes.append((level, said))
    return changes


def tell(changes: Sequence[tuple[int, str]]) -> None:
    """Log the changes."""
    for level, said in changes:
        log.log(level, "budget %s", said)


class BudgetMonitor:
    """Looks at all budgets once a second, if there are any. One per scheduler."""

    def __init__(self, store: Store, directory: RouteDirectory) -> None:
        self._store = store
        self._directory = directory
        self._next_at = 0.0
        self._tidy_at = 0.0

    def run(self) -> None:
        """Look at the budgets, if it is time to. StoreUnavailable when the database does not answer."""
        now = time.monotonic()
        if now >= self._tidy_at:
            self._tidy_at = now + TIDY_S
            with self._store.write() as connection:
                spending.forget_old(connection, self._store.now(connection))
                budgets.remove_orphans(connection)
        known = self._directory.known()
        if now < self._next_at or not known.budgets:
            return
        self._next_at = now + LOOK_S
        with self._store.read() as connection:
            found = budget_headroom.read(connection, self._store.now(connection), known.routes, self._directory.costs)
        if found is None or not any(_differs(balance) for balance in found.balances):
            return
        with self._store.write() as connection:
            changes = note_states(connection, found, self._store.now(connection))
        tell(changes)


def _differs(balance: Balance) -> bool:
    return balance.state() != State(balance.row.state, balance.row.state_window, balance.row.needs_usd)


def _change(balance: Balance, to: State) -> tuple[str, int, str]:
    """Return the kind of event, its log level and its words; an empty kind where nothing needs to be reported."""
    row, name = balance.row, balance.name
    before = row.state
    turned = row.state_window not in ("", to.window)
    spent = (
        f"{exact_usd(balance.spent.usd)} of {exact_usd(balance.limit)} ({balance.share:.0%}) are spent in {to.window}"
    )
    if to.state == BudgetState.HOLDING and (before != BudgetState.HOLDING or turned):
        next_job = f", and the next job may cost {exact_usd(to.needs_usd)}" if to.needs_usd else ""
        return "budget holding", logging.WARNING, f"{name} holds its jobs ({row.settings.scope}): {spent}{next_job}"
    if to.state == BudgetState.WARNED and (before == BudgetState.OK or turned):
        return "budget warned", logging.WARNING, f"{name} ({row.settings.scope}): {spent}"
    if before == BudgetState.HOLDING and to.state != BudgetState.HOLDING:
        why = f"{row.state_window} is over" if turned else spent
        return "budget released", logging.INFO, f"{name} holds no jobs any more ({row.settings.scope}): {why}"
    return "", logging.INFO, ""
