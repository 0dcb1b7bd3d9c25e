"""The response cache on a real Valkey: hits, leaders, coalesced jobs, kept entries and evicted ones."""

import time
from decimal import Decimal
from typing import Any

import pytest
import redis

from trivet_routing.response_cache import (
    ANSWERS,
    COUNTERS,
    EXPIRIES,
    LEADS,
    OVERHEAD_BYTES,
    SIZES,
    AnswerSeal,
    CachedResult,
    Coalesce,
    LookUp,
    ResponseCache,
)
from trivet_store.jobs.answering import CachedAnswer
from trivet_tasks.config.settings import CacheSettings, Settings
from trivet_tasks.latency import Latency

MODEL, OTHER = "claude-haiku-4-5", "claude-sonnet-5-5"
BATCH = Latency.BATCH
ANSWER = CachedAnswer(b'{"content":[],\n"id":"m"}', "end_turn", "anthropic", Decimal("0.000123456789"))
SEAL = AnswerSeal(b"k" * 64, time.time)


@pytest.fixture
def cache(client: redis.Redis) -> ResponseCache:
    return ResponseCache(client, Settings(), SEAL)


def small(client: redis.Redis, max_bytes: int = 1_000_000) -> ResponseCache:
    return ResponseCache(client, Settings(cache=CacheSettings(max_bytes=max_bytes)), SEAL)


def ask(cache: ResponseCache, *jobs: str, key: str = "k", latency: Latency = BATCH, over: str = "") -> list[Any]:
    return cache.look_up(latency, [LookUp(key, job, over) for job in jobs]).found


def keep(
    cache: ResponseCache,
    key: str,
    job: str,
    answer: CachedAnswer | None = ANSWER,
    *,
    never: bool = False,
    model: str = MODEL,
) -> None:
    cache.keep(BATCH, [CachedResult(key, job, model, answer, never)])


def test_one_leads_the_others_wait_and_the_answer_serves_all(cache: ResponseCache) -> None:
    assert ask(cache, "a", "b", "c") == [None, Coalesce("a"), Coalesce("a")]
    assert ask(cache, "d") == [Coalesce("a")]
    assert ask(cache, "x", key="other") == [None]
    keep(cache, "k", "a")
    assert ask(cache, "b", "c") == [ANSWER, ANSWER]
    stats = cache.stats()
    assert (stats.hits, stats.misses, stats.coalesced, stats.stored, stats.entries) == (2, 2, 3, 1, 1)
    assert stats.hit_rate == 0.5
    assert stats.bytes > len(ANSWER.message) + OVERHEAD_BYTES


def test_a_leader_that_asks_again_leads_still_and_counts_once(cache: ResponseCache) -> None:
    assert ask(cache, "a", "a") == [None, None]
    assert ask(cache, "b") == [Coalesce("a")]
    assert cache.stats().misses == 1


def test_when_the_leader_brings_nothing_the_next_leads(cache: ResponseCache) -> None:
    ask(cache, "a")
    keep(cache, "k", "a", None)
    assert ask(cache, "b", "c") == [None, Coalesce("b")]
    keep(cache, "k", "a", None)  # told late, by who leads no more
    assert ask(cache, "d") == [Coalesce("b")]


def test_the_lead_of_one_that_ended_is_taken_over_once(cache: ResponseCache) -> None:
    ask(cache, "a")
    assert ask(cache, "b", over="a") == [None]
    assert ask(cache, "c", over="a") == [Coalesce("b")]


def test_nobody_waits_for_a_job_that_has_more_time(cache: ResponseCache) -> None:
    assert ask(cache, "slow", latency=Latency.DEFERRED) == [None]
    assert ask(cache, "bulk") == [None]
    assert ask(cache, "slower", latency=Latency.DEFERRED) == [Coalesce("bulk")]
    assert ask(cache, "now", latency=Latency.REALTIME) == [None]
    assert ask(cache, "also now", latency=Latency.REALTIME) == [Coalesce("now")]
    assert ask(cache, "bulk too") == [Coalesce("now")]


def test_where_no_answer_can_be_kept_nobody_waits(cache: ResponseCache) -> None:
    ask(cache, "a")
    keep(cache, "k", "a", None, never=True)
    assert ask(cache, "b", "c") == [None, None]
    keep(cache, "k", "b")  # this time it could
    assert ask(cache, "c") == [ANSWER]


def test_leads_and_answers_live_as_long_as_they_should(cache: ResponseCache, client: redis.Redis) -> None:
    ask(cache, "a")
    assert 59_000 < int(client.pttl(f"{LEADS}k")) <= 60_000
    ask(cache, "r", key="r", latency=Latency.REALTIME)
    assert int(client.pttl(f"{LEADS}r")) <= 3_000
    keep(cache, "k", "a")
    assert 86_390_000 < int(client.pttl(f"{ANSWERS}k")) <= 86_400_000
    assert not client.exists(f"{LEADS}k")


def test_what_expired_is_not_counted_any_more(client: redis.Redis) -> None:
    classes = {name: terms.model_copy(update={"cache_ttl_s": 0.001}) for name, terms in Settings().classes.items()}
    short = ResponseCache(client, Settings(classes=classes), SEAL)
    keep(short, "k", "a")
    while client.exists(f"{ANSWERS}k"):
        pass
    assert short.stats().entries == 0
    assert ask(short, "b") == [None]
    keep(ResponseCache(client, Settings(), SEAL), "other", "x")
    one_entry = int(client.strlen(f"{ANSWERS}other")) + OVERHEAD_BYTES
    assert (short.stats().entries, short.stats().bytes) == (1, one_entry)


