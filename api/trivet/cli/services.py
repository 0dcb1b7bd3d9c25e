"""Processes of Trivet: `trivet up` with everything on this machine; `worker`, `scheduler`, `simulate`, `flower` one each."""

import logging
import os
import socket
import sys
import threading
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trivet.cli import options, output
from trivet_tasks.config.environment_faults import refuse
from trivet_tasks.config.installation_key import read_key
from trivet_tasks.config.server_urls import masked
from trivet_tasks.config.settings import config_path
from trivet_tasks.errors import ConfigError
from trivet_tasks.latency import Lane
from trivet_tasks.processes.signals import Reloader, stop_in_time
from trivet_tasks.processes.startup import announce_ready, served, set_title, without_collecting

if TYPE_CHECKING:
    from trivet.local.child_process import Exit
    from trivet.local.local_simulator import Simulation
    from trivet.local.local_trivet import LocalTrivet
    from trivet_simulator import Endpoints, ProviderOptions
    from trivet_tasks.config.settings import Settings

FLOWER_PORT = 5555
_READY_S = 90.0
_TRY = 'trivet submit "Say hello." --model claude-sonnet-5-5 --latency realtime --wait'
_PORT = typer.Option(min=0, max=65535, help="0 (the default): any free port.")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (up, worker, scheduler, simulate, flower):
        app.command()(command)


def up(
    workers: Annotated[int, typer.Option(min=1, max=64, help="Workers; each is a process for each lane.")] = 2,
    flower: Annotated[bool, typer.Option("--flower", help="Start Flower too.")] = False,
    flower_port: Annotated[int, typer.Option(min=1, max=65535, help="Flower's port.")] = FLOWER_PORT,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Simulate the three providers on this machine: no account, no cost.")
    ] = False,
    replies: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="With --simulate: scripted replies (docs/how-to/test-your-code.md)."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="When up, print what runs as one JSON line.")] = False,
) -> None:
    """Run broker, scheduler and workers on this machine, until Ctrl-C.

    On SIGHUP scheduler and workers read the configuration again. In the foreground of a terminal it ends with that instead.
    """
    set_title("up")
    settings = options.settings()
    if not settings.routes and not simulate:
        raise ConfigError(
            f"{settings.source}: no route is configured, so there is nowhere to send a job.",
            hint="`trivet config init` writes a file that proposes routes; `trivet up --simulate` and `trivet demo` need none.",
        )
    if replies is not None and not simulate:
        raise ConfigError("--replies: only the simulator takes scripted replies; give --simulate too.")
    refuse(settings)
    if flower:
        _check_port(flower_port)
    from trivet.local.local_trivet import LocalTrivet

    local = LocalTrivet(
        settings,
        config_path=config_path(options.config_option()),
        workers=workers,
        simulation=_simulation(replies) if simulate else None,
        flower_port=flower_port if flower else None,
        on_exit=lambda ended: _tell_exit(local, ended),
        say=_tell,
        reloads=True,
    )
    _tell(f"Starting in {local.data_dir} …")
    is_up, ended, teller = False, None, threading.Thread(target=_tell_stops, args=(local,), daemon=True)
    try:
        with local:
            teller.start()
            local.wait_ready(_READY_S)
            is_up = True
            _show(local, as_json=as_json, flower_port=flower_port if flower else None)
            announce_ready()
            ended = local.run()
    except KeyboardInterrupt:  # a signal outside of run()
        if not is_up:
            _tell("Stopped before everything was up.")
            raise typer.Exit(130) from None
    teller.join(1.0)
    if ended is not None:
        said = ended.last_line.removeprefix("trivet: ")
        raise ConfigError(
            f"{ended.name} cannot work as configured: {said}", hint=f"Its log: {local.log_path(ended.name)}"
        )
    _tell("Stopped. Jobs that wait are in the database and go on at the next start.")


def worker(
    routes: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAMES",
            help="The routes to serve, by comma or given several times; all that are configured when not given.",
        ),
    ] = None,
    lane: Annotated[
        str, typer.Option(help="realtime or bulk; when not given, a process for each of `[worker] lanes` (both).")
    ] = "both",
) -> None:
    """Run a worker: it takes chunks from the queues of its routes and makes the calls.

    On SIGHUP it reads its routes from the file again. In the foreground of a terminal it ends with that instead.
    """
    settings = options.settings()
    refuse(settings)
    _throttle_log()
    named = _served(settings, routes or ())
    if lane not in (*Lane, "both"):
        raise ConfigError(f"--lane: {lane!r} is not a lane.", hint="Use realtime, bulk or both.")
    if settings.cache.enabled:
        read_key(settings)
    set_title("worker", served(named, len(settings.routes)), *([] if lane == "both" else [lane]))
    if lane == "both":
        from trivet.local.lanes import run_lanes

        config = options.config_option()
        raise SystemExit(run_lanes(settings, named, config, lambda line: output.err.print(line, markup=False)))
    with without_collecting():
        from trivet_worker.process.celery_worker import run_worker

    raise SystemExit(run_worker(settings, lane=Lane(lane), routes=named, on_ready=announce_ready))


