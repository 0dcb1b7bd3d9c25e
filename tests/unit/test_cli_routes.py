"""Output of `trivet routes`: tables that fit, the reason for each route's state, what keeps jobs waiting."""

from dataclasses import replace
from typing import Any

import pytest
from tests.builders import MODEL, breaker, pace, recovering, route
from tests.unit.cluster_statuses import BUSY, HAIKU, LIMITED, NOW, model, picture, plain, status

from trivet.admin.route_probe import what_next
from trivet.cli.routes_remarks import remarks, summary
from trivet.cli.routes_view import routes_table, short
from trivet.client.blocked import BlockedKind, BlockedReason, blocked_reason_of, merged
from trivet.client.impairments import Impairment, ImpairmentKind
from trivet.json_objects import cluster_object
from trivet.times import ago
from trivet_routing.limits import FORGOTTEN
from trivet_routing.permits import BreakerView
from trivet_routing.route_choice import Candidate, Requirements, choose
from trivet_store.cluster.leases import Lease
from trivet_store.events import Drop, Dropped
from trivet_store.jobs.deliveries import AppDeliveries
from trivet_store.reports.backlog import ClassBacklog
from trivet_tasks.config.route_windows import RouteWindow
from trivet_tasks.config.settings import HealthSettings
from trivet_tasks.latency import DEFAULTS, Latency
from trivet_tasks.states import RouteState


@pytest.mark.parametrize("room", [80, 100, 120, 140, 160, 200])
def test_every_line_fits_the_terminal_and_says_the_state(room: int) -> None:
    lines = [*routes_table(BUSY, room), *remarks(BUSY, room), *summary(BUSY, room)]
    assert max(line.cell_len for line in lines) <= room
    table = plain(routes_table(BUSY, room))
    assert table[0].split()[:3] == ["ROUTE", "MODEL", "STATE"]
    assert "P95" in table[0]
    assert "QUEUED" in table[0]
    assert any("recovering 25%" in line for line in table)


def test_the_classes_of_a_model_have_their_own_pace() -> None:
    table = plain(routes_table(BUSY, 200))
    at = next(number for number, line in enumerate(table) if "recovering" in line)
    assert "realtime  200 ms  400 ms    3/41  48/50      12" in table[at]
    assert table[at + 1].split() == ["batch", "1.5", "s", "3.0", "s"]
    one_class = picture(status("anthropic", model(paces={Latency.BATCH: pace(0.5)})))
    assert "CLASS" not in routes_table(one_class, 200)[0].plain


def test_headroom_and_limits_are_shown_and_those_of_a_group_as_shared() -> None:
    table = plain(routes_table(BUSY, None))
    haiku, sonnet = (next(line for line in table if name in line) for name in (HAIKU, "open"))
    assert "claude-haiku-*: 1k req" in haiku
    assert "600 req, 300k in" in sonnet
    assert "claude-haiku-*:" not in sonnet
    assert "4.9k" in sonnet
    idle = picture(status("bedrock-us-east-1", model(settings=LIMITED), settings=LIMITED))
    assert plain(routes_table(idle, None))[-1].split() == ["bedrock-us-east-1", "claude-haiku-*", "1k", "req"]


def test_what_only_the_provider_told_us_is_marked() -> None:
    learned = picture(status("anthropic", model(requests=60.0, per_minute=(3_940.0, None, None))))
    assert "~3.94k req" in plain(routes_table(learned, None))[1]


def test_the_window_in_force_is_shown() -> None:
    window = RouteWindow.model_validate({"hours": "22-06", "cost_factor": "0.5"})
    shown = picture(status("a", window=window), status("b"))
    lines = plain(routes_table(shown, None))
    assert lines[0].endswith("WINDOW")
    assert "22-06 UTC: cost x0.5" in lines[1]
    assert "22-06" not in lines[2]
    assert [one["window"] and one["window"]["hours"] for one in cluster_object(shown)["routes"]] == ["22-06", None]


def test_columns_without_a_figure_are_left_out() -> None:
    assert "NOW" not in routes_table(picture(status("anthropic")), 200)[0].plain


def test_a_narrow_terminal_gets_short_model_names_and_a_pipe_whole_ones() -> None:
    assert "sonnet-5-5" in plain(routes_table(BUSY, 80))[1]
    assert "claude-" not in plain(routes_table(BUSY, 80))[1]
    assert MODEL in plain(routes_table(BUSY, None))[1]


