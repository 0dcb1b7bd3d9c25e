"""The commands that put jobs in, watch them and read what came of them, against a running Trivet."""

import gzip
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path

import pytest
from tests.builders import unique
from tests.command_line import Said
from tests.databases import database_of, migrated
from tests.timing import until

from trivet.cli import progress
from trivet.testing import RunningTrivet
from trivet_store.cluster import registry
from trivet_tasks.config.settings import load_settings

TERMS = ("--model", "claude-sonnet-5-5", "--max-tokens", "40")
DEADLINE_S = 60.0


def config(system: RunningTrivet) -> Path:
    return Path(system.settings.source)


def write_requests(path: Path, count: int, **more: object) -> Path:
    rows = ({"prompt": f"document {number} of {path.stem}", **more} for number in range(count))
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def test_submit_and_wait_prints_text_route_latency_and_cost(trivet: Callable[..., Said]) -> None:
    said = trivet(
        "submit", "hello [bold]", "--latency", "realtime", "--max-tokens", "100", "--wait", "--timeout", "20s"
    )
    assert said.code == 0
    assert said.err == ""
    *words, last = said.out.splitlines()
    assert "".join(words).strip()
    route, model, latency, cost, attempts, *_ = last.split(" · ")  # and the stop reason, where the answer was cut
    assert route in ("anthropic", "bedrock-us-east-1", "vertex-global")
    assert model == "claude-sonnet-5-5"
    assert latency.endswith(("ms", " s"))
    assert Decimal(cost.removeprefix("$")) > 0
    assert attempts == "1 attempt"


def test_submit_prints_the_id_and_the_job_can_be_followed(trivet: Callable[..., Said], tmp_path: Path) -> None:
    key = unique("key")
    request = tmp_path / "request.json"
    request.write_text(json.dumps({"prompt": "a secret prompt", "model": "claude-haiku-4-5", "max_tokens": 30}))
    said = trivet("submit", "--file", str(request), "--key", key, "--tag", "team=docs")
    job_id = said.out.strip()
    assert trivet("submit", "--file", str(request), "--key", key).out.strip() == job_id
    result = trivet("job", "result", job_id, "--wait", "--json").json
    assert (result["status"], result["tags"], result["model"]) == ("succeeded", {"team": "docs"}, "claude-haiku-4-5")
    assert trivet("job", "result", "--key", key).out.startswith(result["text"])

    life = trivet("job", "show", "--key", key)
    assert f"call 1 on {result['route']}: succeeded" in life.out
    assert result["attempts"][0]["request_id"] in life.out
    assert "accepted at" in life.out.split("call 1")[0]
    assert f"succeeded on {result['route']}" in life.out.split("call 1")[1]
    assert "secret prompt" not in life.out
    assert "secret prompt" in trivet("job", "show", job_id, "--with-request").out
    shown = trivet("job", "show", job_id, "--json").json
    assert shown["attempts"][0]["request_id"] == result["attempts"][0]["request_id"]
    assert shown["cost_usd"] == result["cost_usd"]
    assert "request" not in shown
    assert "message" not in shown


def test_one_key_of_two_tenants_is_two_jobs(trivet: Callable[..., Said]) -> None:
    key = unique("key")
    ids = {
        tenant: trivet("submit", f"For {tenant}.", "--key", key, "--tenant", tenant).out.strip()
        for tenant in ("acme", "globex")
    }
    assert len(set(ids.values())) == 2
    for tenant, job_id in ids.items():
        assert trivet("job", "show", "--key", key, "--tenant", tenant, "--json").json["id"] == job_id
    said = trivet("job", "show", "--key", key)
    assert said.code != 0
    assert "No job without a tenant has the key" in said.err
    assert "--tenant goes with --key" in trivet("job", "show", ids["acme"], "--tenant", "acme").err


