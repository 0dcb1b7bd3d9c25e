"""Rehearsals without processes: settings on the scaled clock, outages as people write them, and the choice of a speed."""

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.command_line import run_trivet

from trivet.plan.planner import Planner
from trivet.rehearse.outages import FAULTS, Outage, OutagePlayer, read_outages
from trivet.rehearse.pace import Workplan, WorkplanReader, choose_speed, most_speed
from trivet.rehearse.rehearsal import is_sampled
from trivet.rehearse.scaling import SCALES, Scale, scaled, scaled_config, scaled_route
from trivet_simulator import SimulatorProcess
from trivet_tasks.call_times import CallTime, call_time
from trivet_tasks.config.budgets import BudgetSettings
from trivet_tasks.config.celery_apps import CeleryAppSettings
from trivet_tasks.config.route_settings import LimitGroup, RouteSettings
from trivet_tasks.config.schedules import ScheduleSettings
from trivet_tasks.config.settings import Settings, load_settings
from trivet_tasks.errors import InvalidRequest
from trivet_tasks.jobs import JobSpec
from trivet_tasks.latency import ClassSettings, Lane, Latency
from trivet_tasks.requests.jsonl import check_file

CONFIG = """
[routes.direct]
provider = "anthropic"
requests_per_minute = 300
residency = ["us", "eu"]
api_key = "env:NOBODYS_KEY"
[routes.aws-us]
provider = "bedrock"
region = "us-east-1"
residency = ["us"]
requests_per_minute = 600
max_concurrency = 500
idle_probe_s = 60
[[routes.aws-us.limits]]
models = ["claude-haiku-*"]
output_tokens_per_minute = 1_000
[classes.async]
deadline_s = 3_600
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    path = tmp_path / "trivet.toml"
    path.write_text(CONFIG, encoding="utf-8")
    return load_settings(path)


class Planned(NamedTuple):
    """Times as a plan has them."""

    times: dict[Latency, CallTime]
    silence_s: dict[Latency, float]


def write_requests(folder: Path, count: int, **fields: Any) -> Path:
    """Write a file of requests that differ in their prompts."""
    path = folder / "requests.jsonl"
    common = {"model": "claude-sonnet-5-5", "max_tokens": 1_000, **fields}
    path.write_text("".join(json.dumps({**common, "prompt": f"Document {n}"}) + "\n" for n in range(count)))
    return path


def planned(settings: Settings, path: Path) -> Workplan:
    now = time.time()
    return WorkplanReader(Planner(settings), 300).read(lambda each: check_file(path, settings, {}, now=now, each=each))[
        1
    ]


# the scaled clock


def test_every_setting_is_classified() -> None:
    tables: dict[str, Any] = {
        name: field.annotation for name, field in Settings.model_fields.items()
    } | {
        "classes": ClassSettings, "routes": RouteSettings, "budgets": BudgetSettings, "schedules": ScheduleSettings,
        "celery_apps": CeleryAppSettings, "limits": LimitGroup,
    }  # fmt: skip
    fields = {name: set(table.model_fields) for name, table in tables.items()}
    assert {name: set(scales) for name, scales in SCALES.items()} == fields, (
        "a new setting: say in trivet/rehearse/scaling.py whether it is a time, a rate or neither"
    )


def test_fields_named_as_seconds_or_per_minute_are_treated_as_such() -> None:
    for table, scales in SCALES.items():
        for name, scale in scales.items():
            if name.endswith("_s"):
                assert scale in (Scale.TIME, Scale.MACHINE, Scale.REPLACED), f"[{table}] {name}"
            if name.endswith("_per_minute"):
                assert scale is Scale.RATE, f"[{table}] {name}"


def test_a_route_keeps_its_place_and_loses_its_address_and_key(settings: Settings) -> None:
    route = scaled_route(settings.routes["aws-us"], 10)
    assert route == {
        "provider": "bedrock",
        "region": "us-east-1",
        "residency": ["us"],
        "requests_per_minute": 6_000,
        "max_concurrency": 500,
        "idle_probe_s": 6,
        "limits": [{"models": ["claude-haiku-*"], "output_tokens_per_minute": 10_000}],
    }
    assert "api_key" not in scaled_route(settings.routes["direct"], 10)


def test_a_sample_shrinks_limits_and_calls_in_flight(settings: Settings) -> None:
    route = scaled_route(settings.routes["aws-us"], 10, share=0.1)
    assert (route["requests_per_minute"], route["max_concurrency"]) == (600, 50)


@given(speed=st.floats(1, 100), share=st.floats(0.001, 1))
def test_what_is_scaled_is_scaled_back_by_the_same_factor(speed: float, share: float) -> None:
    health = scaled("health", {"window_s": 30.0, "min_calls": 10}, speed, share)
    assert health["window_s"] * speed == pytest.approx(30)
    assert health["min_calls"] == 10
    limits = scaled("limits", {"models": ["*"], "requests_per_minute": 1, "max_concurrency": 1}, speed, share)
    assert limits["requests_per_minute"] >= 1
    assert limits["max_concurrency"] == 1


def test_the_written_configuration_reads_as_the_scaled_settings(settings: Settings, tmp_path: Path) -> None:
    path, plan = tmp_path / "scaled.toml", Planned({Latency.BATCH: CallTime(40, 80)}, {Latency.BATCH: 60.0})
    path.write_text(scaled_config(settings, plan, (Lane.BULK,), 10), encoding="utf-8")
    found = load_settings(path)
    batch, deferred = found.of_class(Latency.BATCH), found.of_class(Latency.DEFERRED)
    assert (batch.first_token_timeout_s, batch.stall_timeout_s) == (6, 6)
    assert (deferred.first_token_timeout_s, deferred.stall_timeout_s) == (None, None)
    assert found.of_class(Latency.INTERACTIVE).stall_timeout_s == 1, "of its own"
    assert found.of_class(Latency.ASYNC).deadline_s == 360
    job = JobSpec("claude-sonnet-5-5", Latency.BATCH, b"{}", "", 100, 1_000)
    assert call_time(found.classes, job.latency, job.model, job) == CallTime(4, 8, pace=10)
    assert found.health.probe_interval_s == settings.health.probe_interval_s / 10
    assert found.leases == settings.leases
    assert found.worker.lanes == (Lane.BULK,)
    assert found.routes == {}


@given(total=st.integers(1, 500), data=st.data())
def test_a_sample_has_so_many_requests_from_everywhere(total: int, data: st.DataObject) -> None:
    sample = data.draw(st.integers(1, total))
    taken = [number for number in range(total) if is_sampled(number, sample, total)]
    assert len(taken) == sample
    assert [number * sample // total for number in taken] == list(range(sample))


def test_a_sample_of_alternating_requests_has_every_kind() -> None:
    taken = [number for number in range(4_000) if is_sampled(number, 1_000, 4_000)]
    assert {number % 4 for number in taken} == {0, 1, 2, 3}


# outages


@pytest.mark.parametrize(
    ("text", "outages"),
    [
        ("aws-us=10m", [Outage("aws-us", 600, None)]),
        ("aws-us=90s@5m", [Outage("aws-us", 90, 300)]),
        ("aws-us=1h:529", [Outage("aws-us", 3_600, None, "529")]),
        ("aws-us=10m@0s:timeout", [Outage("aws-us", 600, 0, "timeout")]),
        ("anthropic=10m:429", [Outage("direct", 600, None, "429")]),
    ],
)
def test_an_outage_as_people_write_it(settings: Settings, text: str, outages: list[Outage]) -> None:
    assert read_outages([text], settings.routes) == outages


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("aws-us", "is not an outage"),
        ("aws-us=soon", "'soon' is not a span of time"),
        ("aws-us=10", "'10' needs a unit"),
        ("aws-us=0m", "lasts no time"),
        ("aws-us=10m@5", "'5' needs a unit"),
        ("aws-us=10m:418", "'418' is not a kind of outage"),
        ("aws-eu=10m", "no route or provider is called 'aws-eu'"),
    ],
)
def test_what_is_no_outage_is_named(settings: Settings, text: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_outages([text], settings.routes)
    assert words in str(caught.value)


def test_an_unknown_route_names_those_there_are_and_exits_with_2(tmp_path: Path) -> None:
    (tmp_path / "trivet.toml").write_text(CONFIG, encoding="utf-8")
    write_requests(tmp_path, 1)
    said = run_trivet("--config", "trivet.toml", "rehearse", "requests.jsonl", "--outage", "aws-eu=10m", cwd=tmp_path)
    assert said.code == 2
    assert "direct, aws-us" in said.err


def test_an_outage_without_a_start_begins_after_a_tenth_of_the_plan() -> None:
    assert Outage("aws-us", 600, None).within(1_200) == Outage("aws-us", 600, 120)
    assert Outage("aws-us", 600, 7).within(1_200).starts_s == 7


def test_overlapping_outages_of_a_route_are_played_and_ended_by_themselves() -> None:
    wires = [word for route in ("a", "b") for word in ("--extra", f"route-{route}=bedrock")]
    with SimulatorProcess(*wires) as simulator:
        control = simulator.control
        player = OutagePlayer(control, [Outage("a", 10, 0, "529"), Outage("a", 10, 5, "500"), Outage("b", 5, 20)])

        def faults_at(now_s: float) -> list[str]:
            player.play(now_s)
            return [one["kind"] for one in control.providers()["route-a"]["faults"]]

        assert [faults_at(now_s) for now_s in (0, 5, 10, 15)] == [
            ["overloaded"], ["overloaded", "server_error"], ["server_error"], [],
        ]  # fmt: skip
        player.play(20)
        assert [one.route for one in player.active] == ["b"]
        assert not control.providers()["route-b"]["up"]
        assert not player.over
        player.play(25)
        assert control.providers()["route-b"]["up"]
        assert player.over


def test_the_wait_that_a_limited_provider_asks_for_is_scaled() -> None:
    wires = {"direct": "anthropic", "aws": "bedrock"}
    extras = [word for name, wire in wires.items() for word in ("--extra", f"route-{name}={wire}")]
    with SimulatorProcess(*extras) as simulator:
        outages = [Outage(name, 10, 0, "429") for name in wires]
        OutagePlayer(simulator.control, outages, speed=10, wires=wires).play(0)
        direct, aws = (simulator.control.providers()[f"route-{name}"]["faults"][0] for name in wires)
    assert direct["retry_after_s"] == 0.5, "5 s on the provider's clock"
    assert aws.get("retry_after_s") is None, "Bedrock names no time"


def test_every_kind_is_a_fault_of_every_wire() -> None:
    wires = ("anthropic", "bedrock", "vertex", "messages", "mantle", "platform")
    extras = [word for wire in wires for word in ("--extra", f"route-{wire}={wire}")]
    with SimulatorProcess(*extras) as simulator:
        for wire in wires:
            player = OutagePlayer(simulator.control, [Outage(wire, 10, n, kind) for n, kind in enumerate(FAULTS)])
            player.play(9)
            shown = simulator.control.providers()[f"route-{wire}"]
            assert len(shown["faults"]) == len(FAULTS) - 1


# the speed


def test_the_plan_uses_the_limits_of_all_routes(settings: Settings, tmp_path: Path) -> None:
    workplan = planned(settings, write_requests(tmp_path, 1_800))
    assert workplan.planned_s == pytest.approx(120, rel=0.02), "900 requests a minute together"
    assert not workplan.stranded
    bound = planned(settings, write_requests(tmp_path, 1_800, residency="eu"))
    assert bound.planned_s == pytest.approx(360, rel=0.02), "300 a minute in the only route of the eu"


def test_requests_that_no_route_takes_are_counted_with_the_reasons(settings: Settings, tmp_path: Path) -> None:
    workplan = planned(settings, write_requests(tmp_path, 20, residency="moon"))
    (stranded,) = workplan.stranded.values()
    assert stranded.requests == 20
    assert "direct" in stranded.reasons
    assert "aws-us" in stranded.reasons


def test_classes_with_long_answers_are_left_after_a_silence_that_is_scaled(settings: Settings, tmp_path: Path) -> None:
    path = write_requests(tmp_path, 10, max_tokens=4_096)

    def plan(output_tokens: int) -> Workplan:
        reader = WorkplanReader(Planner(settings), output_tokens)
        return reader.read(lambda each: check_file(path, settings, {}, now=time.time(), each=each))[1]

    assert plan(300).silence_s == {}
    long = plan(2_000)
    assert long.silence_s == {Latency.BATCH: 60}, "a route of Bedrock sends no pings"
    assert most_speed(long, 0.001)[0] == pytest.approx(min(120, long.times[Latency.BATCH].budget_s / 1.5))


def test_the_speed_makes_a_long_run_short_within_what_is_true(settings: Settings, tmp_path: Path) -> None:
    workplan = planned(settings, write_requests(tmp_path, 1_800))
    hour = [Outage("aws-us", 3_600, 12)]
    assert choose_speed(workplan, [], 1.0, None) == pytest.approx(1.2)
    most, _ = most_speed(workplan, 1.0)
    assert choose_speed(workplan, hour, 1.0, None) == pytest.approx(most, abs=0.1)
    assert choose_speed(workplan, hour, 0.1, None) == pytest.approx(30, abs=0.2), "an hour in two minutes"


def test_a_speed_that_would_be_untrue_is_refused_with_the_highest_that_is_not(
    settings: Settings, tmp_path: Path
) -> None:
    workplan = planned(settings, write_requests(tmp_path, 10, latency="realtime"))
    with pytest.raises(InvalidRequest, match="a round of class realtime") as caught:
        choose_speed(workplan, [], 1.0, 10)
    assert "At most 2;" in caught.value.hint
    assert choose_speed(workplan, [], 1.0, 2) == 2