def test_why_is_said_once_for_models_that_share_it() -> None:
    shut: dict[str, Any] = {"cause": "unusable: no such key.", "wait_s": 40.2}
    both = picture(status("anthropic", model(HAIKU, "open", **shut), model(MODEL, "open", **shut)))
    assert plain(remarks(both, None)) == ["anthropic: open (unusable: no such key), next probe in 40 s"]
    said = plain(remarks(BUSY, None))
    assert said == [
        f"bedrock-us-east-1 {HAIKU}: recovering: gets 25% of its work, 50 of 200 calls at once",
        f"bedrock-us-east-1 {MODEL}: open (overloaded: Overloaded), next probe in 12 s",
    ]


def test_a_long_cause_is_cut_at_a_word() -> None:
    (said,) = plain(remarks(picture(status("r", model(state="limited", cause="word " * 200, wait_s=9))), None))
    assert said.endswith("word …), next headroom in 9 s")
    assert len(said) < 220


def test_fewer_places_than_configured_are_explained_only_where_nothing_else_explains_them() -> None:
    assert plain(remarks(picture(status("r", model(places=50))), None)) == [
        "r: 50 of 200 calls at once, learned from its refusals"
    ]
    assert plain(remarks(picture(status("r", model(places=200))), None)) == []
    limited = model(state="limited", cause="rate_limited: slow down", wait_s=12, places=50)
    assert plain(remarks(picture(status("r", limited)), None)) == [
        "r: limited (rate_limited: slow down), next headroom in 12 s"
    ]


def test_a_drained_route_says_since_when_why_and_what_still_stands_there() -> None:
    drained = status("r", drained=True, drained_at=NOW - 600, drained_why="by an operator: maintenance")
    assert plain(remarks(picture(drained), None)) == [
        "r: drained 10 min ago (by an operator: maintenance); 12 queued go back to waiting, 34 running end there; "
        "back with: trivet route restore r"
    ]
    table = plain(routes_table(picture(drained), None))
    assert "drained  10 min" in table[1]


def test_routes_without_workers_and_impaired_workers_are_named() -> None:
    lease = Lease("l", "worker-1@host", "bulk", ("r",), 64, 0, "the database does not answer", NOW)
    keyless = Lease("k", "worker-2@host", "bulk", ("half", "r"), 64, 0, None, NOW, {"half": "No key is set here."})
    found = picture(
        status("lonely", slots={}, workers={}),
        status("half", slots={"bulk": 64}, workers={"bulk": 1}, lacking=("realtime",)),
        status("unheard", known=False),
        workers=(lease, keyless),
        impairments=(
            Impairment(ImpairmentKind.IDLE, lease.worker, f"worker {lease.worker} takes no work: {lease.impairment}"),
        ),
    )
    assert plain(remarks(found, None)) == [
        "lonely: no living worker serves it",
        "half: no realtime worker serves it",
        "unheard: is in the configuration; no scheduler or worker has made it known yet",
        "worker worker-1@host takes no work: the database does not answer",
        "worker worker-2@host takes no work of half: No key is set here.",
    ]
    assert "unserved" in plain(routes_table(found, None))[1]
    assert "No route is known yet" in plain(remarks(picture(), None))[0]


def test_after_a_flush_it_is_said_once_that_nobody_calls() -> None:
    lost = model(state="limited", cause=FORGOTTEN, wait_s=1.0, since=None)
    said = plain(remarks(picture(status("a", lost), status("b", lost)), None))
    assert len(said) == 1
    assert said[0].startswith("Calls are paused: the shared state is new or was emptied")


def test_what_was_last_known_is_said_while_the_shared_state_is_away() -> None:
    away = picture(status("a", model(state=RouteState.UNKNOWN, cause="open when last noted: overloaded", places=None)))
    assert plain(remarks(away, None)) == ["a: open when last noted: overloaded"]


def test_what_waits_and_what_holds_it_up() -> None:
    waiting = (ClassBacklog("batch", 400, 12, 0, NOW - 61), ClassBacklog("async", 0, 0, 7, NOW - 30))
    reason = BlockedReason(
        BlockedKind.THROTTLED, "Throttled, next headroom in 12 s on vertex-us-east5", (f"batch {MODEL}",), ()
    )
    assert plain(summary(picture(waiting=waiting, blocked=(reason,)), None)) == [
        "Waiting: 412 batch (12 for their next try), 7 async (7 held); the oldest for 61.0 s.",
        f"Throttled, next headroom in 12 s on vertex-us-east5 (batch {MODEL}).",
    ]
    assert plain(summary(picture(), None)) == ["No job waits."]


