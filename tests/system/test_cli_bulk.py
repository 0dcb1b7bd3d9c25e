"""`trivet bulk` without a name, once more, and with the tenant's keys; `trivet batch discard`."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.builders import unique
from tests.command_line import Said

from trivet.client.client import Client
from trivet.testing import RunningTrivet
from trivet_tasks.errors import InvalidRequest

TERMS = ("--model", "claude-haiku-4-5", "--max-tokens", "20")


def write_requests(path: Path, *numbers: int) -> Path:
    """Requests with keys that other files have, too."""
    rows = ({"prompt": f"document {number}", "key": f"page/{number}"} for number in numbers)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def test_a_file_is_one_batch_until_it_changes_or_is_asked_for_again(
    trivet: Callable[..., Said], system: RunningTrivet, tmp_path: Path
) -> None:
    file = write_requests(tmp_path / f"{unique('file')}.jsonl", 1, 2, 3)
    command = ("bulk", str(file), *TERMS)
    first = trivet(*command, "--wait", "--json").json
    assert re.fullmatch(rf"{file.stem}-[0-9a-f]{{10}}", first["name"])
    assert (first["succeeded"], first["submitted_before"], first["joined"]) == (3, False, 0)

    calls = len(system.simulator.calls())
    for words in (command, (*command, "--wait")):
        said = trivet(*words)
        assert said.code == 0
        assert f"{first['name']} was submitted before" in said.out
        assert "succeeded  3" in said.out
    assert trivet(*command, "--json").json["submitted_before"]
    assert len(system.simulator.calls()) == calls

    for number in (2, 3):
        again = trivet(*command, "--again", "--wait", "--json").json
        assert (again["name"], again["succeeded"]) == (f"{first['name']}-{number}", 3)
    other_model = trivet("bulk", str(file), "--model", "claude-sonnet-5-5", "--max-tokens", "20", "--json").json
    changed = trivet("bulk", str(write_requests(file, 1, 2, 4)), *TERMS, "--wait", "--json").json
    assert len({first["name"], other_model["name"], changed["name"]}) == 3
    assert (other_model["total"], changed["succeeded"]) == (3, 3)

    ids = {
        trivet("job", "show", "--key", "page/1", "--batch", name, "--json").json["id"]
        for name in (first["name"], f"{first['name']}-2", changed["name"])
    }
    assert len(ids) == 3, "a key is a name within its batch"
    assert system.client.batch(first["name"]).job("page/1").id in ids
    assert "No job without a tenant has the key" in trivet("job", "show", "--key", "page/1").err
    assert f"No job in the batch '{first['name']}'" in (
        trivet("job", "show", "--key", "page/4", "--batch", first["name"]).err
    )
    assert "--batch goes with --key" in trivet("job", "show", ids.pop(), "--batch", first["name"]).err


def test_lines_join_the_tenants_earlier_jobs_where_they_are_asked_to(
    trivet: Callable[..., Said], system: RunningTrivet, tmp_path: Path
) -> None:
    tenant = unique("tenant")
    file = tmp_path / "requests.jsonl"
    rows = [{"prompt": f"document {n}", "key": f"page/{n}", "tenant": tenant} for n in (1, 2, 2)]
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    job = system.client.submit("document 1", key="page/1", tenant=tenant, model="claude-haiku-4-5", max_tokens=20)
    command, name = ("bulk", str(file), *TERMS, "--name"), unique("deduped")
    first = trivet(*command, name, "--dedupe", "tenant", "--wait", "--json").json
    assert (first["total"], first["joined"], first["dedupe"]) == (1, 2, True)
    said = trivet(*command, f"{name}-2", "--dedupe", "tenant")
    assert said.code == 0
    assert "3 requests joined earlier jobs with the same keys, whose results are not in this batch." in said.out
    assert "3 requests joined earlier jobs" in trivet("batch", "status", f"{name}-2").out
    assert trivet("batch", "results", f"{name}-2").out == ""
    assert system.client.job_by_key("page/1", tenant=tenant).id == job.id
    refused = trivet(*command, name)
    assert (refused.code, refused.out) == (2, "")
    assert f"dedupe: the batch '{name}' was begun with it." in refused.err
    assert "2 requests joined earlier ones" not in refused.err
    plain = trivet(*command, f"{name}-3", "--wait")
    assert "1 request joined earlier ones with the same keys: one job each." in plain.out
    with pytest.raises(InvalidRequest, match="dedupe: must be 'tenant', is 'batch'"):
        system.client.submit_many([], dedupe="batch")  # type: ignore[arg-type]


def test_an_unfinished_batch_is_discarded_and_a_complete_one_is_not(
    trivet: Callable[..., Said], system: RunningTrivet
) -> None:
    name = unique("broken")
    good = [{"prompt": f"row {number}", "key": f"row/{number}"} for number in range(4)]
    with Client(settings=system.settings) as client, pytest.raises(InvalidRequest) as caught:
        client.submit_many([*good, {"prompt": ""}], name=name, model="claude-haiku-4-5", max_tokens=20)
    assert f"trivet batch discard {name}" in caught.value.hint
    assert f"trivet batch discard {name}" in trivet("batch", "status", name).out
    assert trivet("batch", "discard", name, "--json").json == {"name": name, "jobs": 4}
    assert trivet("batch", "status", name).code == 2
    batch = system.client.submit_many(good, name=name, model="claude-haiku-4-5", max_tokens=20)
    refused = trivet("batch", "discard", name)
    assert (refused.code, refused.out) == (2, "")
    assert f"The batch '{name}' was complete: its jobs may have run. `trivet batch cancel {name}` ends its jobs." in (
        " ".join(refused.err.split())
    )
    assert batch.wait(timeout=60).succeeded == 4
