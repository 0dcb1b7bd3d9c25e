"""A worker with a fault of its own beside good ones: it stops taking work and says why, no route closes, no job suffers."""

import contextlib
import itertools
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from tests.command_line import Said, commands
from tests.timing import until

from trivet.testing import QUICK, RunningTrivet, running_trivet
from trivet_store.cluster import leases
from trivet_store.database.engine import Store
from trivet_tasks.config.finding import CONFIG_VARIABLE

MODEL = "claude-haiku-4-5"
ROUTES = {"anthropic", "bedrock-us-east-1", "vertex-global"}
WITHIN_S = 90.0
STOP_S = 30.0
JOBS = 300
REFUSAL = b'{"type": "error", "error": {"type": "authentication_error", "message": "invalid x-api-key"}}'
NUMBERS = itertools.count(1)


class Fleet:
    """A running Trivet, workers that are added to it, and what there is to see of them."""

    def __init__(self, system: RunningTrivet, store: Store) -> None:
        self.system = system
        self.store = store
        self._jobs = 0
        self._added: list[str] = []
        self._calls_before = self._last_attempt()
        self._event_before = self._value("SELECT coalesce(max(id), 0) FROM events")

    def add(self, env: Mapping[str, str] | None = None) -> str:
        """Start one more bulk worker with these variables, and wait until it is ready. Returns the process's name."""
        name = f"worker-added{next(NUMBERS)}-bulk"
        self.system.local.start_part(name, "worker", "--lane", "bulk", env=env)
        self._added.append(name)
        self.system.local.supervisor.wait_ready(name, WITHIN_S)
        return name

    def add_behind(self, port: int) -> str:
        """Start one whose calls go through a proxy on this port."""
        return self.add({"HTTP_PROXY": f"http://me:s3cret@127.0.0.1:{port}", "NO_PROXY": "", "no_proxy": ""})

    def impaired(self, name: str) -> dict[str, str]:
        """The routes of which this process takes no work, with its reasons."""
        pid = self.system.local.supervisor.pid(name)
        with self.store.read() as connection:
            found = [lease for lease in leases.living(self.store, connection) if f".{pid}@" in lease.worker]
        return dict(found[0].impaired) if found else {}

    def run(self, jobs: int, **terms: Any) -> None:
        """Run a batch, every job of which succeeds in its first round."""
        self._jobs += jobs
        name = f"own-faults-{time.time_ns()}"
        requests = [{"prompt": f"{name} {number}"} for number in range(jobs)]
        batch = self.system.client.submit_many(
            requests, name=name, model=MODEL, max_tokens=20, latency="batch", **terms
        )
        assert Counter(result.status for result in batch.results(timeout=WITHIN_S)) == {"succeeded": jobs}
        with self.store.read() as connection:
            rounds = connection.execute(
                text("SELECT max(j.round) FROM jobs j JOIN batches b ON b.id = j.batch_id WHERE b.name = :name"),
                {"name": name},
            ).scalar_one()
        assert rounds == 0

    def outcomes(self) -> Counter[str]:
        """Return the outcomes of calls for jobs since the test began."""
        with self.store.read() as connection:
            rows = connection.execute(
                text("SELECT outcome FROM attempts WHERE id > :before AND purpose = 'job'"),
                {"before": self._calls_before},
            )
            return Counter(str(row.outcome) for row in rows)

    def breakers_opened(self) -> int:
        """Count how often a route was taken out of service since the test began."""
        return self._value(
            "SELECT count(*) FROM events WHERE kind LIKE '%open%' AND id > :before", before=self._event_before
        )

    def close(self) -> None:
        """Stop the workers that were added."""
        for name in self._added:
            self.system.local.supervisor.end(name, STOP_S)
            self.system.local.parts.remove(name)

    def _last_attempt(self) -> str:
        with self.store.read() as connection:
            return str(connection.execute(text("SELECT coalesce(max(id), '') FROM attempts")).scalar_one())

    def _value(self, query: str, **parameters: Any) -> int:
        with self.store.read() as connection:
            return int(connection.execute(text(query), parameters).scalar_one())


@pytest.fixture
def fleet(system: RunningTrivet) -> Iterator[Fleet]:
    with contextlib.closing(Store(system.settings.store_url)) as store:
        fleet = Fleet(system, store)
        yield fleet
        fleet.close()