NEEDS = Requirements(MODEL, Latency.BATCH)


def held(*candidates: Candidate, needs: Requirements = NEEDS) -> BlockedReason | None:
    found = list(candidates)
    return blocked_reason_of(needs, choose(needs, found, DEFAULTS[Latency.BATCH]), found)


def test_jobs_are_throttled_only_when_every_route_that_could_take_them_is_limited() -> None:
    near = route("vertex-us-east5", at=breaker(state="limited", cause="rate_limited: x", wait_s=11.2))
    far = route("anthropic", at=breaker(state="limited", cause="rate_limited: x", wait_s=60))
    shut = route("bedrock", at=breaker(state="open", cause="overloaded: x", wait_s=3))
    other = route("other", wire_model=None)
    found = held(far, near, shut, other)
    assert found is not None
    assert (found.kind, found.text) == (BlockedKind.THROTTLED, "Throttled, next headroom in 12 s on vertex-us-east5")
    assert [reason.split(":")[0] for reason in found.reasons] == ["anthropic", "vertex-us-east5", "bedrock", "other"]
    assert held(far, near, route("free")) is None


def test_jobs_for_which_every_route_is_too_slow_say_so_and_what_to_do() -> None:
    needs = replace(NEEDS, too_slow=("a", "b"))
    found = held(route("a"), route("b"), needs=needs)
    assert found is not None
    assert found.kind is BlockedKind.UNFIT
    assert found.text == (
        "No route can ever take these jobs (a: not known to answer within the time of the job's call; "
        "b: not known to answer within the time of the job's call); add a faster route, or cancel them and submit them "
        "again with fewer max_tokens or in a class with more time"
    )
    assert held(route("a"), route("c"), needs=needs) is None
    shut = held(route("a"), route("c", at=breaker(state="open", cause="x", wait_s=7.5)), needs=needs)
    assert shut is not None
    assert shut.text == "No route is healthy, next probe in 8 s on c"


def test_jobs_that_wait_for_a_moment_or_a_place_are_not_held_up() -> None:
    assert held(route("a", at=breaker(wait_s=0.4, headroom=0))) is None
    assert held(route("a", at=breaker(in_flight=200))) is None


@pytest.mark.parametrize(
    ("candidates", "kind", "text"),
    [
        ([route("a", at=breaker(state="open", cause="x", wait_s=7.5)), route("b", drained=True)], BlockedKind.UNHEALTHY,
         "No route is healthy, next probe in 8 s on a"),
        ([route("a", at=breaker(state="probing", cause="x", wait_s=0.001))], BlockedKind.UNHEALTHY,
         "No route is healthy, next probe now on a"),
        ([route("a", drained=True), route("b", lanes=("realtime",)), route("c", wire_model=None)], BlockedKind.OUT,
         "No route takes these jobs now (a: drained by an operator; b: no bulk worker serves it)"),
        ([route("c", wire_model=None)], BlockedKind.UNFIT, f"No route can ever take these jobs (c: does not serve {MODEL})"),
        ([], BlockedKind.OUT, "No route is known yet: schedulers and workers make theirs known when they start"),
        ([route("a", at=breaker(state="limited", cause=FORGOTTEN, wait_s=1.0))], BlockedKind.FORGOTTEN,
         "Calls are paused: the shared state is new or was emptied, and a scheduler is rebuilding limits and health"),
    ],
)  # fmt: skip
def test_why_jobs_wait_otherwise(candidates: list[Candidate], kind: BlockedKind, text: str) -> None:
    found = held(*candidates)
    assert found is not None
    assert (found.kind, found.text) == (kind, text)


def test_one_sentence_of_a_kind_is_said_the_one_that_ends_first() -> None:
    def throttled(model: str, seconds: float) -> BlockedReason:
        return BlockedReason(
            BlockedKind.THROTTLED, f"Throttled, next headroom in {seconds:.0f} s on a", (model,), (), seconds
        )

    out = BlockedReason(BlockedKind.OUT, "No route takes these jobs now (a: drained)", ("x",), ())
    found = merged([throttled("late", 9), out, throttled("soon", 3), replace(out, text="b", jobs=("y",))])
    assert [reason.sentence(named=True) for reason in found] == [
        "Throttled, next headroom in 3 s on a (late, soon).",
        "No route takes these jobs now (a: drained) (x).",
        "b (y).",
    ]


