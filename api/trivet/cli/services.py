"""The processes of Trivet, one each: `trivet worker`, `scheduler`, `simulate` and `flower`."""

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trivet.cli import options, output
from trivet.cli.extras import need
from trivet.cli.log_lines import throttle_log
from trivet.cli.options import named_routes
from trivet.cli.output import print_error, print_facts
from trivet_tasks.config.environment_faults import refuse
from trivet_tasks.config.installation_key import read_key
from trivet_tasks.errors import ConfigError
from trivet_tasks.latency import Lane
from trivet_tasks.processes.signals import Reloader, stop_in_time
from trivet_tasks.processes.startup import announce_ready, served, set_title, without_collecting

if TYPE_CHECKING:
    from trivet_simulator import Endpoints, ProviderOptions

_PORT = typer.Option(min=0, max=65535, help="0: any free port.")


def worker(
    routes: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAMES",
            help="Routes to serve, separated by commas; may be repeated. Default: all configured routes.",
        ),
    ] = None,
    lane: Annotated[
        str, typer.Option(help="realtime or bulk. Default: a process for each of `[worker] lanes`, which are both.")
    ] = "both",
) -> None:
    """Run a worker: it makes the calls to the providers. It takes chunks from the queues of its routes.

    On SIGHUP it reads its routes from the file again. In the foreground of a terminal SIGHUP stops it instead.
    """
    settings = options.settings()
    refuse(settings)
    need("trivet worker", "worker")
    throttle_log()
    given = (name.strip() for names in routes or () for name in names.split(","))
    named = named_routes(settings, filter(None, given))
    if lane not in (*Lane, "both"):
        raise ConfigError(f"--lane: {lane!r} is not a lane.", hint="Use realtime, bulk or both.")
    read_key(settings)
    set_title("worker", served(named, len(settings.routes)), *([] if lane == "both" else [lane]))
    if lane == "both":
        from trivet.local.processes import run_lanes

        config = options.config_option()
        raise SystemExit(run_lanes(settings, named, config, print_error))
    with without_collecting():
        from trivet_worker.process.celery_worker import run_worker

    raise SystemExit(run_worker(settings, lane=Lane(lane), routes=named, on_ready=announce_ready))


def scheduler() -> None:
    """Run a scheduler: it dispatches waiting jobs. It does the periodic work, too. Any number may run.

    On SIGHUP it reads routes, budgets, schedules and `[celery_apps]` again. In the foreground of a terminal it stops instead.
    """
    settings = options.settings()
    set_title("scheduler")
    with without_collecting():
        from trivet_scheduler.service import Scheduler

    throttle_log()
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
    latency_median: Annotated[float, typer.Option(min=0, metavar="S", help="Median seconds of an answer.")] = 0.0,
    latency_p95: Annotated[
        float | None, typer.Option(metavar="S", help="95th percentile of the same. Default: the median.")
    ] = None,
    latency_per_token: Annotated[
        float, typer.Option(min=0, metavar="S", help="Further seconds for each output token.")
    ] = 0.0,
    output_median: Annotated[int, typer.Option(metavar="TOKENS", help="Median length of answers.")] = 64,
    models: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Model ids that are known; may be repeated. Default: *claude*."),
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
    """Simulate the three providers until Ctrl-C. Serves the wires of Anthropic, Bedrock and Vertex on this machine,
    with faults on demand."""
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
            help="USER:PASSWORD, several separated by commas. The variable FLOWER_BASIC_AUTH is safer: every user of the machine can read options.",
        ),
    ] = "",
    insecure: Annotated[bool, typer.Option("--insecure", help="Serve other machines without a password.")] = False,
) -> None:
    """Run Flower: queues, workers, tasks and waiting jobs. The queues are those of the routes.

    Flower's other settings are its FLOWER_* variables, e.g. FLOWER_URL_PREFIX. It shows and changes nothing.
    """
    settings = options.settings()
    set_title("flower")
    need("trivet flower", "ops")
    from trivet.flower import server
    from trivet.flower.options import Listen, parse_basic_auth

    listen = Listen(address, port, parse_basic_auth(basic_auth), settings.flower.hosts, insecure)
    server.run_flower(settings, listen, _print_page)
    # Threads that ask a broker or a database which is away cannot be called off; the interpreter would wait for them.
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0)


def _extra_provider(text: str) -> "ProviderOptions":
    from trivet_simulator import ProviderOptions

    name, found, rest = text.partition("=")
    wire, _, port = rest.partition(":")
    if not found or (port and not port.isdecimal()):
        raise ValueError(f"--extra must be NAME=WIRE or NAME=WIRE:PORT, not {text!r}")
    return ProviderOptions(name, wire, int(port or 0))


def _print_endpoints(endpoints: "Endpoints", *, as_json: bool) -> None:
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
