"""Trivet on this machine: embedded broker, simulator, scheduler, workers and Flower, for `trivet up` and the demo.

    with LocalTrivet(settings, workers=2, simulation=Simulation()) as local:
        local.wait_ready(60)
        ended = local.run()            # until Ctrl-C, SIGTERM, or a part that cannot work as configured

Everything it keeps is in `.trivet/`: the database and the broker's data where no URL says otherwise, `logs/NAME.log` of
each part, `simulated.toml` where the providers are simulated. One at a time uses a folder. Stopping goes from the
workers, whose calls get `[worker] shutdown_grace_s`, over scheduler, Flower and simulator, together, to the broker.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import redis

from trivet.local.child_process import Exit, Restarts
from trivet.local.embedded import EmbeddedValkey
from trivet.local.local_simulator import Simulation, choose_endpoints, simulator_arguments, write_simulated_config
from trivet.local.processes import Supervisor
from trivet_simulator.options import Endpoints
from trivet_store.database.engine import Store
from trivet_store.migrations.schema_version import ensure
from trivet_tasks.config.environment import without_secrets
from trivet_tasks.config.finding import CONFIG_VARIABLE
from trivet_tasks.config.installation_key import read_key
from trivet_tasks.config.running import only_one
from trivet_tasks.config.server_urls import read_server_url
from trivet_tasks.config.settings import Settings, load_settings
from trivet_tasks.errors import BrokerUnavailable, ConfigError
from trivet_tasks.processes.startup import python_command
from trivet_tasks.server_errors import says_what_to_do
from trivet_tasks.shared_state import check_writable, connect, refuse_cluster, unavailable_text

log = logging.getLogger("trivet")

PROGRAM = python_command("trivet")
_STAGES = {
    "worker": 0,
    "gateway": 0,
    "scheduler": 1,
    "flower": 1,
    "simulator": 1,
}  # the order of stopping; the broker comes last
_CALLING = ("worker", "gateway")
"""Parts that ask providers: the gateway about the tokens of a request."""
_AFTER_GRACE_S = 3.0  # for a worker to record its last results and exit: killed, its jobs would be quarantined
_AFTER_WORKERS_S = 1.0  # for the others, which have nothing to lose; with the default grace all ends within 10 s


class LocalTrivet:
    """The parts of one Trivet, children of one supervisor. A context manager: leaving it stops all that it started."""

    def __init__(
        self,
        settings: Settings,
        *,
        config_path: Path | None = None,
        workers: int = 2,
        lanes: Sequence[str] | None = None,
        simulation: Simulation | None = None,
        flower_port: int | None = None,
        gateway_port: int | None = None,
        program: Sequence[str] = PROGRAM,
        restarts: Restarts = Restarts(),  # noqa: B008 - frozen
        on_exit: Callable[[Exit], None] | None = None,
        say: Callable[[str], None] = log.info,
        reloads: bool = False,
    ) -> None:
        """Take the settings; entering the context starts the parts.

        Args:
            settings: the settings to run with.
            config_path: the file they came from, for the parts to read; None: they find what we found.
            workers: number of workers; each is a process per lane.
            lanes: the lanes they serve; None: `[worker] lanes`.
            simulation: start the simulator, and use routes that lead to it.
            flower_port: start Flower on this port of 127.0.0.1.
            gateway_port: start the HTTP gateway on this port of 127.0.0.1.
            program: the words before a part's own on its command line.
            restarts: when a part that ended is started again.
            on_exit: called, from another thread, for every part that ended by itself.
            say: called with each line on the progress.
            reloads: on SIGHUP scheduler and workers read the configuration again, instead of everything being stopped.

        Raises:
            ConfigError: a simulation was asked for beside configured routes.
        """
        if simulation is not None and settings.routes:
            raise ConfigError(
                f"{settings.source}: has routes, and simulated ones are not mixed with them.",
                hint="Run this in an empty folder, or without the simulator.",
            )
        self.settings = settings
        """The settings in use; with a simulation, once inside, those with the simulated routes."""
        self.data_dir = settings.data_dir
        """`.trivet/`."""
        self.config_path = config_path.absolute() if config_path is not None else None
        """The configuration that the parts read."""
        self.simulator: Endpoints | None = None
        """The simulator's endpoints, once inside."""
        self.supervisor = Supervisor(
            on_exit=on_exit,
            restarts=restarts,
            grace_s=settings.worker.shutdown_grace_s + _AFTER_GRACE_S,
            stop_limit_s=settings.worker.shutdown_grace_s + _AFTER_GRACE_S + _AFTER_WORKERS_S,
            passes_hangup=reloads,
        )
        self.parts: list[str] = []
        """The names of the processes, in the order they were started."""
        self._workers = workers
        self._lanes = settings.worker.lanes if lanes is None else lanes
        self._simulation = simulation
        self._flower_port = flower_port
        self._gateway_port = gateway_port
        self._program = program
        self._say = say
        self._valkey = EmbeddedValkey(settings.data_dir) if settings.embedded else None
        self._held = contextlib.ExitStack()

    @property
    def logs_dir(self) -> Path:
        """The folder of the parts' logs."""
        return self.data_dir / "logs"

    def log_path(self, name: str) -> Path:
        """The log of one part."""
        return self.logs_dir / f"{name}.log"

    def stage(self, name: str) -> int:
        """The place of a part in stopping: lower ones stop first."""
        return _STAGES[name.partition("-")[0]]

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Wait until every part does its work.

        Raises:
            ProcessFailed: one of them ended for good, or time ran out; with its last line.
        """
        for name in self.parts:
            self.supervisor.wait_ready(name, timeout_s)

    def run(self) -> Exit | None:
        """Wait for a signal, or for a part that ends with code 2, then stop the processes; a broker that died is replaced.

        Returns:
            The exit of the part that cannot work as configured; None if a signal came.
        """
        return self.supervisor.run(self.keep_broker)

    def start_part(self, name: str, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        """Start one more part, to be stopped with the others.

        Args:
            name: what to call it: `scheduler-2`, `worker-5-bulk`; the word before the dash says when it is stopped.
            arguments: of the command, e.g. `"worker", "--lane", "bulk"`.
            env: variables on top of ours.
        """
        self.supervisor.start(
            name,
            [*self._program, *arguments],
            env={**({} if self.config_path is None else {CONFIG_VARIABLE: str(self.config_path)}), **(env or {})},
            log_path=self.log_path(name),
            stage=self.stage(name),
            inherited=None if name.startswith(_CALLING) else self._without_keys(),
            reloads=name.startswith(("worker", "scheduler", "gateway")),
        )
        self.parts.append(name)

    def start_gateway(self, port: int) -> None:
        """Start the HTTP gateway on this port of 127.0.0.1, to be stopped together with the workers."""
        grace = {"TRIVET_GATEWAY__SHUTDOWN_GRACE_S": str(self.settings.worker.shutdown_grace_s)}
        self.start_part("gateway", "serve", "--address", "127.0.0.1", "--port", str(port), env=grace)

    def _without_keys(self) -> dict[str, str]:
        """Return the environment of a part that makes no calls, and so needs no key of a provider."""
        keys = [self.settings.security.key, *(route.api_key for route in self.settings.routes.values())]
        return without_secrets(os.environ, frozenset(key.target for key in keys if key and key.scheme == "env"))

    def keep_broker(self) -> None:
        """Start the embedded broker again where it does not answer. ProcessFailed when that fails."""
        if self._valkey is not None and not self._valkey.alive():
            self._say(f"The embedded broker does not answer; starting it again (see {self._valkey.log_path}).")
            self._valkey.start()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as started:
            self.data_dir.mkdir(mode=0o700, exist_ok=True)  # prompts are in it
            self.logs_dir.mkdir(mode=0o700, exist_ok=True)
            tell_others = started.enter_context(only_one(self.data_dir))
            started.enter_context(self.supervisor)  # from here on a signal is an exception
            if self._simulation is not None:
                self._start_simulator(self._simulation)
            tell_others(self.settings.path)
            if self._valkey is not None:
                started.enter_context(self._valkey)
            else:
                _check_servers(self.settings)
            started.callback(self.supervisor.stop)  # before the broker is
            self._check_database()
            self._start()
            self._held = started.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    def _start(self) -> None:
        if not self.settings.routes:
            raise ConfigError(
                f"{self.settings.source}: no route is configured.", hint="`trivet config init` proposes some."
            )
        read_key(self.settings)  # once and here, where the error is seen
        self.start_part("scheduler", "scheduler")
        for number in range(1, self._workers + 1):
            for lane in self._lanes:
                self.start_part(f"worker-{number}-{lane}", "worker", "--lane", lane)
        if self._flower_port is not None:
            self.start_part("flower", "flower", "--address", "127.0.0.1", "--port", str(self._flower_port))
        if self._gateway_port is not None:
            self.start_gateway(self._gateway_port)

    def _check_database(self) -> None:
        """Bring a database of ours to the newest schema: once and here, where the error is seen."""
        store = Store.of(self.settings)
        try:
            ensure(store)
        finally:
            store.close()

    def _start_simulator(self, simulation: Simulation) -> None:
        """Start it, and use routes that lead to where it will serve. It is not waited for."""
        endpoints = choose_endpoints(self.data_dir, simulation.wires)
        self.start_part("simulator", *simulator_arguments(simulation, self.data_dir, endpoints))
        self.simulator = replace(endpoints, pid=self.supervisor.pid("simulator") or 0)
        self.config_path = write_simulated_config(simulation, self.settings, self.data_dir, self.simulator)
        self.settings = load_settings(self.config_path)


def _check_servers(settings: Settings) -> None:
    """Ask broker and shared state whether they work. BrokerUnavailable or ConfigError where one does not."""
    refuse_cluster(settings)
    for url in dict.fromkeys((settings.redis_url, settings.broker_url)):
        if read_server_url(url).is_amqp:
            _check_amqp(settings)
            continue
        client = connect(url)
        try:
            check_writable(client)
        except redis.RedisError as error:
            raise BrokerUnavailable(unavailable_text(url, error), hint=_hint(error)) from None
        finally:
            client.close()


def _check_amqp(settings: Settings) -> None:
    from trivet_tasks.celery_app import make_app
    from trivet_tasks.messages import BROKER_ERRORS, broker_text

    app = make_app(settings)
    try:
        with app.connection_for_write(connect_timeout=5) as connection:
            connection.connect()
    except BROKER_ERRORS as error:
        raise BrokerUnavailable(broker_text(settings.broker_url, error), hint=_hint(error)) from None
    finally:
        app.close()


def _hint(error: Exception) -> str:
    return "" if says_what_to_do(error) else "Is the server running and the URL right?"
