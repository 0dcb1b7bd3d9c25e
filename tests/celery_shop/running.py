"""A stock Celery worker of the shop beside a running Trivet: its Valkey, its processes, its files."""

import contextlib
import importlib
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import orjson
import psutil
import pytest
from tests.processes import STOP_S

from trivet.local.embedded import EmbeddedValkey
from trivet_tasks.config.server_urls import socket_path
from trivet_tasks.shared_state import connect

ROOT = Path(__file__).parents[2]


class Shop:
    """The shop's surroundings, and the workers that were started in them."""

    def __init__(
        self, folder: Path, *, visibility_s: float = 3_600.0, broker_url: str = "", queue_type: str = "classic"
    ) -> None:
        """Nothing runs yet.

        Args:
            broker_url: its broker, if not its Valkey.
            queue_type: type of its queues on RabbitMQ: "classic" or "quorum".
            visibility_s: seconds after which the broker delivers a message again that nobody acknowledged.
        """
        socket = socket_path(folder / "valkey")
        self.files = folder / "files"
        self.log_path = folder / "worker.log"
        self.broker_url = broker_url or f"redis+socket://{socket}?virtual_host=1"
        self.backend_url = f"redis+socket://{socket}?virtual_host=2"
        self.environment = {
            "SHOP_BROKER_URL": self.broker_url,
            "SHOP_BACKEND_URL": self.backend_url,
            "SHOP_FOLDER": str(self.files),
            "SHOP_VISIBILITY_S": str(visibility_s),
            "SHOP_QUEUE_TYPE": queue_type,
        }
        self._valkey = EmbeddedValkey(folder / "valkey")
        self._worker: subprocess.Popen[bytes] | None = None
        self._starts = self._killed_early = 0

    @contextlib.contextmanager
    def running(self) -> Iterator["Shop"]:
        """Its Valkey, as long as the block lasts; ends what was started meanwhile."""
        self.files.mkdir(parents=True)
        with self._valkey:
            try:
                yield self
            finally:
                self.kill()

    def start(self, config: str, *, concurrency: int = 2, pool: str = "prefork") -> None:
        """Start a worker. It uses the Trivet of this configuration file."""
        command = [sys.executable, "-m", "celery", "-A", "tests.celery_shop.app", "worker", "-l", "INFO"]
        command += ["-c", str(concurrency), "-P", pool, "--without-mingle", "--without-gossip", "-n", "shop@localhost"]
        with self.log_path.open("ab") as log:
            self._worker = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **self.environment, "TRIVET_CONFIG": config},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._starts += 1

    @property
    def ready(self) -> bool:
        """True once the worker that was started last takes tasks."""
        return self.log.count(" ready.\n") >= self._starts - self._killed_early

    def family(self) -> list[psutil.Process]:
        """Return the worker and its children."""
        if self._worker is None:
            return []
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(self._worker.pid)
            return [root, *root.children(recursive=True)]
        return []

    def kill(self) -> None:
        """End the worker and its children at once (SIGKILL)."""
        if self._worker is not None and not self.ready:
            self._killed_early += 1
        family = self.family()
        # what a child publishes after its parent's death, Redis would hand to the connection of the dead
        for process, number in [
            *((one, signal.SIGSTOP) for one in family[1:]),
            *((one, signal.SIGKILL) for one in family),
        ]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        psutil.wait_procs(family, timeout=STOP_S)
        if self._worker is not None:
            self._worker.wait(STOP_S)
        self._worker = None

    @property
    def log(self) -> str:
        """The log of its workers so far."""
        return self.log_path.read_text(encoding="utf-8", errors="replace") if self.log_path.exists() else ""

    def messages(self) -> set[str]:
        """Return the ids of the tasks whose messages its Valkey has: in a queue, or taken and not acknowledged."""
        with contextlib.closing(connect(self.broker_url)) as client:
            pipe = client.pipeline()
            pipe.hvals("unacked")
            for queue in (key for key in client.scan_iter(_type="LIST")):
                pipe.lrange(queue, 0, -1)
            taken, *queues = pipe.execute()
        bodies = [orjson.loads(body) for body in itertools.chain(*queues)]
        bodies += [orjson.loads(body)[0] for body in taken]
        return {str(body["headers"].get("id")) for body in bodies}

    def lines(self, name: str) -> list[str]:
        """Return the lines that were saved under a name."""
        path = self.files / name
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def module(self) -> ModuleType:
        """Import the shop's application in this process, to send tasks: a new one, for the servers of this shop."""
        sys.modules.pop("tests.celery_shop.app", None)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment.items():
                patch.setenv(name, value)
            module = importlib.import_module("tests.celery_shop.app")
        module.app.set_current()
        return module