def scheduler() -> None:
    """Run a scheduler: it dispatches waiting jobs and keeps house. Any number may run.

    On SIGHUP it reads routes and budgets from the file again. In the foreground of a terminal it ends with that instead.
    """
    set_title("scheduler")
    with without_collecting():
        from trivet_scheduler.service import Scheduler

    _throttle_log()
    settings = options.settings()
    running = Scheduler(settings)
    stop_in_time(running.stop, on_hangup=Reloader(settings, running.reload, logging.getLogger("trivet.scheduler")).ask)
    running.run(on_ready=announce_ready)


def simulate(
    anthropic_port: Annotated[int, _PORT] = 0,
    bedrock_port: Annotated[int, _PORT] = 0,
    vertex_port: Annotated[int, _PORT] = 0,
    control_port: Annotated[int, _PORT] = 0,
    extra: Annotated[
        list[str] | None, typer.Option(metavar="NAME=WIRE[:PORT]", help="One more provider, e.g. bedrock-eu=bedrock.")
    ] = None,
    latency_median: Annotated[float, typer.Option(min=0, metavar="S", help="Seconds that an answer takes.")] = 0.0,
    latency_p95: Annotated[
        float | None, typer.Option(metavar="S", help="Its 95th percentile; the median when not given.")
    ] = None,
    latency_per_token: Annotated[
        float, typer.Option(min=0, metavar="S", help="Seconds on top for each output token.")
    ] = 0.0,
    output_median: Annotated[int, typer.Option(metavar="TOKENS", help="The median length of answers.")] = 64,
    models: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Model ids that are known; *claude* when not given.")
    ] = None,
    replies: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="A JSON file of scripted replies: docs/how-to/test-your-code.md."),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed draws the same latencies and lengths.")] = 1,
    call_log: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Append every call here, as a JSON line.")
    ] = None,
    log_capacity: Annotated[int, typer.Option(metavar="CALLS", help="Calls held in memory.")] = 1_000_000,
    endpoints_file: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Write the endpoints here, as JSON.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the endpoints as one JSON line.")] = False,
) -> None:
    """Serve the wires of Anthropic, Bedrock and Vertex on this machine, with faults on demand, until Ctrl-C."""
    set_title("simulator")
    with without_collecting():
        from trivet_simulator import Latency, ProviderOptions, SimulatorOptions, serve
    from trivet_simulator.options import WIRE_NAMES, replies_from

    ports = {"anthropic": anthropic_port, "bedrock": bedrock_port, "vertex": vertex_port}

    def ready(endpoints: "Endpoints") -> None:
        _print_endpoints(endpoints, as_json=as_json)
        announce_ready()

    try:
        options = SimulatorOptions(
            providers=(
                *(ProviderOptions(w, w, ports[w]) for w in WIRE_NAMES),
                *(_extra_provider(e) for e in extra or ()),
            ),
            control_port=control_port,
            latency=Latency(latency_median, latency_p95, latency_per_token),
            seed=seed,
            models=tuple(models or ("*claude*",)),
            output_median=output_median,
            call_log=call_log,
            log_capacity=log_capacity,
            replies=replies_from(replies),
            ready_file=endpoints_file,
        )
        serve(options, ready)
    except (
        OSError,
        ValueError,
    ) as error:  # a port that is taken, an option that cannot be, a file that cannot be written
        raise ConfigError(f"simulate: {error}") from None


def flower(
    address: Annotated[str, typer.Option(envvar="FLOWER_ADDRESS", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(envvar="FLOWER_PORT", min=0, max=65_535, help="The port; 0: any free one.")
    ] = 5555,
    basic_auth: Annotated[
        str,
        typer.Option(
            envvar="FLOWER_BASIC_AUTH",
            show_envvar=True,
            metavar="USER:PASSWORD",
            help="USER:PASSWORD, several by comma. Better as a variable: every user of the machine can read options.",
        ),
    ] = "",
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Serve other machines although no password is set.")
    ] = False,
) -> None:
    """Run Flower: the queues of the routes, the workers, the tasks, and what waits in the database.

    Flower's other settings are its FLOWER_* variables, e.g. FLOWER_URL_PREFIX. It shows and changes nothing.
    """
    set_title("flower")
    try:
        from trivet.flower import server
        from trivet.flower.options import Listen, parse_basic_auth
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("flower", "tornado", "prometheus_client"):
            raise
        raise ConfigError("Flower is not installed.", hint="Install it with: pip install 'trivet[ops]'") from None
    settings = options.settings()
    listen = Listen(address, port, parse_basic_auth(basic_auth), settings.flower.hosts, insecure)
    server.run_flower(settings, listen, _print_page)
    # Threads that ask a broker or a database which is away cannot be called off; the interpreter would wait for them.
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0)


