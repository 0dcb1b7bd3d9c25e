"""Keys: of single jobs, within a tenant; of a batch's lines, within the batch; with `dedupe`, within the tenant again."""

from functools import partial
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.store.world import World, spec, together

from trivet_store.jobs import batches
from trivet_store.jobs.batches import Loading
from trivet_store.jobs.enqueue import Accepted, BatchRef
from trivet_store.reports import results
from trivet_tasks.errors import InvalidRequest, KeyConflict


def test_two_batches_may_name_their_lines_alike(world: World) -> None:
    (single,) = world.add(spec("single", key="page/1"))
    first = world.batch("first", spec("one", key="page/1"))
    second = world.batch("second", spec("another", key="page/1", tenant="acme"))
    with world.store.read() as connection:
        (one,) = results.jobs_of_line(connection, first.id, "page/1")
        (other,) = results.jobs_of_line(connection, second.id, "page/1")
        found = results.job_by_key(connection, "page/1")
        assert results.job_by_key(connection, "page/1", "acme") is None
    assert found is not None
    assert len({found.id, one.id, other.id}) == 3
    assert (found.id, one.batch, other.batch) == (single.id, "first", "second")


def test_a_line_of_a_batch_has_its_key_alone_whoever_its_tenant_is(world: World) -> None:
    batch = world.batch("contracts", spec("one", key="page/1", tenant="a"), opened=False)
    with pytest.raises(KeyConflict, match="page/1"):
        world.add(spec("another", key="page/1", tenant="b"), batch=batch)
    assert world.progress("contracts").total == 1


def test_a_line_of_a_deduped_batch_joins_earlier_jobs_of_its_tenant(world: World) -> None:
    (single,) = world.add(spec("one", key="k1", tenant="a"))
    first = world.batch("first", spec("two", key="k2", tenant="a"), dedupe=True)
    plain = world.batch("plain", spec("other", key="k3", tenant="a"))
    second = world.batch("second", dedupe=True)
    one, two, three, four = world.add(
        spec("one", key="k1", tenant="a"),
        spec("two", key="k2", tenant="a"),
        spec("three", key="k3", tenant="a"),
        spec("one", key="k1", tenant="b"),
        batch=second,
    )
    assert one == Accepted(single.id, existed=True)
    assert two.existed
    assert world.job(two.id).batch_id == first.id
    assert [world.job(job.id).batch_id for job in (three, four)] == [second.id, second.id]
    assert world.progress("plain").total == 1
    with pytest.raises(KeyConflict, match=single.id):
        world.add(spec("another", key="k1", tenant="a"), batch=second)
    with world.store.read() as connection:
        assert [job.batch for job in results.jobs_of_line(connection, second.id, "k1")] == ["second"]
        assert results.jobs_of_line(connection, plain.id, "k1") == []


def test_requests_that_joined_are_counted(world: World) -> None:
    loading = _begin(world, "contracts")
    group = [spec("one", key="a"), spec("one", key="a"), spec("two", key="b")]
    with world.store.write() as connection:
        world.insert(connection, group, BatchRef(loading.id, loading.name))
        batches.advance(connection, loading, [one.fingerprint for one in group])
    progress = world.progress("contracts")
    assert (progress.taken, progress.total, progress.joined, progress.dedupe) == (3, 2, 1, False)


def test_a_batch_is_resumed_as_it_was_begun(world: World) -> None:
    for name, dedupe in (("plain", False), ("deduped", True)):
        begun = _begin(world, name, dedupe=dedupe)
        assert _begin(world, name, dedupe=dedupe) == begun
        with pytest.raises(InvalidRequest, match=f"'{name}' was begun") as caught:
            _begin(world, name, dedupe=not dedupe)
        assert caught.value.field == "dedupe"


@pytest.mark.parametrize("dedupe", [False, True])
def test_many_at_once_fill_batches_with_the_same_keys(world: World, dedupe: bool) -> None:
    group = [spec(f"document {number}", key=f"k{number}") for number in range(50)]
    named = [world.batch(f"b{number}", dedupe=dedupe) for number in range(4)]
    together(*(partial(world.add, *group[:: -1 if n % 2 else 1], batch=batch) for n, batch in enumerate(named)))
    totals = [world.progress(batch.name).total for batch in named]
    assert sum(totals) == 50 if dedupe else totals == [50] * 4
    assert world.value("SELECT count(*) FROM jobs") == world.value("SELECT count(*) FROM job_requests") == sum(totals)


PLACES = (None, "plain one", "plain two", "deduped one", "deduped two")
"""A single job, or the batch of a group."""
REQUESTS = st.tuples(st.sampled_from("kl"), st.sampled_from([None, "a", "b"]), st.sampled_from("xy"))
"""Key, tenant and words of a request."""
GROUPS = st.lists(
    st.tuples(st.sampled_from(PLACES), st.lists(REQUESTS, min_size=1, max_size=3)), min_size=1, max_size=6
)
_examples = count()


@settings(max_examples=40, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(GROUPS)
def test_keys_follow_their_rules_in_any_order(
    world: World, groups: list[tuple[str | None, list[tuple[str, str | None, str]]]]
) -> None:
    example = next(_examples)  # keys and batches of its own
    named = {
        place: world.batch(f"{place} {example}", opened=False, dedupe=place.startswith("deduped"))
        for place in PLACES
        if place
    }
    known: dict[tuple[str, str], tuple[str, str]] = {}
    for place, requests in groups:
        group = [spec(words, key=f"{key} {example}", tenant=tenant) for key, tenant, words in requests]
        owners = [
            (key, place if place and place.startswith("plain") else f"of {tenant}") for key, tenant, _ in requests
        ]
        after = dict(known)
        conflict = False
        for owner, one in zip(owners, group, strict=True):
            conflict |= after.setdefault(owner, (one.fingerprint, ""))[0] != one.fingerprint
        if conflict:
            with pytest.raises(KeyConflict):
                world.add(*group, batch=named[place] if place else None)
            continue
        for owner, one, accepted in zip(
            owners, group, world.add(*group, batch=named[place] if place else None), strict=True
        ):
            assert accepted.existed == (owner in known)
            assert known.setdefault(owner, (one.fingerprint, accepted.id))[1] == accepted.id


def _begin(world: World, name: str, *, dedupe: bool = False) -> Loading:
    with world.store.write() as connection:
        return batches.begin_loading(world.store, connection, name, dedupe=dedupe)