def test_a_job_that_fails_says_why_and_exits_with_one(trivet: Callable[..., Said], system: RunningTrivet) -> None:
    for provider in ("anthropic", "bedrock", "vertex"):
        system.simulator.fault(provider, "context_too_long")
    said = trivet("submit", "hello", "--wait")
    assert said.code == 1
    assert said.out == ""
    assert said.err.startswith("trivet: job ")
    assert "failed: invalid: " in said.err
    (newest,) = trivet("job", "list", "--limit", "1", "--json").json
    life = trivet("job", "show", newest["id"]).out
    assert "call 1 on" in life
    assert ": invalid (400) in" in life
    assert "failed (invalid): " in life


def test_a_failover_is_told_in_order(trivet: Callable[..., Said], system: RunningTrivet) -> None:
    for provider in ("anthropic", "bedrock", "vertex"):
        system.simulator.fault(provider, "overloaded", times=1)
    job_id = trivet("submit", "hello").out.strip()
    result = trivet("job", "result", job_id, "--wait", "--json").json
    assert [attempt["outcome"] for attempt in result["attempts"]] == ["overloaded"] * 3 + ["succeeded"]
    life = trivet("job", "show", job_id).out
    told = [f"call {number} on {attempt['route']}: " for number, attempt in enumerate(result["attempts"], start=1)]
    at = [life.index(words) for words in [*told, f"succeeded on {result['route']}"]]
    assert at == sorted(at)
    assert life.count(": overloaded (") == 3


def test_a_waiting_job_can_be_cancelled(trivet: Callable[..., Said]) -> None:
    job_id = trivet("submit", "later", "--not-before", "1h").out.strip()
    assert "waits" in trivet("job", "show", job_id).out
    said = trivet("job", "result", job_id)
    assert (said.code, said.out) == (1, "")
    assert "delayed" in said.err
    assert [job["id"] for job in trivet("job", "list", "--state", "delayed", "--json").json].count(job_id) == 1
    assert trivet("job", "cancel", job_id, "--json").json == {"id": job_id, "cancelled": True, "state": "cancelled"}
    assert "had ended before" in trivet("job", "cancel", job_id).out
    said = trivet("job", "result", job_id)
    assert said.code == 1
    assert "was cancelled" in said.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["submit"], "There is no prompt."),
        (["submit", "x", "--model", "claude-sonet-5-5"], "Did you mean claude-sonnet-5-5"),
        (["submit", "x", "--latency", "realtim"], "Did you mean realtime?"),
        (["submit", "x", "--tag", "team"], "--tag: 'team' must read name=value."),
        (["submit", "x", "--deadline", "soon"], 'deadline: must be a span from now such as "90s"'),
        (["submit", "--file", "/nowhere/x.json"], "/nowhere/x.json: cannot be read: No such file"),
        (["bulk", "/nowhere/x.jsonl"], "/nowhere/x.jsonl: no such file."),
        (["bulk", "x.jsonl", "--once"], "--once: goes with --name NAME, and not with --again."),
        (["batch", "status", "nowhere"], "No batch is called 'nowhere'."),
        (["job", "show", "nowhere"], "No job has the id 'nowhere'."),
        (["job", "show"], "Name one job"),
        (["job", "list", "--state", "wating"], "Did you mean waiting?"),
        (["route", "drain", "bedrock-us-east-2"], "Did you mean bedrock-us-east-1?"),
        (["costs", "--by", "colour"], "--by: 'colour' is not known."),
        (["costs", "--since", "yesterday"], "--since: 'yesterday' is not a time."),
        (["costs", "--since", "30"], "--since: '30' needs a unit: days, hours, minutes?"),
        (["routes", "events", "--since", "30"], "--since: '30' needs a unit"),
        (["submit", "x", "--file", "/dev/null"], "/dev/null: is not JSON"),
        (["batch", "wait", "nowhere"], "No batch is called 'nowhere'."),
        (["batch", "wait", "nowhere", "--timeout", "soon"], "--timeout: 'soon' is not a span of time."),
        (["submit", "hello", "--timeout", "soon"], "--timeout: 'soon' is not a span of time."),
        (["job", "result", "nobody", "--timeout", "-1"], "--timeout: '-1' is not a span of time."),
    ],
    ids=lambda value: "-".join(value)[:40].replace("/", "_") if isinstance(value, list) else "",
)
def test_bad_input_is_said_to_be_so_with_exit_code_two(
    trivet: Callable[..., Said], arguments: Sequence[str], words: str
) -> None:
    said = trivet(*arguments)
    assert said.code == 2
    assert said.out == ""
    assert words in said.err


