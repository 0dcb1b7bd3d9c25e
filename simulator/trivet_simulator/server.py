"""The simulator as a whole: its providers, their ports, and its life from start to signal."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
from collections.abc import Callable
from pathlib import Path

from trivet_simulator.calls import CallLog
from trivet_simulator.control import ControlHandler
from trivet_simulator.options import Endpoints, SimulatorOptions, base_url
from trivet_simulator.ports import HOST, Port
from trivet_simulator.provider import Provider
from trivet_simulator.scripted import ReplyBook, rules_from
from trivet_simulator.tokens import Credentials
from trivet_tasks.processes.signals import handled_stop_signals

CONTROL_MAX_BODY = 4 * 1024 * 1024
PARENT_CHECK_S = 0.5
FLUSH_S = 1.0


class Simulator:
    """Providers and ports of one running simulator. Lives on one event loop."""

    def __init__(self, options: SimulatorOptions) -> None:
        self.options = options
        self.log = CallLog(options.log_capacity, options.call_log)
        self.credentials = Credentials()
        self.replies = ReplyBook(rules_from(list(options.replies), {p.name: p.wire for p in options.providers}))
        self.providers: dict[str, Provider] = {}
        self.ports: dict[str, Port] = {}
        for provider_options in options.providers:
            provider = Provider(provider_options, options, self.log, self.replies)
            self.providers[provider.name] = provider
            self.ports[provider.name] = Port(provider.name, provider.handle, provider.wire.max_body)
        self.control = Port("control", ControlHandler(self).handle, CONTROL_MAX_BODY)

    async def open(self) -> Endpoints:
        """Open all ports, all or none. PortTakenError says which cannot be."""
        wanted = [(self.ports[p.name], p.port) for p in self.options.providers]
        wanted.append((self.control, self.options.control_port))
        # those asked for by number first, so that none of the free ones takes their place
        for port, number in sorted(wanted, key=lambda pair: pair[1] == 0):
            port.bind(number)
        for port, _ in wanted:
            await port.open()
        return Endpoints.on(f"http://{HOST}:{self.control.number}", {name: self.url(name) for name in self.providers})

    def url(self, name: str) -> str:
        """A provider's base URL."""
        return base_url(self.providers[name].wire.name, self.ports[name].number)

    async def down(self, name: str) -> None:
        """Close a provider's port: connections are refused, calls in flight are reset."""
        self.providers[name].aborting = "down"
        await self.ports[name].shut()

    async def up(self, name: str) -> None:
        """Open a provider's port again."""
        await self.ports[name].open()

    async def reset(self) -> None:
        """Back to how it started: no faults, no limits, all ports up. Calls in flight are broken off and forgotten."""
        self.log.reset()
        for name, port in self.ports.items():
            self.providers[name].aborting = "reset"
            port.break_calls()
            await port.open()
        # broken connections report on the next turn of the loop; they must not count in the new life
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for provider in self.providers.values():
            provider.reset()
        self.log.reset()
        self.credentials.asked.clear()
        self.replies.rules = []

    def close(self) -> None:
        """Close every port and the call log."""
        for provider in self.providers.values():
            provider.aborting = "stopped"
        for port in (*self.ports.values(), self.control):
            port.close()


async def run(options: SimulatorOptions, on_ready: Callable[[Endpoints], None] | None) -> None:
    """Serve until a stop signal. PortTakenError when a port cannot be opened."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in handled_stop_signals():
        loop.add_signal_handler(number, stop.set)
    simulator = Simulator(options)
    chores = asyncio.create_task(_chores(simulator, stop))
    try:
        endpoints = await simulator.open()
        if options.ready_file is not None:
            write_whole(options.ready_file, endpoints.as_json() + b"\n")
        if on_ready is not None:
            on_ready(endpoints)
        await stop.wait()
    finally:
        chores.cancel()
        simulator.close()
        # lets the broken calls report before the log is closed
        for _ in range(3):
            await asyncio.sleep(0)
        simulator.log.close()
        with contextlib.suppress(asyncio.CancelledError):
            await chores


async def _chores(simulator: Simulator, stop: asyncio.Event) -> None:
    """Flush the call log, and stop when the parent is gone."""
    parent, waited_s = simulator.options.parent, 0.0
    while True:
        await asyncio.sleep(PARENT_CHECK_S)
        if parent is not None and os.getppid() != parent:
            stop.set()
        waited_s += PARENT_CHECK_S
        if waited_s >= FLUSH_S:
            waited_s = 0.0
            simulator.log.flush()


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees all of it or none."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_bytes(data)
    part.replace(path)


def _many_sockets() -> None:
    """Each connection is a file; the usual soft limit of 1,024 is less than one busy worker opens."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _fast_loop() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def serve(options: SimulatorOptions, on_ready: Callable[[Endpoints], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT; blocks, and must be called in the main thread.

    `on_ready` is called once with the endpoints when all ports are open. PortTakenError when one cannot be.
    """
    _many_sockets()
    with asyncio.Runner(loop_factory=_fast_loop()) as runner:
        runner.run(run(options, on_ready))