@pytest.fixture
def dead_port() -> int:
    """A port that refuses connections."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


@contextlib.contextmanager
def answering(port: int, status: int, body: bytes) -> Iterator[int]:
    """A proxy that answers everything so, in place of the provider. `port`: 0 = a free one."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None:
            """Nothing is to be seen."""

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_a_worker_with_a_dead_proxy_harms_only_itself(
    fleet: Fleet, dead_port: int, trivet: Callable[..., Said]
) -> None:
    fleet.add()
    bad = fleet.add_behind(dead_port)
    fleet.run(JOBS)
    assert fleet.breakers_opened() == 0
    assert fleet.outcomes()["succeeded"] == JOBS

    def met_all() -> bool:
        fleet.run(60)
        return fleet.impaired(bad).keys() == ROUTES

    until(met_all, "a call on each of its routes")
    said = fleet.impaired(bad)
    assert said.keys() == ROUTES
    way = f"through the proxy http://127.0.0.1:{dead_port} (HTTP_PROXY)"
    expected = f"It reaches none of its routes, though other workers may; its calls go out {way}"
    assert all(expected in one for one in said.values())
    shown = trivet("routes").out
    assert way in " ".join(shown.split())
    assert "s3cret" not in shown
    failed = fleet.outcomes()["connection"]
    fleet.run(60)
    assert fleet.outcomes()["connection"] == failed, "it takes nothing more"
    assert fleet.breakers_opened() == 0


def test_it_goes_on_by_itself_when_its_proxy_answers(fleet: Fleet, dead_port: int) -> None:
    bad = fleet.add_behind(dead_port)

    def met() -> bool:
        fleet.run(30)
        return bool(fleet.impaired(bad))

    until(met, "a call on its route")
    with answering(dead_port, 404, b"{}"):
        until(lambda: not fleet.impaired(bad), "it to go on")


def test_a_worker_whose_key_is_refused_harms_only_itself(fleet: Fleet) -> None:
    with answering(0, 401, REFUSAL) as port:
        bad = fleet.add_behind(port)

        found: dict[str, str] = {}

        def met() -> bool:
            fleet.run(30)
            found.update(fleet.impaired(bad))
            return bool(found)

        until(met, "a call on its route")
        (route, said), *_ = found.items()
        assert route in ROUTES
        assert "Its key was refused (invalid x-api-key), while other workers serve the route: check file:" in said
        assert fleet.breakers_opened() == 0


def test_a_worker_without_a_secret_harms_only_itself(fleet: Fleet, trivet: Callable[..., Said]) -> None:
    own = Path(fleet.system.settings.source).with_name("keyless.toml")
    lines = Path(fleet.system.settings.source).read_text(encoding="utf-8").splitlines()
    at = lines.index("[routes.anthropic]")
    key = next(number for number in range(at, len(lines)) if lines[number].startswith("api_key"))
    lines[key] = 'api_key = "env:EMPTY_KEY"'
    own.write_text("\n".join(lines) + "\n", encoding="utf-8")
    keyless = fleet.add({CONFIG_VARIABLE: str(own), "EMPTY_KEY": ""})
    until(lambda: bool(fleet.impaired(keyless)), "its lease to say so")
    said = fleet.impaired(keyless)
    assert said.keys() == {"anthropic"}, "it serves the others"
    assert "the environment variable EMPTY_KEY is empty or not set" in said["anthropic"]
    assert "Set it, and restart the worker." in said["anthropic"]
    fleet.run(JOBS)
    assert fleet.outcomes() == {"succeeded": JOBS}, "no call was spent to find out"
    assert fleet.breakers_opened() == 0
    assert "takes no work of anthropic: No credentials on this machine" in " ".join(trivet("routes").out.split())


def test_a_lone_worker_without_a_secret_says_so_and_its_jobs_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    key = tmp_path / "the.key"
    only = {"compliance": ["only"], "api_key": f"file:{key}"}
    with (
        running_trivet(tmp_path, route_settings={"anthropic": only}, sections=QUICK) as system,
        contextlib.closing(Store(system.settings.store_url)) as store,
        commands(system.settings.source, monkeypatch, capsys) as trivet,
    ):
        fleet = Fleet(system, store)
        bulk = "worker-1-bulk"
        until(lambda: bool(fleet.impaired(bulk)), "its lease to say so")
        assert f"the file {key} cannot be read" in fleet.impaired(bulk)["anthropic"]
        job = system.client.submit("Wait.", model=MODEL, max_tokens=20, latency="batch", compliance=["only"])
        shown = " ".join(trivet("routes").out.split())
        assert "anthropic: no living worker serves it" in shown
        assert f"No credentials on this machine: the file {key} cannot be read" in shown
        assert job.state == "waiting"
        key.write_text("a-key\n", encoding="ascii")
        result = job.result(timeout=WITHIN_S)
        assert result.status == "succeeded"
        assert [attempt.outcome for attempt in result.attempts] == ["succeeded"]
        assert fleet.breakers_opened() == 0