def test_bulk_checks_the_whole_file_first(trivet: Callable[..., Said], tmp_path: Path) -> None:
    file = write_requests(tmp_path / f"{unique('broken')}.jsonl", 20)
    lines = file.read_text().splitlines()
    lines[6], lines[12] = '{"prompt": ', '{"prompt": "x", "max_tokns": 3}'
    file.write_text("\n".join(lines) + "\n")
    refused = trivet("bulk", str(file), "--name", file.stem, *TERMS)
    assert refused.code == 2
    assert "line 7: is not JSON" in refused.err
    assert "line 13: max_tokns: unknown key. Did you mean max_tokens?" in refused.err
    assert trivet("batch", "status", file.stem).code == 2, "nothing was taken"

    taken = trivet("bulk", str(file), "--name", file.stem, *TERMS, "--skip-bad", "--wait", "--json")
    assert taken.code == 0
    assert "left out: " in taken.err
    assert (taken.json["succeeded"], taken.json["left_out"]) == (18, 2)
    assert [problem["where"] for problem in taken.json["problems"]] == ["line 7", "line 13"]

    lacking = trivet("bulk", str(file), "--skip-bad")
    assert lacking.code == 2
    assert "--model gives one to all lines that lack it." in lacking.err


def test_bulk_to_results_and_the_commands_about_its_batch(trivet: Callable[..., Said], tmp_path: Path) -> None:
    file = write_requests(tmp_path / f"{unique('bulk')}.jsonl", 60)
    out = tmp_path / "results.jsonl"
    said = trivet("bulk", str(file), "--name", file.stem, *TERMS, "--tag", "team=docs", "--out", str(out))
    assert said.code == 0
    assert "succeeded  60" in said.out
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert len({line["id"] for line in written}) == 60
    assert all(line["tags"] == {"team": "docs"} and line["text"] for line in written)

    status = trivet("batch", "status", file.stem, "--json").json
    assert (status["total"], status["succeeded"], status["done"], status["note"]) == (60, 60, True, None)
    assert Decimal(status["cost_usd"]) == sum(Decimal(line["cost_usd"]) for line in written)
    assert "state      done" in trivet("batch", "status", file.stem).out
    assert trivet("batch", "results", file.stem).lines == written
    assert file.stem in [batch["name"] for batch in trivet("batch", "list", "--json").json]
    assert file.stem in trivet("batch", "list").out
    assert len(trivet("job", "list", "--batch", file.stem, "--limit", "50", "--json").json) == 50

    again = trivet("bulk", str(file), "--name", file.stem, *TERMS, "--tag", "team=docs", "--out", str(out), "--json")
    assert (again.code, again.json["total"]) == (0, 60)
    assert [json.loads(line) for line in out.read_text().splitlines()] == written

    by_batch = {row["batch"]: row for row in trivet("costs", "--by", "batch", "--since", "1h", "--json").json["rows"]}
    assert by_batch[file.stem]["cost_usd"] == status["cost_usd"]
    assert by_batch[file.stem]["jobs"] == 60
    table = trivet("costs", "--by", "batch,class,day").out
    assert file.stem in table
    assert table.splitlines()[0].split()[:4] == ["BATCH", "CLASS", "DAY", "CALLS"]


