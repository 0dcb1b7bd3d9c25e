"""`python -m trivet_simulator`: serve until SIGTERM or SIGINT. Prints one JSON line with the endpoints when ready.

Exit codes: 0 stopped by a signal, 2 a port is taken or an option is wrong.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from trivet_simulator.latency import Latency
from trivet_simulator.options import WIRE_NAMES, Endpoints, ProviderOptions, SimulatorOptions, replies_from
from trivet_simulator.server import serve


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="trivet_simulator",
        description="The wires of Anthropic, Bedrock and Vertex on loopback, with faults on demand.",
    )
    for wire in WIRE_NAMES:
        made.add_argument(f"--{wire}-port", type=int, default=0, metavar="PORT", help="0 (the default): any free port")
    made.add_argument("--control-port", type=int, default=0, metavar="PORT", help="0 (the default): any free port")
    made.add_argument(
        "--extra",
        action="append",
        default=[],
        metavar="NAME=WIRE[:PORT]",
        help="one more provider, e.g. bedrock-eu=bedrock",
    )
    made.add_argument("--latency-median", type=float, default=0.0, metavar="S", help="seconds (default 0)")
    made.add_argument("--latency-p95", type=float, default=None, metavar="S", help="seconds (default: the median)")
    made.add_argument("--latency-per-token", type=float, default=0.0, metavar="S", help="seconds per output token")
    made.add_argument("--output-median", type=int, default=64, metavar="TOKENS", help="median length of answers")
    made.add_argument("--models", action="append", metavar="GLOB", help="model ids that are known (default *claude*)")
    made.add_argument("--replies", type=Path, default=None, metavar="PATH", help="a JSON file of scripted replies")
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("--call-log", type=Path, default=None, metavar="PATH", help="append every call as a JSON line")
    made.add_argument("--log-capacity", type=int, default=1_000_000, metavar="CALLS", help="calls held in memory")
    made.add_argument("--ready-file", type=Path, default=None, metavar="PATH", help="write the endpoints here")
    made.add_argument("--parent", type=int, default=None, metavar="PID", help="stop when this is no longer the parent")
    return made


def options_from(arguments: argparse.Namespace) -> SimulatorOptions:
    """Options from the command line; ValueError on what cannot be."""
    providers = [ProviderOptions(w, w, getattr(arguments, f"{w}_port")) for w in WIRE_NAMES]
    for extra in arguments.extra:
        name, found, rest = extra.partition("=")
        wire, _, port = rest.partition(":")
        if not found or (port and not port.isdecimal()):
            raise ValueError(f"--extra must be NAME=WIRE or NAME=WIRE:PORT, not {extra!r}")
        providers.append(ProviderOptions(name, wire, int(port or 0)))
    return SimulatorOptions(
        providers=tuple(providers),
        control_port=arguments.control_port,
        latency=Latency(arguments.latency_median, arguments.latency_p95, arguments.latency_per_token),
        seed=arguments.seed,
        models=tuple(arguments.models or ("*claude*",)),
        output_median=arguments.output_median,
        call_log=arguments.call_log,
        log_capacity=arguments.log_capacity,
        replies=replies_from(arguments.replies),
        ready_file=arguments.ready_file,
        parent=arguments.parent,
    )


def say_ready(endpoints: Endpoints) -> None:
    """The one line on stdout."""
    sys.stdout.write(endpoints.as_json().decode() + "\n")
    sys.stdout.flush()


def main(argv: list[str] | None = None) -> int:
    """Run; returns the exit code."""
    try:
        serve(options_from(parser().parse_args(argv)), say_ready)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"trivet_simulator: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
