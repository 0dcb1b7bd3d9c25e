"""Flower with real processes: what it lists, what it counts, who may look, and that no prompt gets there."""

import base64
import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
import redis
from sqlalchemy import text
from tests.timing import until

from trivet import Client
from trivet.flower.shown_events import shown
from trivet.local.embedded import EmbeddedValkey
from trivet.local.local_simulator import ROUTES, write_config
from trivet.local.processes import Supervisor
from trivet_simulator import SimulatorProcess
from trivet_store.database.engine import Store
from trivet_tasks.config.settings import load_settings
from trivet_tasks.jobs import DispatchedJob
from trivet_tasks.latency import Latency
from trivet_tasks.messages import Chunk

DEADLINE_S = 40.0
TRIVET = [sys.executable, "-m", "trivet"]
PASSWORD = "flowers-in-may"
MARKER = "the-secret-of-the-prompt-7b1f"
BATCH = "contracts <b>2026</b>"
QUEUES = {f"{route}.{latency}" for route in ROUTES for latency in Latency}

pytestmark = [pytest.mark.timeout(180), pytest.mark.xdist_group("flower")]


Found = TypeVar("Found")


@dataclass(frozen=True)
class Page:
    status: int
    body: str


def get(
    url: str, *, user: str | None = f"ops:{PASSWORD}", data: bytes | None = None, headers: dict[str, str] | None = None
) -> Page:
    headers = dict(headers or {})
    if user:
        headers["Authorization"] = f"Basic {base64.b64encode(user.encode()).decode()}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=20) as answer:
            return Page(answer.status, answer.read().decode())
    except urllib.error.HTTPError as error:
        with error:
            return Page(error.code, error.read().decode())


@dataclass(frozen=True)
class Running:
    folder: Path
    config: Path
    parts: Supervisor
    client: Client
    redis: redis.Redis

    def broker_page(self) -> str:
        page = get(f"{self.flower}/broker")
        assert page.status == 200, page.body
        return page.body

    def api(self, path: str) -> Any:
        page = get(f"{self.flower}/api/{path}")
        assert page.status == 200, page.body
        return json.loads(page.body)

    def start(self, name: str, *arguments: str, **variables: str) -> None:
        environment = {"TRIVET_CONFIG": str(self.config), **variables}
        log = self.folder / f"{name}.log"
        self.parts.start(name, [*TRIVET, *arguments], env=environment, log_path=log)

    def start_worker(self, lane: str) -> None:
        self.start(lane, "worker", "--lane", lane)
        self.parts.wait_ready(lane, DEADLINE_S)

    @property
    def flower(self) -> str:
        """The address that Flower printed, without the page."""
        log = (self.folder / "flower.log").read_text()
        return str(re.findall(r"Flower is at (http://\S+)/broker", log)[-1])


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Simulator, broker, scheduler and Flower, and jobs that wait; no worker yet."""
    folder = tmp_path_factory.mktemp("flower")
    with contextlib.ExitStack() as stack:
        simulator = stack.enter_context(SimulatorProcess("--latency-median", "0.1"))
        config = write_config(
            folder / "trivet.toml", simulator.endpoints, sections={
                "leases": {"ttl_s": 60}, "cache": {"enabled": False}, "flower": {"hosts": ["flower.example.org"]},
                "schedules": [{"name": "tidy", "crontab": "15 3 1 1 *", "prune": True, "older_than": "30d"}],
            },
        )  # fmt: skip
        settings = load_settings(config)
        stack.enter_context(EmbeddedValkey(settings.data_dir))
        client = stack.enter_context(Client(settings=settings))
        parts = stack.enter_context(Supervisor(restarts=None))
        shared = stack.enter_context(redis.Redis.from_url(settings.redis_url))
        system = Running(folder, config, parts, client, shared)
        system.start("scheduler", "scheduler")
        system.start("flower", "flower", "--port", "0", FLOWER_READ_ONLY="false", FLOWER_BASIC_AUTH=f"ops:{PASSWORD}")
        for part in ("scheduler", "flower"):
            parts.wait_ready(part, DEADLINE_S)
        client.submit_many(requests(300), name=BATCH, latency="batch")
        client.submit("hello", model="claude-sonnet-5-5", max_tokens=40, latency="deferred")
        yield system


def number(page: str, element: str) -> int:
    """The number in one of the cards at the top of the page."""
    found = re.search(rf'id="{element}">([\d,]+)<', page)
    return int(found[1].replace(",", "")) if found else -1


def rows(page: str) -> list[list[str]]:
    """Every table row of the page as the text of its cells."""
    return [
        [" ".join(re.sub(r"<[^>]+>", " ", cell).split()) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row, re.S)]
        for row in re.findall(r"<tr[^>]*>(.*?)</tr>", page, re.S)
    ]


def requests(count: int) -> Iterator[dict[str, Any]]:
    for index in range(count):
        yield {"prompt": f"{MARKER} document {index}", "model": "claude-sonnet-5-5", "max_tokens": 40}


def decoded(message: bytes) -> bytes:
    """A message of Celery's with its body, which stands there in base64."""
    with contextlib.suppress(ValueError, TypeError, KeyError):
        return message + b"\n" + base64.b64decode(json.loads(message)["body"])
    return message


