"""Faults reported of the processes of a Trivet, and the jobs that they concern."""

from collections.abc import Sequence
from typing import Any

import pytest

from trivet.client.impairments import Impairment, ImpairmentKind, Processes, impairments
from trivet_routing.liveness.process_impairments import IS_STOPPING, Announced
from trivet_store.cluster.leases import SCHEDULER, Lease, Silent

NOW = 1_800_000_000.0
BOTH = ("realtime", "bulk")
ROUTES = {"r": False}


def worker(lane: str = "bulk", *routes: str, **terms: Any) -> Lease:
    return Lease("l", f"w.{lane}", lane, routes or ("r",), 64, 0, None, NOW)._replace(**terms)


SCHEDULERS = (worker("", part=SCHEDULER, worker="s", routes=()),)
WORKERS = (worker("realtime"), worker("bulk"))


def found(
    workers: Sequence[Lease] = WORKERS, schedulers: Sequence[Lease] = SCHEDULERS, *silent: Silent, **terms: Any
) -> list[Impairment]:
    given: dict[str, Any] = {"drained": ROUTES, "lanes": BOTH, "now": NOW} | terms
    return list(impairments(Processes(tuple(workers), tuple(schedulers), silent), **given))


def kinds(all_of: Sequence[Impairment]) -> list[tuple[str, str]]:
    return [(one.kind.value, one.subject) for one in all_of]


def test_nothing_is_wrong_with_a_scheduler_and_a_worker_for_each_lane() -> None:
    assert found() == []
    assert found([*WORKERS, worker(impairment=IS_STOPPING)]) == []


def test_no_scheduler_is_wrong_whoever_else_lives() -> None:
    (one,) = found(schedulers=())
    assert (one.kind, one.concerns(["realtime"]), one.concerns(["bulk"])) == (ImpairmentKind.SCHEDULER, True, True)
    assert one.text.endswith("Start one: trivet scheduler, or all of it: trivet up")
    assert kinds(found([], ())) == [("scheduler", "scheduler"), ("lane", "realtime"), ("lane", "bulk")]


@pytest.mark.parametrize(("lanes", "missing"), [(BOTH, [("lane", "realtime")]), (("bulk",), [])])
def test_a_lane_without_a_worker_is_wrong_where_it_is_to_be_served(
    lanes: Sequence[str], missing: list[tuple[str, str]]
) -> None:
    wrong = found([worker("bulk")], lanes=lanes)
    assert kinds(wrong) == missing
    assert [(one.concerns(["bulk"]), one.concerns(["realtime"])) for one in wrong] == [(False, True)] * len(missing)


def test_a_route_without_a_worker_is_wrong_unless_it_is_out_of_service() -> None:
    assert kinds(found(drained={"r": False, "lonely": False, "out": True})) == [("route", "lonely")]
    assert kinds(found([])) == [("lane", "realtime"), ("lane", "bulk")]  # which says it of every route


def test_a_route_that_every_worker_refuses_is_named_with_the_reason() -> None:
    refusing = [one._replace(impaired={"r": "No key is set here."}) for one in WORKERS]
    (one,) = found(refusing)
    assert (one.kind, one.text) == (ImpairmentKind.ROUTE, "No worker takes work of r: No key is set here.")
    assert not one.concerns(["bulk"])
    assert found([refusing[0], WORKERS[1]]) == []


def test_a_silent_process_is_named_with_its_time() -> None:
    (one,) = found(WORKERS, SCHEDULERS, Silent("w2@host", "worker", "bulk", ("r",), NOW - 20))
    assert one.text.startswith("worker w2@host has been silent since its lease ran out 20 s ago: it is stopped, dead")
    assert (one.concerns(["bulk"]), one.concerns(["realtime"])) == (True, False)
    (of_all,) = found(WORKERS, SCHEDULERS, Silent("s@host", "scheduler", "", (), NOW - 3))
    assert of_all.concerns(["realtime"])


def test_a_silent_process_whose_work_others_do_is_only_a_remark() -> None:
    (one,) = found(WORKERS, SCHEDULERS, Silent("w2@host", "worker", "bulk", ("r",), NOW - 20, covered=True))
    assert one.text.endswith("20 s ago. Its work is done by others, so nothing waits for it.")
    assert (one.holds_up, one.concerns(["bulk"])) == (False, False)


def test_what_processes_say_of_themselves_is_told_once_from_either_source() -> None:
    full = "The database is full."
    impaired = [worker("realtime"), worker(impairment=full)]
    said = [Announced("w.bulk", "worker", full, NOW - 40), Announced("s", "scheduler", full, NOW - 5)]
    assert [one.text for one in found(impaired, said=said)] == [
        f"scheduler s dispatches nothing for 5 s: {full}",
        f"worker w.bulk takes no work for 40 s: {full}",
    ]
    (one,) = found(impaired)
    assert (one.text, one.lane) == (f"worker w.bulk takes no work: {full}", "bulk")
    assert kinds(found(server="Redis is away.")) == [("server", "")]
