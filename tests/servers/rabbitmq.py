"""Debian's `rabbitmq-server` for tests: a node of its own, on loopback, with its own epmd, home and data."""

import shutil
from pathlib import Path
from typing import Self

import pytest
from tests.processes import ServerProcess, free_port, listens
from tests.servers.packages import program

_SCRIPT = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
"""The server itself; the one in /usr/sbin becomes the user `rabbitmq` and leaves the folder."""


class RabbitServer:
    """One node on a free port of 127.0.0.1, with the user guest:guest. A context manager.

    Its data stay over `kill` and `start`.
    """

    def __init__(self, folder: Path, *, tls: Path | None = None, config: str = "") -> None:
        """Nothing is started yet.

        Args:
            tls: a folder with `server.crt`, `server.key` and `ca.crt`; it then listens with TLS alone.
            config: lines of `rabbitmq.conf` to add.
        """
        program("rabbitmq-server")
        epmd = shutil.which("epmd")
        if not _SCRIPT.exists() or epmd is None:
            pytest.skip("rabbitmq-server is not Debian's")
        self.port = free_port()
        self.tls = tls
        place = folder / "rabbit"
        for name in ("home", "mnesia", "log"):
            (place / name).mkdir(parents=True)
        listen = f"listeners.tcp.1 = 127.0.0.1:{self.port}"
        if tls is not None:
            listen = "\n".join(
                (
                    "listeners.tcp = none",
                    f"listeners.ssl.1 = 127.0.0.1:{self.port}",
                    f"ssl_options.cacertfile = {tls / 'ca.crt'}",
                    f"ssl_options.certfile = {tls / 'server.crt'}",
                    f"ssl_options.keyfile = {tls / 'server.key'}",
                    "ssl_options.verify = verify_none",
                )
            )
        (place / "rabbitmq.conf").write_text(f"{listen}\nlog.console = true\n{config}\n", encoding="ascii")
        (place / "enabled_plugins").write_text("[].\n", encoding="ascii")
        epmd_port = free_port()
        env = {
            "HOME": str(place / "home"),
            "RABBITMQ_NODENAME": f"trivet-{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_CONFIG_FILE": str(place / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(place / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(place / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(place / "mnesia"),
            "RABBITMQ_LOG_BASE": str(place / "log"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none",
            "ERL_EPMD_PORT": str(epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }
        self._place = place
        (place / "epmd").mkdir()
        self._epmd_port = epmd_port
        self._epmd = ServerProcess([epmd, "-port", str(epmd_port), "-address", "127.0.0.1"], place / "epmd")
        self.process = ServerProcess([str(_SCRIPT)], place, env=env)

    @property
    def url(self) -> str:
        """Its URL with user and password, without parameters."""
        return f"{'amqp' if self.tls is None else 'amqps'}://guest:guest@127.0.0.1:{self.port}//"

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        if not self._epmd.runs:
            self._epmd.start(lambda: listens(self._epmd_port))
        self.process.start(lambda: listens(self.port))

    def kill(self) -> None:
        """Kill it at once."""
        self.process.kill()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it and its epmd."""
        self.process.kill()
        self._epmd.stop()