def everything_in(server: redis.Redis) -> bytes:
    """Every key of the database with its value, bodies of messages decoded."""
    read: dict[bytes | str, Callable[[bytes], Any]] = {
        b"string": lambda key: [server.get(key)],
        b"list": lambda key: server.lrange(key, 0, -1),
        b"hash": lambda key: [part for pair in server.hgetall(key).items() for part in pair],
        b"set": server.smembers,
        b"zset": lambda key: server.zrange(key, 0, -1),
        b"none": lambda key: [],
    }
    found: list[bytes] = []
    for key in server.scan_iter():
        found += [key, *(decoded(value) for value in read[server.type(key)](key) if value is not None)]
    return b"\n".join(found)


def test_what_waits_in_sql_is_on_the_broker_page_before_any_worker_lives(running: Running) -> None:
    page = until(running.broker_page, "301 waiting", fits=lambda page: number(page, "trivet-waiting") == 301)

    assert "No bulk worker is alive" in page
    assert "No realtime worker is alive" in page
    assert "No scheduler is alive" not in page
    table = rows(page)
    assert ["batch", "300", "0", "0", "0", "0", "300"] in [row[:7] for row in table]
    assert ["contracts &lt;b&gt;2026&lt;/b&gt;", "300", "0", "0", "0", "0", "300"] in [row[:7] for row in table]
    assert ["without a batch", "1", "0", "0", "0", "0", "1"] in [row[:7] for row in table]
    queues = {row[0]: row[1:] for row in table if row and row[0] in QUEUES}
    assert set(queues) == QUEUES
    assert all(row == ["0", "0", "0", "—", row[4], "none"] for row in queues.values())
    proven = {name: row[4] for name, row in queues.items()}
    assert {queue: "unproven" if queue.endswith("realtime") else "" for queue in QUEUES} == proven, "said once a route"
    assert {queue["name"] for queue in running.api("queues/length")["active_queues"]} == QUEUES
    (schedule,) = [row for row in table if row and row[0] == "tidy"]
    assert schedule[1] == "prune"
    assert schedule[2].endswith("-01-01 03:15 +0000")


def test_the_backlog_is_among_the_metrics(running: Running) -> None:
    def metrics() -> str:
        return get(f"{running.flower}/metrics").body

    waiting = 'trivet_waiting_jobs{class="batch",state="waiting"} 300.0'
    text = until(metrics, waiting, fits=lambda text: waiting in text)
    assert "trivet_backlog_current 1.0" in text
    assert 'trivet_processes{lane="",part="scheduler"} 1.0' in text
    assert 'trivet_processes{lane="bulk",part="worker"} 0.0' in text
    assert 'trivet_impairments{kind="lane"} 2.0' in text
    assert 'trivet_impairments{kind="silent"} 0.0' in text
    assert "trivet_cache_hits_total 0.0" in text
    assert "trivet_cache_max_bytes " in text
    assert re.search(r'trivet_oldest_waiting_seconds\{class="deferred"\} [\d.]*[1-9]', text)
    assert 'trivet_route_jobs{class="async",route="vertex-global",state="running"} 0.0' in text


