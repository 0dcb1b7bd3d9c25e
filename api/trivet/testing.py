"""A running Trivet over the simulator, for your own tests. pytest finds the fixtures by itself:

def test_my_summary(trivet_client):
    job = trivet_client.submit("Summarise: …", model="claude-haiku-4-5", max_tokens=100)
    assert job.result(timeout=30).status == "succeeded"

def test_my_patience(trivet_running):
    trivet_running.simulator.fault("bedrock", "overloaded")
    …

def test_my_invoices(trivet_client, trivet_running):
    trivet_running.reply(lambda request: '{"total": 12}' if "invoice 7" in request.text else "unreadable")
    …

A reply is a text, a list of content blocks, a dict with fields of the message, or `ErrorReply("overloaded")`.

It is real: the embedded broker, a scheduler and a worker as processes, started once per session (a few seconds) in a
temporary folder; only the providers are simulated. Needs `trivet[worker,embedded]`.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import pytest

from trivet.reply_function import ErrorReply, ModelRequest, Reply, ReplyFunction, as_json_reply

if TYPE_CHECKING:
    from trivet.admin import Admin
    from trivet.client.client import Client
    from trivet.local.local_trivet import LocalTrivet
    from trivet_simulator import Control
    from trivet_tasks.config.settings import Settings

__all__ = ["QUICK", "ErrorReply", "ModelRequest", "Reply", "RunningTrivet", "ScriptedReply", "running_trivet"]

QUICK: Mapping[str, Mapping[str, Any]] = {
    "health": {"probe_interval_s": 1.0, "limited_backoff_s": 0.5, "idle_probe_s": 0},
    "dispatch": {"interval_s": 0.1},
    "worker": {"shutdown_grace_s": 1.0, "slots": 64},
    "cache": {"enabled": False},
}
"""Settings that make a test short, and its calls its own: no answer that another test's request brought, no probe of an
idle route among them."""
READY_S = 180.0
"""Seconds after which the start is given up: on a machine with other work a minute is not rare."""


class ScriptedReply:
    """A reply that `RunningTrivet.reply` set. As a context manager it is taken back at the end, and its errors are raised."""

    def __init__(self, simulator: "Control", rule: int, function: ReplyFunction | None) -> None:
        self._simulator = simulator
        self._rule = rule
        self._function = function
        self._open = True

    @property
    def requests(self) -> list[ModelRequest]:
        """The calls that its function was asked about, in order."""
        return [] if self._function is None else self._function.requests

    @property
    def errors(self) -> list[Exception]:
        """Exceptions that its function raised; a call it raised for was answered with status 400."""
        return [] if self._function is None else self._function.errors

    def close(self) -> None:
        """Take it back. Does nothing a second time."""
        if not self._open:
            return
        self._open = False
        self._simulator.clear_replies(self._rule)
        if self._function is not None:
            self._function.close()

    def raise_error(self) -> None:
        """Raise the first error of its function, where there is one."""
        if self.errors:
            raise self.errors[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if error is None:
            self.raise_error()


@dataclass(frozen=True)
class RunningTrivet:
    """A Trivet that runs on this machine, with a client of it and the controls of its simulator."""

    client: "Client"
    simulator: "Control"
    """Faults, limits, latency and the log of calls; see `trivet_simulator.Control`."""
    settings: "Settings"
    local: "LocalTrivet" = field(repr=False)
    """The processes: their ids, logs, and how to stop one."""

    admin: "Admin" = field(repr=False)
    """Its operations API: routes, jobs, costs, budgets."""
    _replies: list[ScriptedReply] = field(default_factory=list, repr=False)

    def reply(
        self,
        reply: Callable[[ModelRequest], Reply] | Reply,
        *,
        provider: str | None = None,
        model: str | None = None,
        contains: str | None = None,
        matches: str | None = None,
        times: int | None = None,
        timeout_s: float = 10.0,
    ) -> ScriptedReply:
        """Decide what the simulated model answers, from now until `reset` or the end of a `with` block.

        Args:
            reply: a text, content blocks, fields of the message, an `ErrorReply`; or a function of the request that
                returns one of them, or None for what the model would say. It is called in this process, on threads, once
                per provider call: retries and hedges call it again.
            provider: only calls to this simulated provider: `anthropic`, `bedrock` or `vertex`.
            model: only models that match this glob, by the provider's own name.
            contains: only requests of which a string of `system` or `messages` contains this.
            matches: the same with a regular expression.
            times: only the first so many calls.
            timeout_s: seconds that a function may take. After them, or where it raises, the call is answered with
                status 400 and the test finds the error in `.errors`.

        Of several replies the one set last that fits a request decides.
        """
        function = ReplyFunction(reply) if callable(reply) else None
        try:
            rule = self.simulator.reply(
                None if function else as_json_reply(reply),
                callback=function.url if function else None,
                provider=provider,
                model=model,
                contains=contains,
                matches=matches,
                times=times,
                timeout_s=timeout_s,
            )
        except BaseException:
            if function is not None:
                function.close()
            raise
        scripted = ScriptedReply(self.simulator, rule, function)
        self._replies.append(scripted)
        return scripted

    def reset(self) -> None:
        """Take back every fault, limit and scripted reply, and make every route healthy again."""
        while self._replies:
            self._replies.pop().close()
        self.simulator.reset()
        self.admin.health.forget(*self.settings.routes)


@contextlib.contextmanager
def running_trivet(
    folder: Path,
    *,
    store_url: str = "",
    broker_url: str = "",
    redis_url: str = "",
    workers: int = 1,
    simulator: tuple[str, ...] = ("--latency-median", "0.05", "--latency-p95", "0.15", "--seed", "1"),
    route_settings: Mapping[str, Mapping[str, Any]] | None = None,
    sections: Mapping[str, Mapping[str, Any] | Sequence[Mapping[str, Any]]] = QUICK,
    ready_s: float = READY_S,
) -> Iterator[RunningTrivet]:
    """Start a Trivet over the simulator and stop it at the end. `TRIVET_*` variables have no effect on it.

    Args:
        folder: where it keeps its files, `.trivet/` in it.
        store_url: the database; SQLite in the folder when not given. PostgreSQL must be migrated.
        broker_url, redis_url: Celery's broker and the shared state; the embedded Valkey when not given.
        workers: number of workers, each with a process per lane.
        simulator: options of `trivet simulate`.
        route_settings: by route (`anthropic`, `bedrock-us-east-1`, `vertex-global`), settings to add.
        sections: further tables of the configuration.
        ready_s: maximum seconds that its processes may take to start.
    """
    from trivet.admin import Admin
    from trivet.client.client import Client
    from trivet.local.local_simulator import Simulation, without_settings
    from trivet.local.local_trivet import LocalTrivet
    from trivet_simulator import Control
    from trivet_tasks.config.settings import load_settings

    folder.mkdir(parents=True, exist_ok=True)
    start = folder / "trivet.toml"
    urls = {"store": store_url, "broker": broker_url, "redis": redis_url}
    start.write_text("".join(f'[{name}]\nurl = "{url}"\n' for name, url in urls.items() if url), encoding="utf-8")
    simulation = Simulation(simulator, route_settings or {}, sections)
    with contextlib.ExitStack() as started:
        with without_settings():  # variables win over the file: tests would run on the database that they name
            local = LocalTrivet(load_settings(start), config_path=start, workers=workers, simulation=simulation)
            started.enter_context(local)
            local.wait_ready(ready_s)
        assert local.simulator is not None
        client = started.enter_context(Client(settings=local.settings))
        admin = started.enter_context(Admin(settings=local.settings))
        running = RunningTrivet(client, Control(local.simulator.control), local.settings, local, admin)
        try:
            yield running
        finally:
            for scripted in running._replies:
                with contextlib.suppress(OSError):  # the simulator may be gone
                    scripted.close()


@pytest.fixture(scope="session")
def trivet_running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTrivet]:
    """One running Trivet for the whole session."""
    with running_trivet(tmp_path_factory.mktemp("trivet")) as running:
        yield running


@pytest.fixture
def trivet_client(trivet_running: RunningTrivet) -> "Iterator[Client]":
    """A client of the session's Trivet, every fault and reply taken back. An exception of a reply function fails the test."""
    trivet_running.reset()
    yield trivet_running.client
    scripted = list(trivet_running._replies)
    trivet_running.reset()
    for one in scripted:
        one.raise_error()