def test_without_a_terminal_a_line_is_printed_every_few_seconds(
    trivet: Callable[..., Said], system: RunningTrivet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.3)
    for provider in ("anthropic", "bedrock", "vertex"):
        system.simulator.fault(provider, "latency", factor=20)
    file = write_requests(tmp_path / f"{unique('lines')}.jsonl", 300)
    assert trivet("bulk", str(file), "--name", file.stem, *TERMS).code == 0
    late = trivet("batch", "wait", file.stem, "--timeout", "1s")
    assert late.code == 1
    assert f"Its state: trivet batch status {file.stem}" in late.err
    system.simulator.clear()
    said = trivet("batch", "wait", file.stem)
    assert said.code == 0
    assert "succeeded  300" in said.out
    lines = [line for line in (late.err + said.err).splitlines() if line.startswith(f"{file.stem}: ")]
    form = r"\d+/300 jobs, 0 failed, \$\d+\.\d+(, [\d.,]+ jobs/s, [\d.]+ (ms|s|min \d+ s) left)?"
    told = [line.removeprefix(f"{file.stem}: ") for line in lines if "jobs, 0 failed" in line]
    assert told
    assert all(re.fullmatch(form, line) for line in told), told
    assert any(" left" in line for line in told)
    assert trivet("batch", "wait", file.stem, "--json").json["succeeded"] == 300


def test_a_line_of_anthropics_batches_runs_as_it_is(trivet: Callable[..., Said], tmp_path: Path) -> None:
    params = {"model": "claude-haiku-4-5", "max_tokens": 20, "messages": [{"role": "user", "content": "Hello"}]}
    line = {"custom_id": unique("page"), "params": params}
    file, one = tmp_path / f"{unique('anthropic')}.jsonl.gz", tmp_path / "one.json"
    file.write_bytes(gzip.compress(json.dumps(line).encode()))
    one.write_text(json.dumps(line | {"custom_id": unique("page")}))
    name = trivet("bulk", str(file), "--wait", "--json").json["name"]
    (result,) = trivet("batch", "results", name).lines
    assert (result["key"], result["model"], result["status"]) == (line["custom_id"], "claude-haiku-4-5", "succeeded")
    said = trivet("submit", "--file", str(one), "--wait", "--json").json
    assert (said["model"], said["usage"]["output_tokens"] <= 20) == ("claude-haiku-4-5", True)


def test_bulk_whose_jobs_fail_exits_with_one(
    trivet: Callable[..., Said], system: RunningTrivet, tmp_path: Path
) -> None:
    for provider in ("anthropic", "bedrock", "vertex"):
        system.simulator.fault(provider, "context_too_long")
    file = write_requests(tmp_path / f"{unique('failing')}.jsonl", 5)
    said = trivet("bulk", str(file), "--name", file.stem, *TERMS, "--wait")
    assert said.code == 1
    assert "failed     5" in said.out
    assert [line["error"]["outcome"] for line in trivet("batch", "results", file.stem).lines] == ["invalid"] * 5


def test_bulk_killed_while_it_writes_goes_on_where_it_was(system: RunningTrivet, tmp_path: Path) -> None:
    for provider in ("anthropic", "bedrock", "vertex"):
        system.simulator.fault(provider, "latency", factor=10)
    file = write_requests(tmp_path / f"{unique('killed')}.jsonl", 200)
    out, part = tmp_path / "results.jsonl", tmp_path / "results.jsonl.part"
    command = [
        sys.executable,
        "-m",
        "trivet",
        "--config",
        str(config(system)),
        "bulk",
        str(file),
        *TERMS,
        "--out",
        str(out),
    ]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: part.exists() and part.stat().st_size > 20_000, "a part of the file")
        assert first.poll() is None
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
    assert 0 < part.read_bytes().count(b"\n") < 200
    assert not out.exists()
    system.simulator.clear()
    subprocess.run(command, check=True, capture_output=True, timeout=DEADLINE_S)
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(written) == len({line["id"] for line in written}) == 200


