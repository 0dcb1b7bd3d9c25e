"""Where a bulk worker and the scheduler spend their CPU, in microseconds a job by function.

    python benchmarks/profile_parts.py [--database sqlite|postgres] [--wire anthropic] [--jobs 6000] [--lines]

Needs py-spy beside Trivet (`.venv/bin/python -m pip install py-spy`), which samples both processes under load. A function's
share of the samples, times the CPU that the process used by the kernel's account, is its cost. `self`: in the function
itself and in what it calls of C; `all`: with everything it calls.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from load import LATENCY_S
from process_figures import cpu_seconds
from setups import Wire
from trivet_setup import TrivetSetup, postgres_server

from trivet_simulator import SimulatorProcess

PY_SPY = Path(sys.executable).with_name("py-spy")
RATE = 250
WARM_JOBS = 500


@contextlib.contextmanager
def sampling(pid: int, out: Path, *, lines: bool) -> Iterator[None]:
    """Sample a process while inside."""
    grain = [] if lines else ["--function"]
    command = [PY_SPY, "record", "--pid", pid, "--rate", RATE, "--format", "raw", "--output", out, "--threads", *grain]
    command += ["--duration", "unlimited", "--nonblocking"]
    spy = subprocess.Popen(
        [str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield
    finally:
        spy.send_signal(signal.SIGINT)
        spy.wait(30)


def read(path: Path) -> tuple[Counter[str], Counter[str], Counter[str], int]:
    """Samples by thread, by function with all it calls, by function itself; and how many there are."""
    threads: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    own: Counter[str] = Counter()
    total = 0
    for line in path.read_text(encoding="utf-8").splitlines():
        stack, _, count = line.rpartition(" ")
        thread, *frames = stack.split(";")
        names = [_short(frame) for frame in frames]
        total += int(count)
        threads[thread.partition(":")[2].strip() or thread] += int(count)
        own[names[-1] if names else thread] += int(count)
        for name in set(names):
            whole[name] += int(count)
    return threads, whole, own, total


def _short(frame: str) -> str:
    """`function (package/file.py:12)` with only the end of the path."""
    name, _, place = frame.partition(" (")
    return f"{name} ({'/'.join(place.rstrip(')').split('/')[-2:])})"


def show(title: str, path: Path, cpu_us: float, top: int) -> None:
    """A process's functions, dearest first."""
    threads, whole, own, total = read(path)
    print(f"\n## {title}: {cpu_us:.0f} us of CPU a job, {total} samples")
    for name, counts in (("by thread", threads), ("all", whole), ("self", own)):
        print(f"\n# {name}")
        for function, count in counts.most_common(top if name != "by thread" else 12):
            print(f"{count / total * cpu_us:8.1f}  {function}")


def main() -> int:
    """Run and print."""
    made = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    made.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    made.add_argument("--wire", choices=("anthropic", "bedrock", "vertex"), default="anthropic")
    made.add_argument("--jobs", type=int, default=6_000)
    made.add_argument("--top", type=int, default=90)
    made.add_argument("--lines", action="store_true", help="by line instead of by function")
    arguments = made.parse_args()
    if not PY_SPY.exists():
        print(f"py-spy is not there: {sys.executable} -m pip install py-spy", file=sys.stderr)
        return 2
    with contextlib.ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory()))
        simulator = held.enter_context(SimulatorProcess("--latency-median", str(LATENCY_S)))
        postgres = held.enter_context(postgres_server()) if arguments.database == "postgres" else None
        setup = held.enter_context(TrivetSetup(Wire(arguments.wire, simulator), postgres=postgres))
        setup.run(WARM_JOBS)
        roots = setup.processes()
        with contextlib.ExitStack() as spies:
            for part in ("worker", "scheduler"):
                spies.enter_context(sampling(roots[part][0], folder / part, lines=arguments.lines))
            before = {part: cpu_seconds(pids) for part, pids in roots.items()}
            setup.run(arguments.jobs)
            used = {part: (cpu_seconds(pids) - before[part]) / arguments.jobs * 1e6 for part, pids in roots.items()}
        print(" ".join(f"{part} {cost:.0f} us" for part, cost in used.items()))
        for part in ("worker", "scheduler"):
            show(part, folder / part, used[part], arguments.top)
    return 0


if __name__ == "__main__":
    sys.exit(main())
