"""CPU profile of a bulk worker and the scheduler, in microseconds a job by function.

    python benchmarks/profile_parts.py [--database sqlite|postgres] [--wire anthropic] [--jobs 6000] [--lines]

Needs py-spy beside Trivet (`.venv/bin/python -m pip install py-spy`), which samples the threads that hold the GIL under
load. A function's share of its thread's samples, times the CPU that the kernel says the thread used, is its cost. `self`:
in the function itself and in what it calls of C; `all`: with everything it calls. A system call counts for who made it
only as far as it holds the GIL, so writes to files and sockets are spread over their thread.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import signal
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from load import LATENCY_S
from process_figures import cpu_seconds
from setups import Wire
from sqlalchemy import text
from trivet_setup import TrivetSetup, postgres_server

from trivet_simulator import SimulatorProcess
from trivet_store.database.engine import Store

PY_SPY = Path(sys.executable).with_name("py-spy")
RATE = 250
WARM_JOBS = 500
SAMPLED = ("worker", "scheduler")


@contextlib.contextmanager
def sampling(pid: int, out: Path, *, lines: bool) -> Iterator[None]:
    """Sample a process while inside."""
    grain = [] if lines else ["--function"]
    command = [PY_SPY, "record", "--pid", pid, "--rate", RATE, "--format", "raw", "--output", out, "--threads", *grain]
    command += ["--duration", "unlimited", "--gil"]
    spy = subprocess.Popen(
        [str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield
    finally:
        spy.send_signal(signal.SIGINT)
        spy.wait(30)


def read(path: Path, cpu_us: Mapping[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """Microseconds a job by function, with all it calls and by itself, from samples and each kind of thread's CPU."""
    stacks: list[tuple[str, list[str], int]] = []
    of_kind: Counter[str] = Counter()
    for line in path.read_text(encoding="utf-8").splitlines():
        stack, _, samples = line.rpartition(" ")
        thread, *frames = stack.split(";")
        name = _kind(thread.partition(":")[2].strip() or thread)
        stacks.append((name, [_short(frame) for frame in frames], int(samples)))
        of_kind[name] += int(samples)
    whole: defaultdict[str, float] = defaultdict(float)
    own: defaultdict[str, float] = defaultdict(float)
    for name, frames, count in stacks:
        cost = count / of_kind[name] * cpu_us.get(name, 0.0)
        own[frames[-1] if frames else name] += cost
        for frame in set(frames):
            whole[frame] += cost
    return whole, own


def threads_of(pid: int) -> dict[int, str]:
    """The kind of each thread of a process, by its id."""
    said = subprocess.run(
        [PY_SPY, "dump", "--json", "--nonblocking", "--pid", str(pid)], capture_output=True, check=True
    ).stdout
    return {one["os_thread_id"]: _kind(one["thread_name"] or "?") for one in json.loads(said)}


def cpu_by_thread(pid: int) -> dict[int, float]:
    """CPU seconds of each thread so far."""
    found = {}
    for folder in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found[int(folder.name)] = int((folder / "schedstat").read_text().split()[0]) / 1e9
    return found


def _kind(thread: str) -> str:
    """Threads of one pool are one kind."""
    return re.sub(r"[-_]\d+(_\d+)?$", "", thread)


def _short(frame: str) -> str:
    """`function (package/file.py:12)` with only the end of the path."""
    name, _, place = frame.partition(" (")
    return f"{name} ({'/'.join(place.rstrip(')').split('/')[-2:])})"


def show(title: str, path: Path, by_thread: Mapping[str, float], top: int) -> None:
    """A process's functions, dearest first."""
    whole, own = read(path, by_thread)
    print(f"\n## {title}: {sum(by_thread.values()):.0f} us of CPU a job")
    for name, costs in (("by thread", by_thread), ("all", whole), ("self", own)):
        print(f"\n# {name}")
        for function, cost in sorted(costs.items(), key=lambda item: item[1], reverse=True)[:top]:
            print(f"{cost:8.1f}  {function}")


def groups(setup: TrivetSetup) -> dict[str, float]:
    """Return the jobs that a claim and a commit of results carried, on average over all jobs so far."""
    store = Store(setup.settings.store_url)
    try:
        with store.read() as connection:
            taken = connection.execute(text("SELECT count(*), count(DISTINCT started_at) FROM attempts")).one()
            ended = connection.execute(text("SELECT count(*), count(DISTINCT ended_at) FROM jobs")).one()
    finally:
        store.close()
    return {"jobs a claim": taken[0] / taken[1], "jobs a commit": ended[0] / ended[1]}


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
            for part in SAMPLED:
                spies.enter_context(sampling(roots[part][0], folder / part, lines=arguments.lines))
            kinds = {part: threads_of(roots[part][0]) for part in SAMPLED}
            threads = {part: cpu_by_thread(roots[part][0]) for part in SAMPLED}
            before = {part: cpu_seconds(pids) for part, pids in roots.items()}
            setup.run(arguments.jobs)
            used = {part: (cpu_seconds(pids) - before[part]) / arguments.jobs * 1e6 for part, pids in roots.items()}
            by_thread: dict[str, defaultdict[str, float]] = {part: defaultdict(float) for part in SAMPLED}
            for part in SAMPLED:
                kinds[part] |= threads_of(roots[part][0])
                for thread, seconds in cpu_by_thread(roots[part][0]).items():
                    spent = seconds - threads[part].get(thread, 0.0)
                    by_thread[part][kinds[part].get(thread, "of C")] += spent / arguments.jobs * 1e6
        print(" ".join(f"{part} {cost:.0f} us" for part, cost in used.items()))
        print(" ".join(f"{what}: {count:.1f}" for what, count in groups(setup).items()))
        for part in SAMPLED:
            show(part, folder / part, by_thread[part], arguments.top)
    return 0


if __name__ == "__main__":
    sys.exit(main())