def test_a_batch_can_be_cancelled_and_says_why_nothing_runs(
    trivet: Callable[..., Said], system: RunningTrivet, tmp_path: Path
) -> None:
    for provider in ("anthropic", "bedrock", "vertex"):
        system.simulator.fault(provider, "auth")
    file = write_requests(tmp_path / f"{unique('waiting')}.jsonl", 30)
    name = file.stem
    assert trivet("bulk", str(file), "--name", file.stem, *TERMS).code == 0
    until(lambda: trivet("batch", "status", name, "--json").json["note"] is not None)
    routes = {route["route"]: route for route in trivet("routes", "--json").json["routes"]}
    states = {model["state"] for route in routes.values() for model in route["models"]}
    assert states & {"open", "probing"}
    said = trivet("batch", "results", name, "--now")
    assert said.code == 0
    assert said.out == ""
    assert trivet("batch", "cancel", name).out.startswith(f"{name}: ")
    until(lambda: bool(trivet("batch", "status", name, "--json").json["done"]))
    status = trivet("batch", "status", name, "--json").json
    assert status["state"] == "cancelled"
    assert status["cancelled"] == 30
    assert trivet("batch", "accept", name).code == 2


def test_an_incomplete_batch_is_accepted_as_it_is(trivet: Callable[..., Said], system: RunningTrivet) -> None:
    name = unique("incomplete")
    rows = [{"prompt": f"row {number}", "model": "claude-sonnet-5-5", "max_tokens": 20} for number in range(4)]
    with pytest.raises(Exception, match="request 4"):
        system.client.submit_many([*rows, {"prompt": ""}], name=name)
    assert trivet("batch", "results", name).code == 2
    assert f"trivet batch accept {name}" in trivet("batch", "status", name).out
    waiting = {row["latency"]: row for row in trivet("routes", "--json").json["waiting"]}
    assert waiting["batch"]["held"] >= 4
    assert "runs with the 4 jobs" in trivet("batch", "accept", name).out
    assert [line["status"] for line in trivet("batch", "results", name).lines] == ["succeeded"] * 4
    assert "complete already" in trivet("batch", "accept", name).out


def test_routes_shows_health_and_a_route_is_drained_and_restored(trivet: Callable[..., Said]) -> None:
    route = "bedrock-us-east-1"
    try:
        drained = trivet("route", "drain", route, "--json").json
        assert (drained["route"], drained["drained"], drained["was_drained"]) == (route, True, False)
        until(lambda: f"{route}: drained " in trivet("routes").out, "the drain")
        jobs = [trivet("submit", f"hello {number}", "--json").json["id"] for number in range(6)]
        used = {trivet("job", "result", job, "--wait", "--json").json["route"] for job in jobs}
        assert used <= {"anthropic", "vertex-global"}
    finally:
        assert "back in service" in trivet("route", "restore", route).out
    until(
        lambda: route not in "".join(line for line in trivet("routes").out.splitlines() if "drained" in line),
        "the end of the drain",
    )
    heading, *rows = trivet("routes").out.splitlines()
    assert heading.split()[:3] == ["ROUTE", "MODEL", "STATE"]
    assert any(row.startswith(route) and ("healthy" in row or "unproven" in row) for row in rows)
    picture = trivet("routes", "--json").json
    assert picture["impairment"] is None
    assert {worker["lane"] for worker in picture["workers"]} == {"realtime", "bulk"}
    (bedrock,) = [entry for entry in picture["routes"] if entry["route"] == route]
    assert bedrock["slots"].keys() == {"realtime", "bulk"}


def test_routes_without_the_shared_state_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from trivet.cli import run

    file = tmp_path / "trivet.toml"
    file.write_text('[redis]\nurl = "redis://:secret@127.0.0.1:1/0"\n[routes.anthropic]\nprovider = "anthropic"\n')
    settings = load_settings(file)
    migrated(settings.store_url)
    with database_of(settings) as store, store.write() as connection:
        registry.register(store, connection, settings.routes)
    monkeypatch.setattr(sys, "argv", ["trivet", "--config", str(file), "routes"])
    code = run()
    said = capsys.readouterr()
    assert code == 3
    assert said.out.splitlines()[1].split()[:3] == ["anthropic", "any", "unknown"]
    assert "127.0.0.1:1" in said.err
    assert "secret" not in said.err
