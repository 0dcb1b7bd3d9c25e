"""Trivet's own resources over HTTP, by `trivet serve` in a process of its own, over real workers and the simulator."""

import contextlib
import gzip
import http.client
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from tests.gateway_server import gateway

from trivet.testing import RunningTrivet

MODEL = "claude-haiku-4-5"
LINES = {"content-type": "application/x-ndjson"}


class Caller:
    """A client with a key."""

    def __init__(self, client: httpx2.Client, key: str) -> None:
        self._client = client
        self.headers = {"x-api-key": key}

    def __call__(self, method: str, path: str, *, status: int = 200, **how: Any) -> Any:
        """Return the answer's JSON; its status must be this."""
        headers = {**self.headers, **how.pop("headers", {})}
        answer = self._client.request(method, path, headers=headers, **how)
        assert answer.status_code == status, answer.text
        return answer.json() if answer.headers["content-type"] == "application/json" else answer.text


@pytest.fixture(scope="module")
def address(running: RunningTrivet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The gateway's base URL."""
    with gateway(running, tmp_path_factory.mktemp("gateway")) as url:
        yield url


@pytest.fixture(scope="module")
def keys(running: RunningTrivet) -> dict[str, str]:
    """Keys by name: an admin's, and those of two tenants."""
    made: dict[str, dict[str, Any]] = {"root": {"admin": True}, "acme": {"tenant": "acme"}, "zeta": {"tenant": "zeta"}}
    return {name: running.admin.keys.create(name, **terms).token.text for name, terms in made.items()}


@pytest.fixture
def call(address: str, keys: dict[str, str], system: RunningTrivet) -> Iterator[Callable[[str], Caller]]:
    """Makes a client with the key of this name."""
    with httpx2.Client(base_url=address, timeout=60) as client:
        yield lambda name: Caller(client, keys[name])


def request(words: str = "Say yes.", **more: Any) -> dict[str, Any]:
    return {"model": MODEL, "max_tokens": 20, "messages": [{"role": "user", "content": words}], **more}


def lines(*requests: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in requests)


def test_a_job_is_submitted_awaited_and_shown(call: Callable[[str], Caller]) -> None:
    acme = call("acme")
    made = acme("POST", "/trivet/v1/jobs", status=201, json=request(key="first", tags={"team": "search"}))
    assert (made["tenant"], made["latency"], made["tags"]) == (
        "acme",
        "batch",
        {"team": "search", "trivet_key": "acme"},
    )
    result = acme("GET", f"/trivet/v1/jobs/{made['id']}/result", params={"wait": 30})
    assert (result["status"], result["id"]) == ("succeeded", made["id"])
    shown = acme("GET", f"/trivet/v1/jobs/{made['id']}", params={"with_request": True})
    assert (shown["state"], len(shown["attempts"])) == ("succeeded", len(result["attempts"]))
    assert shown["request"]["messages"] == request()["messages"]
    assert [job["id"] for job in acme("GET", "/trivet/v1/jobs", params={"key": "first"})] == [made["id"]]
    again = acme("POST", "/trivet/v1/jobs", status=201, json=request(key="first", tags={"team": "search"}))
    assert again["id"] == made["id"]
    other = acme("POST", "/trivet/v1/jobs", status=409, json=request("Say no.", key="first"))
    assert other["error"]["type"] == "invalid_request_error"


def test_a_tenant_sees_nothing_of_another(call: Callable[[str], Caller]) -> None:
    acme, zeta, root = call("acme"), call("zeta"), call("root")
    job = acme("POST", "/trivet/v1/jobs", status=201, json=request(key="secret"))["id"]
    batch = acme("POST", "/trivet/v1/batches", status=201, params={"name": "acme-only"}, content=lines(request()))
    none = "/trivet/v1/jobs/" + "0" * 32
    words = zeta("GET", none, status=404)["error"]["message"]
    for method, path in (("GET", ""), ("GET", "/result"), ("POST", "/cancel"), ("POST", "/retry")):
        said = zeta(method, f"/trivet/v1/jobs/{job}{path}", status=404)["error"]["message"]
        assert said == words.replace("0" * 32, job)
    name = batch["name"]
    words = zeta("GET", "/trivet/v1/batches/none", status=404)["error"]["message"]
    actions = ("cancel", "retry", "accept", "pause", "resume")
    for method, path in (("GET", ""), ("GET", "/results"), ("DELETE", ""), *(("POST", f"/{one}") for one in actions)):
        said = zeta(method, f"/trivet/v1/batches/{name}{path}", status=404)["error"]["message"]
        assert said == words.replace("'none'", f"'{name}'")
    zeta("GET", "/trivet/v1/jobs", status=404, params={"batch": name})
    zeta("GET", "/trivet/v1/jobs", status=404, params={"key": "secret"})
    zeta("POST", "/trivet/v1/batches", status=409, params={"name": name}, content=lines(request()))
    assert zeta("GET", "/trivet/v1/jobs") == [] == zeta("GET", "/trivet/v1/batches")
    assert zeta("GET", "/trivet/v1/costs", params={"by": "tenant"})["rows"] == []
    acme("GET", f"/trivet/v1/jobs/{job}/result", params={"wait": 30})
    assert {row["tenant"] for row in acme("GET", "/trivet/v1/costs", params={"by": "tenant"})["rows"]} == {"acme"}
    assert zeta("GET", "/trivet/v1/costs", params={"by": "tenant"})["rows"] == []
    assert job in {one["id"] for one in root("GET", "/trivet/v1/jobs")}
    assert root("GET", f"/trivet/v1/batches/{name}")["tenant"] == "acme"


def test_only_an_admin_key_operates(call: Callable[[str], Caller], system: RunningTrivet) -> None:
    acme, root = call("acme"), call("root")
    route = next(iter(system.settings.routes))
    for path in ("drain", "restore", "probe"):
        refused = acme("POST", f"/trivet/v1/routes/{route}/{path}", status=403)
        assert refused["error"]["type"] == "permission_error"
    acme("POST", "/trivet/v1/budgets/none/raise", status=403, json={"usd": "5"})
    root("POST", "/trivet/v1/budgets/none/raise", status=404, json={"usd": "5"})
    drained = root("POST", f"/trivet/v1/routes/{route}/drain", json={"why": "a test"})
    assert (drained["drained"], drained["was_drained"]) == (True, False)
    assert root("POST", f"/trivet/v1/routes/{route}/restore")["was_drained"]
    drains = [one.text for one in system.admin.events.list(since=0, route=route) if one.kind == "route drained"]
    assert drains.count("by the key root: a test") == 1
    root("POST", f"/trivet/v1/routes/{route}/probe")
    assert "workers" in root("GET", "/trivet/v1/routes")
    seen = acme("GET", "/trivet/v1/routes")
    assert set(seen) == {"routes", "now"}
    assert "spent_today" not in seen["routes"][0]
    assert acme("GET", "/trivet/v1/status")["key"]["tenant"] == "acme"


def test_a_batch_is_taken_in_whole_or_not_at_all(call: Callable[[str], Caller]) -> None:
    acme = call("acme")
    bad = lines(*(request(key=f"{number}") for number in range(3)), request(max_tokens=0))
    refused = acme("POST", "/trivet/v1/batches", status=400, params={"name": "bad"}, content=bad, headers=LINES)
    assert "body, line 4: max_tokens" in refused["error"]["message"]
    acme("GET", "/trivet/v1/batches/bad", status=404)
    other = lines(request(), request(tenant="zeta"))
    refused = acme("POST", "/trivet/v1/batches", status=403, params={"name": "bad"}, content=other)
    assert refused["error"]["type"] == "permission_error"
    assert "body, line 2: tenant" in refused["error"]["message"]
    good = lines(*(request(key=f"{number}") for number in range(5)))
    made = acme("POST", "/trivet/v1/batches", status=201, params={"name": "good"}, content=good)
    assert (made["total"], made["tenant"], made["state"]) == (5, "acme", "open")
    assert acme("POST", "/trivet/v1/batches", status=201, params={"name": "good"}, content=good)["total"] == 5
    jobs = acme("GET", "/trivet/v1/jobs", params={"batch": "good"})
    for job in jobs:
        acme("GET", f"/trivet/v1/jobs/{job['id']}/result", params={"wait": 30})
    results = [json.loads(line) for line in acme("GET", "/trivet/v1/batches/good/results").splitlines()]
    assert {one["key"] for one in results} == {"0", "1", "2", "3", "4"}
    shown = acme("GET", "/trivet/v1/batches/good")
    assert (shown["done"], shown["succeeded"]) == (True, 5)
    first = acme("GET", "/trivet/v1/jobs", params={"batch": "good", "limit": 2})
    rest = acme("GET", "/trivet/v1/jobs", params={"batch": "good", "before": first[-1]["id"]})
    assert [one["id"] for one in first + rest] == [one["id"] for one in jobs]


def test_a_batch_is_controlled(call: Callable[[str], Caller], system: RunningTrivet) -> None:
    acme, root = call("acme"), call("root")
    at = "/trivet/v1/batches/held"
    system.admin.controls.pause(tenant="acme")
    try:
        acme(
            "POST", "/trivet/v1/batches", status=201, params={"name": "held"}, content=lines(request(), request("Two"))
        )
        assert acme("POST", f"{at}/pause", json={"reason": "wrong"})["changed"]
        assert [one["reason"] for one in acme("GET", at)["paused"] if one["kind"] == "batch"] == ["wrong"]
        assert acme("POST", f"{at}/resume")["changed"]
        system.admin.controls.pause(batch="held", reason="by hand", by="ana@build-7")
        assert acme("POST", f"{at}/resume", status=403)["error"]["type"] == "permission_error"
        for shown in (acme("GET", at), acme("GET", "/trivet/v1/batches")[0], acme("POST", f"{at}/accept")):
            assert "build-7" not in json.dumps(shown)
        note = acme("GET", at)["note"]
        assert "The batch held is paused" in note
        assert "by hand" in note
        job = acme("GET", "/trivet/v1/jobs", params={"batch": "held"})[0]["id"]
        blocked = acme("GET", f"/trivet/v1/jobs/{job}")["blocked"]
        assert "build-7" not in json.dumps(blocked)
        assert any("The batch held is paused" in one for one in blocked)
        assert "build-7" in root("GET", at)["note"]
        assert root("POST", f"{at}/resume")["changed"]
        acme("POST", f"{at}/priority", status=403, json={"priority": 1})
        assert acme("POST", f"{at}/priority", json={"priority": -2})["priority"] == -2
        assert root("POST", f"{at}/priority", json={"priority": -4})["priority"] == -4
        acme("POST", f"{at}/priority", status=403, json={"priority": 0})
        assert root("POST", f"{at}/priority", json={"priority": 3})["priority"] == 3
        acme("DELETE", at, status=400)
        assert acme("POST", f"{at}/cancel")["ended_now"] == 2
        assert acme("POST", f"{at}/cancel")["cancelled"] == 2
    finally:
        system.admin.controls.resume(tenant="acme")


def test_what_is_not_known_is_refused(call: Callable[[str], Caller]) -> None:
    acme = call("acme")
    for path, name in (
        ("/trivet/v1/jobs?stat=failed", "stat"),
        ("/trivet/v1/jobs?limit=0", "limit"),
        ("/trivet/v1/jobs?limit=1&limit=2", "limit"),
        ("/trivet/v1/jobs?state=late", "state"),
        ("/trivet/v1/costs?by=nothing", "nothing"),
        ("/trivet/v1/costs?since=yesterday", "since"),
        ("/trivet/v1/events?types=none", "types"),
    ):
        assert name in acme("GET", path, status=400)["error"]["message"]
    acme("GET", "/trivet/v1/jobs/none", status=404)
    acme("GET", "/trivet/v1/batches/%00", status=404)
    acme("POST", "/trivet/v1/jobs", status=400, json=request(on_done={"task": "x"}))
    acme("POST", "/trivet/v1/batches/x/priority", status=400, json={"priority": 99})
    wrong = {"x-api-key": "trivet_000000000000_" + "0" * 64}
    assert acme("GET", "/trivet/v1/jobs", status=401, headers=wrong)["error"]["type"] == "authentication_error"


def test_events_tell_the_ends_of_a_tenants_work(
    call: Callable[[str], Caller], address: str, keys: dict[str, str]
) -> None:
    acme, zeta = call("acme"), call("zeta")
    heard: list[tuple[str, dict[str, Any]]] = []
    listening = threading.Event()

    def listen() -> None:
        headers = {"x-api-key": keys["acme"]}
        kind = ""
        with httpx2.stream("GET", f"{address}/trivet/v1/events", headers=headers, timeout=60) as answer:
            for line in answer.iter_lines():
                if line == ": listening":
                    listening.set()
                elif line.startswith("event: "):
                    kind = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    heard.append((kind, json.loads(line.removeprefix("data: "))))
                    if kind == "batch":
                        return

    thread = threading.Thread(target=listen)
    thread.start()
    assert listening.wait(60)
    other = zeta("POST", "/trivet/v1/jobs", status=201, json=request("Not yours."))["id"]
    zeta("GET", f"/trivet/v1/jobs/{other}/result", params={"wait": 30})
    acme(
        "POST",
        "/trivet/v1/batches",
        status=201,
        params={"name": "heard"},
        content=lines(request("One"), request("Two")),
    )
    thread.join(60)
    ends = [end for kind, end in heard if kind == "job"]
    assert [(end["state"], end["batch"]) for end in ends] == [("succeeded", "heard")] * 2
    assert [batch["name"] for kind, batch in heard if kind == "batch"] == ["heard"]


def test_bodies_of_batches_are_bounded(call: Callable[[str], Caller], address: str) -> None:
    acme = call("acme")
    packed = gzip.compress(lines(request()))
    assert "compressed" in acme("POST", "/trivet/v1/batches", status=415, content=packed)["error"]["message"]
    with contextlib.closing(http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)) as connection:
        announced = {**acme.headers, "content-length": str(2**31)}  # and nothing of it is sent
        connection.request("POST", "/trivet/v1/batches", headers=announced)
        assert connection.getresponse().status == 413
    half = b'{"model": "\\ud800", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]}'
    assert "line 1" in acme("POST", "/trivet/v1/batches", status=400, content=half)["error"]["message"]
    assert "no request" in acme("POST", "/trivet/v1/batches", status=400, content=b"\n\n")["error"]["message"]


def test_events_that_were_missed_are_told_by_their_ids(
    call: Callable[[str], Caller], address: str, keys: dict[str, str], system: RunningTrivet
) -> None:
    route = next(iter(system.settings.routes))
    system.admin.routes.drain(route, why="missed 1")
    system.admin.routes.restore(route)
    before = max(one.id or 0 for one in system.admin.events.past(0))
    system.admin.routes.drain(route, why="missed 2")
    system.admin.routes.restore(route)

    def told(key: str) -> list[str]:
        headers, lines = {"x-api-key": keys[key], "last-event-id": str(before)}, []
        with httpx2.stream("GET", f"{address}/trivet/v1/events", headers=headers, timeout=60) as answer:
            for line in answer.iter_lines():
                lines.append(line)
                if "route restored" in line:
                    break
        return lines

    of_admin, of_tenant = told("root"), told("acme")
    assert [line for line in of_admin if "missed 1" in line] == []
    assert sum("missed 2" in line for line in of_admin) == 1
    assert f"id: {before + 1}" in of_admin
    assert f"id: {before + 1}" in of_tenant
    assert [line for line in of_tenant if "missed" in line] == [], "the cause, and whose it is, is for operators"