def test_it_stays_within_its_bound_and_those_that_expire_first_leave_first(client: redis.Redis) -> None:
    cache = small(client)
    large = ANSWER._replace(message=b"x" * 90_000)
    for number in range(25):
        keep(cache, f"k{number}", "a", large)
        assert cache.stats().bytes <= 1_000_000
    stats = cache.stats()
    assert (stats.entries, stats.evicted) == (11, 14)
    assert [number for number in range(25) if client.exists(f"{ANSWERS}k{number}")] == list(range(14, 25))
    keep(cache, "k24", "a")  # anew, and smaller
    assert cache.stats().entries == 11
    assert cache.stats().bytes < stats.bytes


def test_clearing_all_or_one_model(cache: ResponseCache) -> None:
    for number in range(3):
        keep(cache, f"h{number}", "a")
    keep(cache, "s", "a", model=OTHER)
    assert cache.clear(OTHER) == 1
    assert ask(cache, "b", key="s") == [None]
    assert ask(cache, "b", key="h1") == [ANSWER]
    assert cache.clear() == 3
    stats = cache.stats()
    assert (stats.entries, stats.bytes) == (0, 0)
    assert cache.clear() == 0


def test_an_answer_without_a_price_is_kept_without_one(cache: ResponseCache) -> None:
    keep(cache, "k", "a", ANSWER._replace(cost_usd=None))
    assert ask(cache, "b") == [ANSWER._replace(cost_usd=None)]


def junk(entry: bytes) -> list[bytes]:
    """Values that an attacker may put in the place of an entry."""
    forged = AnswerSeal(b"another installation's key, as long", time.time).seal("k", ANSWER, 60)
    return [b"x", b"\xff" * 200, entry[:-1], entry[1:], entry.replace(b"end_turn", b"max_tokens"), forged, forged[65:]]


@pytest.mark.parametrize("number", range(7))
def test_an_entry_of_somebody_else_serves_nobody_and_is_removed(
    cache: ResponseCache, client: redis.Redis, number: int
) -> None:
    keep(cache, "k", "a")
    kept = client.get(f"{ANSWERS}k")
    assert isinstance(kept, bytes)
    client.set(f"{ANSWERS}k", junk(kept)[number])
    outcome = cache.look_up(BATCH, [LookUp("k", "b"), LookUp("k", "c"), LookUp("other", "d")])
    assert outcome.found == [None, Coalesce("b"), None], "as where there is none: one calls, the others wait"
    assert outcome.rejected == 1
    assert not client.exists(f"{ANSWERS}k")
    assert cache.stats().entries == 0
    keep(cache, "k", "b")
    assert cache.look_up(BATCH, [LookUp("k", "c")]) == ([ANSWER], 0)


def test_a_key_of_another_type_costs_the_others_nothing(cache: ResponseCache, client: redis.Redis) -> None:
    keep(cache, "other", "a")
    client.lpush(f"{ANSWERS}k", "no text")
    client.lpush(f"{LEADS}third", "no text")
    asked = [LookUp("k", "b"), LookUp("other", "c"), LookUp("third", "d"), LookUp("third", "e")]
    assert cache.look_up(BATCH, asked) == ([None, ANSWER, None, Coalesce("d")], 1)
    assert not client.exists(f"{ANSWERS}k")
    keep(cache, "k", "b")
    assert ask(cache, "c") == [ANSWER]


@pytest.mark.parametrize("key", [COUNTERS, EXPIRIES, SIZES])
def test_a_table_of_another_type_is_begun_anew(cache: ResponseCache, client: redis.Redis, key: str) -> None:
    client.set(key, "no table")
    client.lpush(f"{ANSWERS}j", "no text")
    assert cache.look_up(BATCH, [LookUp("k", "b"), LookUp("j", "c")]) == ([None, None], 1)
    keep(cache, "k", "b")
    assert ask(cache, "c") == [ANSWER]
    assert cache.stats().entries == 1


def test_an_answer_moved_to_another_key_serves_nobody(cache: ResponseCache, client: redis.Redis) -> None:
    keep(cache, "k", "a")
    client.set(f"{ANSWERS}other", client.get(f"{ANSWERS}k") or b"")
    assert cache.look_up(BATCH, [LookUp("other", "b"), LookUp("k", "c")]) == ([None, ANSWER], 1)


def test_an_answer_whose_time_is_over_serves_nobody_however_long_redis_keeps_it(client: redis.Redis) -> None:
    now = 1_000.0
    cache = ResponseCache(client, Settings(), AnswerSeal(b"k" * 64, lambda: now))
    keep(cache, "k", "a")
    client.persist(f"{ANSWERS}k")
    now += 86_399
    assert ask(cache, "b") == [ANSWER]
    now += 2
    assert cache.look_up(BATCH, [LookUp("k", "b"), LookUp("k", "c")]) == ([None, Coalesce("b")], 0), "no forgery"


def test_counters_of_somebody_else_are_no_traceback(cache: ResponseCache, client: redis.Redis) -> None:
    keep(cache, "k", "a")
    client.hset(COUNTERS, mapping={b"hits": b"many", b"bytes": b"9" * 99, b"\xff": b"1"})
    client.hset(SIZES, mapping={b"\xff": b"\xff", "k2": "x"})
    assert (cache.stats().hits, cache.stats().bytes, cache.stats().stored) == (0, 0, 1)
    assert cache.clear(OTHER) == 0


@pytest.mark.parametrize("lead", [b"2\xff", b"2" + b"a" * 33, b"2a\x00b", b"2", b""])
def test_nobody_waits_for_what_is_no_job(cache: ResponseCache, client: redis.Redis, lead: bytes) -> None:
    client.set(f"{LEADS}k", lead)
    assert ask(cache, "b") == [None]
