"""Certificates of the tests: an authority of their own, and what it signs for a server."""

import subprocess
from pathlib import Path


def make_certificates(folder: Path, *, names: str = "IP:127.0.0.1,DNS:localhost") -> Path:
    """Write `ca.crt`, `server.crt` and `server.key` (readable by all: servers may run as other users).

    Args:
        names: what the server's certificate is for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _openssl(folder, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=trivet test authority",
             "-keyout", "ca.key", "-out", "ca.crt")  # fmt: skip
    _openssl(folder, "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=server", "-keyout", "server.key", "-out", "server.csr")  # fmt: skip
    (folder / "names").write_text(f"subjectAltName={names}\n", encoding="ascii")
    _openssl(folder, "x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
             "-extfile", "names", "-out", "server.crt")  # fmt: skip
    for name in ("ca.crt", "server.crt", "server.key"):
        (folder / name).chmod(0o644)
    return folder


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=60)
