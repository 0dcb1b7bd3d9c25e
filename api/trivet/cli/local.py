"""All of Trivet on this machine: `trivet up`, and `trivet demo` with an outage in the middle."""

import contextlib
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trivet.cli import options, output
from trivet.cli.extras import need
from trivet.cli.output import FAILED, print_error, print_whole
from trivet.cli.serve import PORT, check_keys, print_exports
from trivet_tasks.config.environment_faults import refuse
from trivet_tasks.config.finding import find_configuration
from trivet_tasks.config.server_urls import masked
from trivet_tasks.config.settings import read_settings
from trivet_tasks.errors import ConfigError, ProcessFailed
from trivet_tasks.processes.startup import announce_ready, set_title

if TYPE_CHECKING:
    from trivet.local.local_simulator import Simulation
    from trivet.local.local_trivet import LocalTrivet

_FLOWER_PORT = 5555
_READY_S = 90.0
_TRY = 'trivet submit "Say hello." --model claude-sonnet-5-5 --latency interactive --wait'


def demo(
    jobs: Annotated[int, typer.Option(min=1, max=1_000_000, help="Number of documents.")] = 1_000,
    workers: Annotated[int, typer.Option(min=1, max=16, help="Number of workers.")] = 2,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object at the end; the progress goes to stderr.")
    ] = False,
    plain: Annotated[bool, typer.Option("--plain", help="A line every few seconds instead of a live screen.")] = False,
) -> None:
    """Run 1,000 documents through a simulated outage. The three providers are simulated, so it needs no account and
    costs nothing.

    Exit codes: 0 every job succeeded, none was lost or doubled; 1 otherwise; 130 on Ctrl-C.
    """
    need("trivet demo", "worker", "embedded", "serve")
    from trivet.demo.run import run_demo
    from trivet.demo.screen import LiveScreen, PlainView, as_object, print_summary

    set_title("demo")
    console = output.err if as_json else output.out
    live = console.is_terminal and not console.is_dumb_terminal and not plain
    try:
        outcome = run_demo(jobs, workers, LiveScreen(console) if live else PlainView(console))
    except ProcessFailed as error:
        print_error(f"trivet: {error}")
        raise typer.Exit(FAILED) from None
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):
            print_error("Stopped.")
        raise typer.Exit(130) from None
    print_summary(console, outcome)
    if as_json:
        output.print_json(as_object(outcome))
    if not outcome.good:
        raise typer.Exit(FAILED)


def up(
    workers: Annotated[
        int, typer.Option(min=1, max=64, help="Number of workers; each has a process for each lane.")
    ] = 2,
    flower: Annotated[bool, typer.Option("--flower", help="Start Flower too.")] = False,
    flower_port: Annotated[int, typer.Option(min=1, max=65535, help="Flower's port.")] = _FLOWER_PORT,
    serve: Annotated[bool, typer.Option("--serve", help="Start the HTTP gateway too.")] = False,
    serve_port: Annotated[int, typer.Option(min=1, max=65535, help="The gateway's port.")] = PORT,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Simulate the three providers on this machine: no account, no cost.")
    ] = False,
    replies: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="With --simulate: scripted replies (docs/how-to/test-your-code.md)."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the running services as one JSON line once they are up.")
    ] = False,
) -> None:
    """Run everything on this machine until Ctrl-C. That is a broker, a scheduler and workers.

    On SIGHUP scheduler, workers and gateway read the configuration again. In the foreground of a terminal SIGHUP stops it instead.
    """
    set_title("up")
    # simulated routes are not mixed with those of a project above this folder, nor this Trivet with one that runs
    settings = read_settings(find_configuration(options.config_option(), running=False, parents=not simulate))
    if not settings.routes and not simulate:
        raise ConfigError(
            f"{settings.source}: no route is configured, so there is nowhere to send a job.",
            hint="`trivet config init` writes a file that proposes routes; `trivet up --simulate` and `trivet demo` need none.",
        )
    if replies is not None and not simulate:
        raise ConfigError("--replies: only the simulator takes scripted replies; give --simulate too.")
    refuse(settings)
    need(
        "trivet up",
        "worker",
        *(("embedded",) if simulate or settings.embedded else ()),
        *(("ops",) if flower else ()),
        *(("serve",) if serve else ()),
    )
    if flower:
        _check_port("--flower-port", flower_port)
    if serve:
        _check_port("--serve-port", serve_port)
    from trivet.local.local_trivet import LocalTrivet

    local = LocalTrivet(
        settings,
        config_path=settings.path,
        workers=workers,
        simulation=_simulation(replies) if simulate else None,
        flower_port=flower_port if flower else None,
        gateway_port=serve_port if serve else None,
        on_exit=lambda ended: print_error(f"{str(ended).rstrip('.')}. Its log: {local.log_path(ended.name)}"),
        say=print_error,
        reloads=True,
    )
    print_error(f"Starting in {local.data_dir} …")
    is_up, ended, teller = False, None, threading.Thread(target=_tell_stops, args=(local,), daemon=True)
    try:
        with local:
            teller.start()
            local.wait_ready(_READY_S)
            is_up = True
            _show(
                local,
                as_json=as_json,
                flower_url=f"http://127.0.0.1:{flower_port}" if flower else None,
                gateway_url=f"http://127.0.0.1:{serve_port}" if serve else None,
            )
            announce_ready()
            ended = local.run()
    except KeyboardInterrupt:  # a signal outside of run()
        if not is_up:
            print_error("Stopped before everything was up.")
            raise typer.Exit(130) from None
    teller.join(1.0)
    if ended is not None:
        said = ended.last_line.removeprefix("trivet: ")
        raise ConfigError(
            f"{ended.name} cannot work as configured: {said}", hint=f"Its log: {local.log_path(ended.name)}"
        )
    print_error("Stopped. Jobs that wait are in the database and go on at the next start.")


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


def _check_port(option: str, port: int) -> None:
    """Raise ConfigError if a port is taken, before anything else is started."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError(
                f"{option}: {port} cannot be opened on 127.0.0.1: {error.strerror}.", hint="Choose another."
            ) from None


def _tell_stops(local: "LocalTrivet") -> None:
    """Wait for the ends of the parts, in the order of stopping."""
    for name in sorted(local.parts, key=local.stage):
        local.supervisor.wait_end(name, threading.TIMEOUT_MAX)
        print_error(f"  {name} stopped")


def _show(local: "LocalTrivet", *, as_json: bool, flower_url: str | None, gateway_url: str | None) -> None:
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
                "gateway": gateway_url,
                "simulator": local.simulator,
                "config": None if local.config_path is None else str(local.config_path),
                "logs": str(local.logs_dir),
            }
        )
        sys.stdout.flush()  # the process that started this one waits for the line
        return
    rows = [
        ("routes", ", ".join(settings.routes)),
        ("database", masked(settings.store_url)),
        ("broker", masked(settings.broker_url)),
        ("processes", ", ".join(local.parts)),
        *([] if local.simulator is None else [("simulator", f"{local.simulator.control} takes faults on demand")]),
        *([] if flower_url is None else [("Flower", flower_url)]),
        *([] if gateway_url is None else [("gateway", gateway_url)]),
        ("configuration", settings.source),
        ("logs", f"{local.logs_dir}"),
    ]
    print_whole("Trivet is up. Ctrl-C stops it.")
    for name, value in rows:
        print_whole(f"  {name:<14} {value}")
    if gateway_url is not None:
        print_exports(check_keys(settings, "127.0.0.1"), gateway_url)
    print_whole(f"In a second terminal, in {local.data_dir.parent} or below:\n  {_TRY}\n  trivet routes")
