"""A worker's use of the response cache: which jobs of a chunk get a call."""

import time
from collections.abc import Sequence

import pytest
import redis
from tests.builders import worker_context
from tests.store.world import MODEL, ROUTE, World, spec

from trivet_routing.limits import Limits
from trivet_routing.response_cache import ANSWERS, AnswerSeal, CachedResult, LookedUp, LookUp, ResponseCache
from trivet_routing.route_directory import RouteDirectory
from trivet_store.database.engine import Store
from trivet_store.events import Drop
from trivet_store.jobs.answering import CachedAnswer
from trivet_tasks.config.settings import Settings
from trivet_tasks.jobs import DispatchedJob
from trivet_tasks.latency import Latency
from trivet_tasks.messages import Chunk
from trivet_worker.run.cached import Cached
from trivet_worker.run.process_state import Drops

KEY = "c" * 32


@pytest.fixture
def world(store: Store) -> World:
    return World(store)


@pytest.fixture
def cache(client: redis.Redis) -> ResponseCache:
    return ResponseCache(client, Settings(), AnswerSeal(b"k" * 64, time.time))


def serve(world: World, client: redis.Redis, cache: ResponseCache, drops: Drops, *jobs: DispatchedJob) -> list[str]:
    """Return the ids of the jobs that get a call."""
    directory = RouteDirectory(world.store, Limits(client, Settings().health))
    cached = Cached(worker_context(world.store, client, directory, drops=drops), cache)
    return [job.id for job in cached.serve(Chunk(ROUTE, "bedrock", Latency.BATCH, MODEL, jobs))]


def test_a_job_is_called_for_where_the_answer_is_anothers(
    world: World, client: redis.Redis, cache: ResponseCache
) -> None:
    """Producers and workers that differ in `[cache] shared` have one cache key for jobs of several tenants."""
    answer = CachedAnswer(b'{"content":[]}', "end_turn", "anthropic", None, "acme")
    cache.keep(Latency.BATCH, [CachedResult(KEY, "first", MODEL, answer)])
    world.add(spec(cache_key=KEY, tenant="acme"), spec(cache_key=KEY, tenant="globex"))
    jobs, drops = world.dispatch(2), Drops()
    to_call = serve(world, client, cache, drops, *jobs)
    assert [world.job(job).tenant for job in to_call] == ["globex"]
    assert sorted(world.states()) == ["dispatched", "succeeded"]
    assert drops.unwritten() == {}


def test_a_key_of_another_type_leaves_the_cache_to_the_other_jobs(
    world: World, client: redis.Redis, cache: ResponseCache
) -> None:
    cache.keep(
        Latency.BATCH,
        [CachedResult(KEY, "first", MODEL, CachedAnswer(b'{"content":[]}', "end_turn", "anthropic", None))],
    )
    client.lpush(ANSWERS + "d" * 32, "no text")
    world.add(spec(cache_key=KEY), spec(cache_key="d" * 32))
    jobs, drops = world.dispatch(2), Drops()
    (to_call,) = serve(world, client, cache, drops, *jobs)
    assert world.job(to_call).cache_key == "d" * 32
    assert drops.unwritten() == {(Drop.ANSWER, ROUTE): 1}
    assert not client.exists(ANSWERS + "d" * 32)


def test_a_cache_that_fails_says_so_once_a_minute(
    world: World, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(ResponseCache):
        def look_up(self, latency: Latency, asked: Sequence[LookUp]) -> LookedUp:
            raise redis.ResponseError("ERR something")

    directory = RouteDirectory(world.store, Limits(client, Settings().health))
    seal = AnswerSeal(b"k" * 64, time.time)
    cached = Cached(worker_context(world.store, client, directory), Broken(client, Settings(), seal))
    world.add(spec(cache_key=KEY))
    chunk = Chunk(ROUTE, "bedrock", Latency.BATCH, MODEL, tuple(world.dispatch()))
    for _ in range(5):
        assert cached.serve(chunk) == list(chunk.jobs)
    assert [record.getMessage() for record in caplog.records] == ["the response cache is not used: ResponseError"]


def test_a_worker_without_a_key_calls_for_requests_that_ask_for_the_cache_and_says_so(
    world: World, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    world.add(spec(cache_key=KEY), spec())
    jobs = world.dispatch(2)
    for _ in range(2):
        assert serve(world, client, ResponseCache(client, Settings()), Drops(), *jobs) == [job.id for job in jobs]
    assert {record.getMessage() for record in caplog.records} == {
        "answers are not cached, though requests ask for it: [security] key is not set"
    }
