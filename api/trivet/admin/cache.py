"""The response cache: its state, its savings, and clearing it."""

from decimal import Decimal
from typing import NamedTuple

from trivet.admin.group import Group
from trivet_routing.response_cache import CacheStats, ResponseCache
from trivet_store.reports.cost_savings import answer_savings
from trivet_store.reports.costs import Span
from trivet_tasks.requests.reading import model_id


class CacheState(NamedTuple):
    """The response cache at one moment."""

    enabled: bool
    """True if requests use it unless they say otherwise, by the settings of this process."""
    stats: CacheStats
    answered_jobs: int
    """Jobs that were answered without a call, since the installation began."""
    saved_usd: Decimal
    """Cost of the calls that made the answers, in USD."""


class ClearedAnswers(NamedTuple):
    """Number of answers that were deleted."""

    answers: int
    model: str | None
    """The first-party id of their model; None: all models."""


class Cache(Group):
    """Reports and clears the answers that are kept for equal requests."""

    def state(self) -> CacheState:
        """Return the size of the cache, its hits, and its savings.

            print(admin.cache.state().stats.hit_rate)

        Raises:
            BrokerUnavailable: the shared state does not answer.
        """
        settings, stats = self._connections.settings, self.stats()
        with self._connections.store.read() as connection:
            saved = next(iter(answer_savings(connection, [], Span())), None)
        answered = (saved.hits, saved.saved_usd) if saved else (0, Decimal(0))
        return CacheState(settings.cache.enabled, stats, *answered)

    def stats(self) -> CacheStats:
        """Return the size of the cache and its hits. It needs no database.

            print(admin.cache.stats().entries)

        Raises:
            BrokerUnavailable: the shared state does not answer.
        """
        with self._connections.requires_redis():
            return ResponseCache(self._connections.redis, self._connections.settings).stats()

    def clear(self, model: str | None = None) -> ClearedAnswers:
        """Delete the cached answers; calls under way still bring theirs.

            admin.cache.clear("claude-haiku-4-5").answers

        Args:
            model: only answers of this model, by any name it has.

        Raises:
            InvalidRequest: the model has no known name.
            BrokerUnavailable: the shared state does not answer.
        """
        settings = self._connections.settings
        named = None if model is None else model_id(model, settings)
        with self._connections.requires_redis():
            return ClearedAnswers(ResponseCache(self._connections.redis, settings).clear(named), named)
