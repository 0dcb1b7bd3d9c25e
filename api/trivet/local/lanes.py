"""Worker processes for several lanes under one supervisor: `trivet worker` without a lane."""

import contextlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from trivet.local.child_process import Exit
from trivet.local.processes import Supervisor
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import ProcessFailed
from trivet_tasks.latency import Lane
from trivet_tasks.processes.startup import announce_ready

_AFTER_GRACE_S = (
    3.0  # a lane needs 2.3 at most to write down its last results and go (`trivet_worker.process.stopping`)
)
_LOOK_EVERY_S = 0.2


def run_lanes(settings: Settings, routes: Sequence[str], config: Path | None, say: Callable[[str], None]) -> int:
    """Run a worker process for each of `[worker] lanes` until told to stop; one that dies is started again.

    SIGHUP is for the lanes. It announces itself when all lanes are ready.

    Args:
        routes: served by each lane.
        config: the file named with `--config`, if any.
        say: told of a lane that ended and is started again.

    Returns:
        The exit code: 0 after a signal, 2 when a lane cannot work as configured.
    """

    def tell(ended: Exit) -> None:
        if ended.restart_in_s is not None:  # else its own last line, on our stderr, has said it
            say(f"trivet: the lane {ended}")

    limit = settings.worker.shutdown_grace_s + _AFTER_GRACE_S
    with Supervisor(on_exit=tell, grace_s=limit, stop_limit_s=limit, passes_hangup=True) as lanes:
        try:
            for lane in settings.worker.lanes:
                lanes.start(lane, _command(routes, lane, config), stage=0, reloads=True)
        except KeyboardInterrupt:
            return 0
        announced = False

        def announce() -> None:
            nonlocal announced
            if not announced and all(_ready(lanes, lane) for lane in settings.worker.lanes):
                announced = True
                announce_ready()

        ended = lanes.run(announce, every_s=_LOOK_EVERY_S)
    return 0 if ended is None else ended.code


def _command(routes: Sequence[str], lane: Lane, config: Path | None) -> list[str]:
    named = [] if config is None else ["--config", str(config)]
    return [sys.executable, "-m", "trivet", *named, "worker", "--lane", lane, "--routes", ",".join(routes)]


def _ready(lanes: Supervisor, lane: Lane) -> bool:
    with contextlib.suppress(ProcessFailed):
        lanes.wait_ready(lane, 0)
        return True
    return False
