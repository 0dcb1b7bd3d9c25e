"""`trivet db prune` beside a running Trivet, and what people are told of pruned jobs."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.command_line import Said

from trivet.client.client import Client
from trivet.testing import RunningTrivet
from trivet_store import retention
from trivet_store.database.batched_scan import Step
from trivet_store.database.engine import Store

TERMS: dict[str, Any] = {"model": "claude-sonnet-5-5", "max_tokens": 40}


def test_pruned_jobs_say_so_and_cost_what_they_cost(trivet: Callable[..., Said], tmp_path: Path) -> None:
    name = f"old-{time.time_ns()}"
    requests = tmp_path / "requests.jsonl"
    requests.write_text(
        "".join(f"{json.dumps({'prompt': f'{n} of {name}', 'key': f'{name}/{n}', **TERMS})}\n" for n in range(3))
    )
    out = tmp_path / "results.jsonl"
    deduped = ("bulk", str(requests), "--dedupe", "tenant")
    assert trivet(*deduped, "--name", name, "--wait").code == 0
    ids = [line["id"] for line in trivet("batch", "results", name).lines]
    costs = trivet("costs", "--by", "batch,route,outcome,day", "--json").json
    total, rows = costs["total"], costs["rows"]

    would = trivet("db", "prune", "--older-than", "0s", "--dry-run", "--json").json
    assert would["dry_run"]
    assert min(would["pruned"]["bodies"], would["pruned"]["results"]) >= 3
    assert not trivet("batch", "results", name).lines[0]["pruned"]
    done = trivet("db", "prune", "--older-than", "0s", "--json")
    assert (done.code, done.err) == (0, "")
    assert done.json["pruned"]["bodies"] >= would["pruned"]["bodies"]
    assert (done.json["pruned"]["jobs"], done.json["complete"]) == (0, True)
    said = trivet("db", "prune", "--older-than", "0s", "--keep-results").out.split()
    assert said[0] == "Deleted,"
    assert "results" not in said

    costs = trivet("costs", "--by", "batch,route,outcome,day", "--json").json
    assert [row for row in costs["rows"] if row["batch"] == name] == [row for row in rows if row["batch"] == name]
    assert costs["total"]["jobs"] >= total["jobs"]
    results = trivet("batch", "results", name)
    assert [line["id"] for line in results.lines] == ids
    assert all(line["pruned"] and line["status"] == "succeeded" and line["text"] is None for line in results.lines)
    assert "3 of these results were pruned" in results.err
    result = trivet("job", "result", ids[0])
    assert result.code == 1
    assert result.out == ""
    assert f"job {ids[0]} succeeded; its result was pruned." in result.err
    shown = trivet("job", "show", ids[0], "--with-request")
    assert "its result was pruned" in shown.out
    assert "Its request was pruned." in shown.out
    assert trivet("job", "show", ids[0], "--json").json["pruned"] is True
    # the same keys and the same batch again: nothing runs twice, and nothing is passed off as a result
    again = trivet(*deduped, "--name", f"{name}-again", "--json").json
    assert (again["total"], again["joined"]) == (0, 3)
    written = trivet(*deduped, "--name", name, "--out", str(out))
    assert written.code == 0
    assert out.read_text() == ""
    assert "3 results were pruned" in written.err


def test_a_pruned_result_in_python(trivet: Callable[..., Said], system: RunningTrivet) -> None:
    with Client(settings=system.settings) as client:
        job = client.submit("hello", latency="batch", **TERMS)
        was = job.result(timeout=60)
        assert (was.succeeded, was.pruned) == (True, False)
        assert trivet("db", "prune", "--older-than", "0s").code == 0
        result = client.job(job.id).result(timeout=60)
        assert (result.status, result.pruned, result.error) == ("succeeded", True, None)
        assert (result.text, result.message, result.usage, result.succeeded) == ("", None, {}, False)
        assert (result.cost_usd, result.route, len(result.attempts)) == (was.cost_usd, was.route, len(was.attempts))
        assert result.latency_s == pytest.approx(was.latency_s, abs=0.01)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--older-than", "30"), "--older-than: '30' needs a unit: days, hours, minutes?"),
        (("--older-than", "soon"), "--older-than: 'soon' is not a span of time. Use 30d"),
        (
            ("--older-than", "30d", "--attempts-older-than", "7d"),
            "attempts_older_than_s: 7 d is shorter than older_than_s, 30 d.",
        ),
        ((), "--older-than"),
    ],
)
def test_ages_that_are_no_ages(trivet: Callable[..., Said], arguments: tuple[str, ...], said: str) -> None:
    found = trivet("db", "prune", *arguments)
    assert found.code == 2
    assert said in found.err


def test_ctrl_c_says_what_was_done_until_then(
    trivet: Callable[..., Said], system: RunningTrivet, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Client(settings=system.settings) as client:
        job = client.submit("hello", latency="batch", **TERMS)
        job.result(timeout=60)
        prune = retention.prune

        def broken_off(store: Store, terms: retention.Terms, *, dry_run: bool) -> Iterator[Step]:
            yield next(prune(store, terms, dry_run=dry_run))
            raise KeyboardInterrupt

        monkeypatch.setattr(retention, "prune", broken_off)
        said = trivet("db", "prune", "--older-than", "0s", "--json")
        assert said.code == 130
        assert "the same command goes on" in said.err
        assert (said.json["complete"], said.json["pruned"]["bodies"] > 0) == (False, True)
        assert job.result().text, "its result was not reached"
