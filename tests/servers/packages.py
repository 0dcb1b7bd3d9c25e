"""Debian packages of the servers that these tests run: found, or installed, or the test is skipped with the reason."""

import contextlib
import fcntl
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE_OF = {
    "redis-server": "redis-server",
    "redis-sentinel": "redis-sentinel",
    "rabbitmq-server": "rabbitmq-server",
    "pgbouncer": "pgbouncer",
}
"""Program: the package it comes with."""

_FOLDERS = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin", "/usr/lib/postgresql"))
_POLICY = Path("/usr/sbin/policy-rc.d")
_INSTALL_S = 300


def program(name: str) -> str:
    """Return the path of a server's program; install its package when it is missing.

    Skips the calling test, with the reason, where the package cannot be installed.
    """
    path, reason = _find_or_install(name)
    if path is None:
        pytest.skip(reason)
    return path


@functools.cache
def _find_or_install(name: str) -> tuple[str | None, str]:
    found = shutil.which(name, path=_FOLDERS)
    if found:
        return found, ""
    package = PACKAGE_OF[name]
    if os.geteuid() != 0:
        return None, f"{name} is not installed, and only root can install the package {package}"
    if shutil.which("apt-get") is None:
        return None, f"{name} is not installed, and this machine has no apt-get to install the package {package}"
    with _one_at_a_time():
        said = "" if shutil.which(name, path=_FOLDERS) else _install(package)
    found = shutil.which(name, path=_FOLDERS)
    return found, f"the package {package} cannot be installed: {said}"


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Hold a lock between the processes of pytest-xdist."""
    with (Path(tempfile.gettempdir()) / "trivet-apt.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _install(package: str) -> str:
    """Install a package without starting its service. Returns the last line of what went wrong, or nothing."""
    with _no_services():
        said = ""
        for command in (["update", "-q"], ["install", "-qy", "--no-install-recommends", package]):
            try:
                ended = subprocess.run(
                    ["apt-get", "-o", "DPkg::Lock::Timeout=120", *command],
                    env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    timeout=_INSTALL_S,
                )
            except subprocess.TimeoutExpired:
                return f"apt-get {command[0]} took longer than {_INSTALL_S} s"
            said = "" if ended.returncode == 0 else (ended.stderr.strip().splitlines() or ["apt-get failed"])[-1]
        return said


@contextlib.contextmanager
def _no_services() -> Iterator[None]:
    """Keep Debian from starting the services of new packages: the tests start their own servers."""
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n", encoding="ascii")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink()