@pytest.mark.parametrize(
    ("at", "goods", "words"),
    [
        (breaker(state="open", wait_s=11.2), 0, "3 good probes in a row, the next in 12 s, then 10% of its work"),
        (breaker(state="probing", wait_s=2.9), 1, "2 more good probes, the next in 3 s, then 10% of its work"),
        (breaker(state="probing", wait_s=0.001), 2, "1 more good probe, the next now, then 10% of its work"),
        (recovering(0.25), 0, "it gets 25% of its work, 50% after 20 s and 5 good calls at each share"),
        (breaker(state="limited", cause="rate_limited: x.", wait_s=3), 0, "it is limited (rate_limited: x), next headroom in 3 s"),
        (breaker(), 0, "it gets all of its work"),
    ],
)  # fmt: skip
def test_what_comes_after_a_probe(at: BreakerView, goods: int, words: str) -> None:
    assert what_next(at, goods, HealthSettings(), drained=False) == words


def test_a_drained_route_gets_nothing_by_itself() -> None:
    assert "by hand alone" in what_next(breaker(state="open", wait_s=3), 0, HealthSettings(), drained=True)
    assert "stays drained" in what_next(breaker(), 0, HealthSettings(), drained=True)


def test_json_has_every_figure() -> None:
    found = cluster_object(BUSY)
    haiku, sonnet = found["routes"][1]["models"]
    assert haiku["window"] == {"calls": 41, "failed": 3}
    assert haiku["latency"]["realtime"] == {"p50_s": 0.2, "p95_s": 0.4, "calls": 100}
    assert haiku["limits"] == {
        "group": "claude-haiku-*", "requests_per_minute": 1_000, "input_tokens_per_minute": None,
        "output_tokens_per_minute": None, "max_concurrency": 200,
    }  # fmt: skip
    assert (sonnet["state"], sonnet["wait_s"], sonnet["headroom"]["input_tokens"]) == ("open", 12.4, 4_900.0)


@pytest.mark.parametrize(
    ("seconds", "words"), [(-3, "0 s"), (119, "119 s"), (120, "2 min"), (7_199, "119 min"), (7_200, "2 h"), (500_000, "5 d")]
)  # fmt: skip
def test_spans_in_their_largest_unit(seconds: float, words: str) -> None:
    assert ago(seconds) == words


@pytest.mark.parametrize(
    ("figure", "words"), [(None, ""), (0.9, "0"), (999, "999"), (4_900, "4.9k"), (2_000_000, "2M")]
)
def test_figures_in_few_characters(figure: float | None, words: str) -> None:
    assert short(figure) == words


def test_what_was_dropped_is_said_for_an_hour_and_counted_for_ever() -> None:
    lately = Dropped(Drop.FORGED, "vertex", 3, NOW - 7_200, NOW - 120)
    long_ago = Dropped(Drop.UNREADABLE, "", 1, NOW - 7_200, NOW - 7_200)
    shown = picture(status("vertex"), dropped=(lately, long_ago))
    (line,) = [line.plain for line in remarks(shown, None) if "dropped" in line.plain]
    assert line.startswith("vertex: dropped messages that contradict the database")
    assert line.endswith("(3 times, last 2 min ago)")
    assert [(one["kind"], one["route"], one["times"]) for one in cluster_object(shown)["dropped"]] == [
        ("forged", "vertex", 3),
        ("unreadable", "", 1),
    ]


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (AppDeliveries("shop", 3, 0, NOW - 2, None, None), None),
        (AppDeliveries("shop", 3, 0, NOW - 300, None, None), "3 to send, the oldest of an end 5 min ago. No scheduler with [celery_apps.shop] sends them."),
        (AppDeliveries("shop", 0, 2, NOW - 300, None, None), "2 not confirmed yet, the oldest of an end 5 min ago."),
        (AppDeliveries("shop", 1, 1, NOW - 300, NOW - 240, "The broker does not answer."), "1 to send, 1 not confirmed yet, the oldest of an end 5 min ago. Sending fails for 4 min: The broker does not answer."),
        (AppDeliveries("shop", 0, 0, None, NOW - 240, "The broker does not answer."), "none. Sending fails for 4 min: The broker does not answer."),
    ],
)  # fmt: skip
def test_callbacks_that_are_not_sent_are_named(one: AppDeliveries, said: str | None) -> None:
    seen = replace(picture(), callbacks=(one,))
    lines = plain(summary(seen, None))
    assert lines[1:] == ([] if said is None else [f"Callbacks to shop: {said}"])
    assert cluster_object(seen)["callbacks"][0]["app"] == "shop"