def _served(settings: "Settings", given: Iterable[str]) -> list[str]:
    """Return the routes to serve, each once. ConfigError when one is not configured, or none is."""
    asked = dict.fromkeys(name.strip() for names in given for name in names.split(",") if name.strip())
    for name in asked:
        if name not in settings.routes:
            near = get_close_matches(name, settings.routes, n=1, cutoff=0.5)
            known = f"Configured: {', '.join(settings.routes) or 'none'}."
            raise ConfigError(
                f"--routes: no route is called {name!r} in {settings.source}.",
                hint=f"Did you mean {near[0]}?" if near else known,
            )
    if not settings.routes:
        raise ConfigError(
            f"{settings.source}: no route is configured.", hint="`trivet config init` writes a file with some."
        )
    return list(asked) or list(settings.routes)


def _throttle_log() -> None:
    """Log from INFO on, with repeated lines throttled."""
    from trivet_tasks.processes.log_throttle import LogThrottle

    logging.getLogger().setLevel(logging.INFO)
    for name in ("celery.worker.strategy", "celery.app.trace"):  # two lines for every message
        logging.getLogger(name).setLevel(logging.WARNING)
    for handler in logging.getLogger().handlers:
        handler.addFilter(LogThrottle())


def _extra_provider(text: str) -> "ProviderOptions":
    from trivet_simulator import ProviderOptions

    name, found, rest = text.partition("=")
    wire, _, port = rest.partition(":")
    if not found or (port and not port.isdecimal()):
        raise ValueError(f"--extra must be NAME=WIRE or NAME=WIRE:PORT, not {text!r}")
    return ProviderOptions(name, wire, int(port or 0))


def _print_endpoints(endpoints: "Endpoints", *, as_json: bool) -> None:
    from trivet.cli.output import print_facts

    if as_json:
        output.print_json(endpoints)
        sys.stdout.flush()  # whoever started us waits for this line
        return
    rows = [*endpoints.providers.items(), ("control", endpoints.control), ("Google token", endpoints.token_url)]
    print_facts([*rows, ("AWS credentials", endpoints.credentials_url)])


def _print_page(page: str) -> None:
    typer.echo(f"Flower is at {page}")
    sys.stdout.flush()
    announce_ready()


def _simulation(replies: Path | None) -> "Simulation":
    from trivet.local.local_simulator import Simulation
    from trivet_simulator.options import replies_from

    if replies is None:
        return Simulation()
    try:
        replies_from(replies)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--replies: {error}") from None
    return Simulation((*Simulation().arguments, "--replies", str(replies.absolute())))


def _check_port(port: int) -> None:
    """Raise ConfigError if Flower's port is taken, before anything else is started."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError(
                f"--flower-port: {port} cannot be opened on 127.0.0.1: {error.strerror}.", hint="Choose another."
            ) from None


def _tell_stops(local: "LocalTrivet") -> None:
    """Wait for the ends of the parts, in the order of stopping."""
    for name in sorted(local.parts, key=local.stage):
        local.supervisor.wait_end(name, threading.TIMEOUT_MAX)
        _tell(f"  {name} stopped")


def _tell_exit(local: "LocalTrivet", ended: "Exit") -> None:
    _tell(f"{str(ended).rstrip('.')}. Its log: {local.log_path(ended.name)}")


def _tell(line: str) -> None:
    """Print on stderr: stdout has the output of --json only."""
    output.err.print(line, markup=False, soft_wrap=True)


def _show(local: "LocalTrivet", *, as_json: bool, flower_port: int | None) -> None:
    flower_url = None if flower_port is None else f"http://127.0.0.1:{flower_port}"
    settings = local.settings
    if as_json:
        output.print_json(
            {
                "up": True,
                "database": masked(settings.store_url),
                "broker": masked(settings.broker_url),
                "routes": list(settings.routes),
                "processes": {name: local.supervisor.pid(name) for name in local.parts},
                "flower": flower_url,
                "simulator": local.simulator,
                "config": None if local.config_path is None else str(local.config_path),
                "logs": str(local.logs_dir),
            }
        )
        sys.stdout.flush()  # whoever started us waits for this line
        return
    rows = [
        ("routes", ", ".join(settings.routes)),
        ("database", masked(settings.store_url)),
        ("broker", masked(settings.broker_url)),
        ("processes", ", ".join(local.parts)),
        *([] if local.simulator is None else [("simulator", f"{local.simulator.control} takes faults on demand")]),
        *([] if flower_url is None else [("Flower", flower_url)]),
        ("configuration", settings.source),
        ("logs", f"{local.logs_dir}"),
    ]
    output.out.print("Trivet is up. Ctrl-C stops it.")
    for name, value in rows:
        output.out.print(f"  {name:<14} {value}", markup=False, soft_wrap=True)
    output.out.print(
        f"In a second terminal, in {local.data_dir.parent}:\n  {_TRY}\n  trivet routes", markup=False, soft_wrap=True
    )
