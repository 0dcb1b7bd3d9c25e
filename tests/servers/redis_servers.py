"""Debian's `redis-server` for one test: plain, with TLS, with a password, as a replica."""

import contextlib
from pathlib import Path
from typing import Self

import redis
from tests.processes import ServerProcess, free_port
from tests.servers.packages import program


class RedisServer:
    """One server on a free port of 127.0.0.1, without persistence. A context manager."""

    def __init__(
        self, folder: Path, *options: str, tls: Path | None = None, name: str = "redis", answers: bool = True
    ) -> None:
        """Nothing is started yet.

        Args:
            options: words of its command line, e.g. `"--maxmemory", "3mb"`.
            tls: a folder with `server.crt`, `server.key` and `ca.crt`; it then listens with TLS alone.
            answers: False where it does not talk to a client without a certificate.
        """
        self.port = free_port()
        self._answering = answers
        self._tls = tls
        place = folder / name
        place.mkdir(exist_ok=True)
        listen = ["--port", str(self.port)]
        if tls is not None:
            listen = [
                "--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "optional",
                "--tls-cert-file", str(tls / "server.crt"), "--tls-key-file", str(tls / "server.key"),
                "--tls-ca-cert-file", str(tls / "ca.crt"),
            ]  # fmt: skip
        self.process = ServerProcess(
            [program("redis-server"), *listen, "--bind", "127.0.0.1", "--save", "", "--dir", str(place), *options],
            place,
        )

    @property
    def url(self) -> str:
        """Its URL without credentials or parameters."""
        return f"{'redis' if self._tls is None else 'rediss'}://127.0.0.1:{self.port}"

    def client(self, **options: object) -> redis.Redis:
        """Return a client that verifies nothing and does not try twice."""
        encrypted = {} if self._tls is None else {"ssl": True, "ssl_cert_reqs": "none"}
        return redis.Redis(host="127.0.0.1", port=self.port, **{"socket_timeout": 5, **encrypted, **options})  # type: ignore[arg-type]

    def start(self) -> None:
        """Start it and wait until it answers, if only with an error."""
        self.process.start(self._answers)

    def kill(self) -> None:
        """Kill it at once."""
        self.process.kill()

    def _answers(self) -> bool:
        if not self._answering:
            return "Ready to accept connections" in self.process.log
        with (
            contextlib.suppress(redis.ConnectionError, redis.TimeoutError),
            contextlib.closing(self.client()) as client,
        ):
            with contextlib.suppress(redis.ResponseError, redis.AuthenticationError):
                client.ping()
            return True
        return False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stop()