@pytest.mark.parametrize(
    "path", ["broker", "tasks", "api/queues/length", "api/tasks", "metrics", "static/css/flower.css", "nowhere"]
)
def test_without_the_password_nothing_is_shown(running: Running, path: str) -> None:
    for user in (None, "ops:wrong"):
        answer = get(f"{running.flower}/{path}", user=user)
        assert answer.status == 401
        assert answer.body == "Access denied"


def test_a_check_of_its_health_needs_no_password_and_any_name(running: Running) -> None:
    answer = get(f"{running.flower}/healthcheck", user=None, headers={"Host": "10.0.0.7:5555"})
    assert (answer.status, answer.body) == (200, "OK")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example:5555"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "flower.example.org"}, 200),
        ({"Host": "localhost:5555"}, 200),
        ({"Host": "flower.example.org", "Origin": "https://flower.example.org"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
@pytest.mark.parametrize("path", ["broker", "metrics", "api/tasks"])
def test_names_of_others_and_pages_of_others_are_refused(
    running: Running, path: str, headers: dict[str, str], status: int
) -> None:
    answer = get(f"{running.flower}/{path}", headers=headers)
    assert answer.status == status
    if status == 403:
        assert answer.body.startswith("Refused: ")
        assert "anthropic" not in answer.body


@pytest.mark.parametrize("headers", [{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}])
def test_another_site_posts_nothing(running: Running, headers: dict[str, str]) -> None:
    answer = get(f"{running.flower}/api/task/revoke/1", data=b"{}", headers=headers)
    assert (answer.status, answer.body[:9]) == (403, "Refused: ")


def test_flower_changes_nothing(running: Running) -> None:
    for path in ("task/send-task/trivet.run.anthropic", "worker/shutdown/all.bulk@host", "task/revoke/1"):
        assert get(f"{running.flower}/api/{path}", data=b'{"args": []}').status == 403, path


def test_tasks_say_route_class_and_jobs_and_no_prompt_is_anywhere(running: Running) -> None:
    with running.redis.pubsub() as published:  # type: ignore[no-untyped-call]  # redis-py has no types for it
        published.psubscribe("*")
        for lane in ("realtime", "bulk"):
            running.start_worker(lane)
        served = until(lambda: set(running.api("workers?status=1")), "both workers", fits=lambda names: len(names) == 2)
        assert {name.rpartition(".")[0] for name in served} == {"all.realtime", "all.bulk"}

        ended = [result.status for result in running.client.batch(BATCH).results(timeout=DEADLINE_S)]

        # a worker that has a lease and takes nothing: what is dispatched to it stays in the queues, to be looked at
        running.parts.signal("bulk", signal.SIGSTOP)
        batch = running.client.submit_many(requests(120), name="paused", latency="async")
        page = until(running.broker_page, "dispatched jobs", fits=lambda page: number(page, "trivet-dispatched") > 0)
        assert any(int(row[1]) and int(row[2]) for row in rows(page) if row and row[0] in QUEUES)
        queued = everything_in(running.redis)
        running.parts.signal("bulk", signal.SIGCONT)
        job_ids = [job.id for job in running.client.jobs(batch="paused", limit=120)]
        assert any(job.encode() in queued for job in job_ids), "the messages were not looked into"

        ended += [result.status for result in batch.results(timeout=DEADLINE_S)]
        assert ended == ["succeeded"] * 420

        tasks = until(
            lambda: running.api("tasks"),
            "a task that has ended",
            fits=lambda tasks: any(task["state"] == "SUCCESS" for task in tasks.values()),
        )
        messages = list(iter(lambda: published.get_message(timeout=0.2), None))
        sent = [decoded(message["data"]) for message in messages if message["type"] == "pmessage"]

    assert any(b"task-succeeded" in message for message in sent), "the events were not looked into"
    for task in tasks.values():
        said = re.fullmatch(r"jobs=(\d+), class=(\w+), route=([\w-]+), model=claude-sonnet-5-5", task["args"])
        assert said, task["args"]
        assert 1 <= int(said[1]) <= 32
        assert task["routing_key"] == f"{said[3]}.{said[2]}"
        assert said[3] in ROUTES
        assert task["name"] == f"trivet.run.{ROUTES[said[3]]['provider']}"
        assert task["worker"] in served

    some = next(iter(tasks))
    column = "order%5B0%5D%5Bcolumn%5D=0&columns%5B0%5D%5Bdata%5D=received&order%5B0%5D%5Bdir%5D=desc"
    paths = ["broker", "tasks", f"tasks/datatable?draw=1&start=0&length=100&{column}", f"task/{some}", "workers?json=1"]
    paths += ["api/tasks", f"api/task/info/{some}", "api/workers?refresh=1", "metrics"]
    paths += [f"worker/{name}" for name in served] + [f"api/workers?workername={name}" for name in served]
    shown_pages = [get(f"{running.flower}/{path}") for path in paths]
    assert [page.status for page in shown_pages] == [200] * len(paths)
    assert "jobs=" in shown_pages[2].body
    kept = running.client.job(job_ids[0])
    assert MARKER in stored_request(running, kept.id), "the marker is not in the prompts"
    for where in [*(page.body.encode() for page in shown_pages), *sent, queued, everything_in(running.redis)]:
        assert MARKER.encode() not in where


def stored_request(running: Running, job_id: str) -> str:
    store = Store(running.client.settings.store_url)
    try:
        with store.read() as connection:
            row = connection.execute(text("SELECT body FROM job_requests WHERE job_id = :id"), {"id": job_id}).one()
            return bytes(row.body).decode()
    finally:
        store.close()


def test_queues_stay_on_the_page_when_their_workers_are_gone(running: Running) -> None:
    if running.parts.pid("bulk") is None:
        running.start_worker("bulk")

    def workers() -> str:
        return next(row[-1] for row in rows(running.broker_page()) if row and row[0] == "anthropic.batch")

    until(workers, "a worker on the page", fits=lambda count: count == "1")
    running.parts.signal("bulk", signal.SIGTERM)
    until(workers, "no worker on the page", fits=lambda count: count == "none")
    assert {row[0] for row in rows(running.broker_page()) if row} >= QUEUES
    assert {queue["name"] for queue in running.api("queues/length")["active_queues"]} >= QUEUES


@pytest.fixture
def start_flower(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `trivet flower` on a configuration, its output in pipes; ends it by its id."""
    started: list[subprocess.Popen[str]] = []

    def start(config: str, *options: str) -> subprocess.Popen[str]:
        (tmp_path / "trivet.toml").write_text(config)
        process = subprocess.Popen(
            [*TRIVET, "flower", *options], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=DEADLINE_S)


NOWHERE = """
[store]
url = "postgresql://trivet:pa55word@127.0.0.1:1/trivet"
[broker]
url = "redis://:pa55word@127.0.0.1:1/0"
[routes.anthropic]
provider = "anthropic"
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_with_database_and_broker_away_the_page_says_so_and_flower_still_stops(
    start_flower: Callable[..., subprocess.Popen[str]], number: signal.Signals
) -> None:
    flower = start_flower(NOWHERE, "--port", "0")
    assert flower.stdout is not None
    said = flower.stdout.readline()
    page = get(said.removeprefix("Flower is at ").strip(), user=None)
    assert page.status == 200
    assert "The database postgresql+psycopg://trivet:***@127.0.0.1:1/trivet cannot be used" in page.body
    assert "The broker redis://:***@127.0.0.1:1/0 does not answer" in page.body
    assert ["anthropic.realtime", "—"] in [row[:2] for row in rows(page.body)]
    assert "pa55word" not in page.body
    metrics = get(said.removeprefix("Flower is at ").strip().replace("/broker", "/metrics"), user=None)
    assert "trivet_backlog_current 0.0" in metrics.body
    assert "trivet_waiting_jobs" not in metrics.body
    flower.send_signal(number)
    _, errors = flower.communicate(timeout=DEADLINE_S)
    assert flower.returncode == 0, errors
    assert "Traceback" not in errors
    assert "pa55word" not in errors


def test_a_port_that_is_taken_is_said_plainly(start_flower: Callable[..., subprocess.Popen[str]]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        flower = start_flower("", "--port", str(port))
        _, errors = flower.communicate(timeout=DEADLINE_S)
    assert flower.returncode == 2
    assert errors.strip() == (
        f"trivet: The port 127.0.0.1:{port} is taken by another program. Choose another with --port, or stop that one."
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--basic-auth", "hidden"], "--basic-auth: entry 1 of 1 is not of the form user:password."),
        (
            ["--address", "192.0.2.1", "--insecure"],
            "Flower cannot listen on 192.0.2.1:5555: Cannot assign requested address.",
        ),
        (["--address", "0.0.0.0"], "Flower on 0.0.0.0 would show everything to anybody who reaches it."),
        (["--address", ""], "Flower on all addresses of this machine would show everything to anybody"),
    ],
)
def test_wrong_options_are_said_plainly(
    start_flower: Callable[..., subprocess.Popen[str]], options: list[str], message: str
) -> None:
    flower = start_flower("", *options)
    _, errors = flower.communicate(timeout=DEADLINE_S)
    assert flower.returncode == 2
    assert message in errors
    assert "Traceback" not in errors
    assert "hidden" not in errors


@pytest.mark.parametrize("options", [["--insecure"], ["--basic-auth", f"ops:{PASSWORD}"]])
def test_other_machines_are_served_with_a_password_or_where_that_is_said_to_be_right(
    start_flower: Callable[..., subprocess.Popen[str]], options: list[str]
) -> None:
    flower = start_flower(NOWHERE, "--address", "0.0.0.0", "--port", "0", *options)
    assert flower.stdout is not None
    page = flower.stdout.readline().removeprefix("Flower is at ").strip()
    port = re.findall(r":(\d+)/", page)[0]
    for host, status in {"192.0.2.7": 200, "evil.example": 403}.items():
        assert get(f"http://127.0.0.1:{port}/broker", headers={"Host": host}).status == status


def test_a_chunk_is_described_with_its_number_of_jobs_first() -> None:
    chunk = Chunk(
        "vertex-global",
        "vertex",
        Latency.ASYNC,
        "claude-opus-5",
        (DispatchedJob("a", 1, 9, 9), DispatchedJob("b", 2, 9, 9)),
    )
    event = shown({"type": "task-received", "uuid": "1", "args": str(chunk), "kwargs": "{}"})
    assert event["args"] == "jobs=2, class=async, route=vertex-global, model=claude-opus-5"
    assert event["routing_key"] == "vertex-global.async"


@pytest.mark.parametrize(
    "args",
    [
        f"['{MARKER}']",
        f"(route=a, class=batch, model=m, jobs={MARKER})",
        f"(route=a, class=batch, model=m, jobs=1, {MARKER})",
        f"(route=a, class={MARKER}, model=m, jobs=1)",
    ],
)
def test_whatever_else_a_task_says_is_not_shown(args: str) -> None:
    event = {
        "type": "task-failed",
        "uuid": "1",
        "args": args,
        "kwargs": f"{{'prompt': '{MARKER}'}}",
        "result": f"'{MARKER}'",
        "exception": f"ValueError('{MARKER}')",
        "traceback": f"Traceback …\nValueError: {MARKER}",
    }
    assert MARKER not in json.dumps(shown(event))
    assert shown(event)["exception"] == "ValueError: see the worker's log"
