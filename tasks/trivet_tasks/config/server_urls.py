"""URLs of Redis and RabbitMQ: read once, checked, and put the way redis-py, Celery and Flower each want them.

    redis://[user:password@]host[:6379][/database]             rediss:// with TLS
    unix:///path[?db=0]                                        redis+socket:// is the same
    sentinel://[user:password@]host[:26379];sentinel://host…[/database]?master_name=NAME
    amqp://[user:password@]host[:5672][/vhost]                 amqps:// with TLS, port 5671

TLS verifies certificate and host name unless the URL says otherwise. Its parameters: `ssl_ca_certs`, `ssl_certfile`,
`ssl_keyfile` (files), `ssl_cert_reqs` (`required`, `none`), `ssl_check_hostname`.

The embedded broker listens on one Unix socket. Its starter (`trivet.local.embedded`) and its users (clients, workers, Flower)
derive the address from the data directory by the same rule, so nothing is stored or passed on.
"""

import difflib
import hashlib
import os
import re
import ssl
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from trivet_tasks.errors import ConfigError

_PASSWORD = re.compile(r"(?P<before>://[^/@:]*:).*(?P<after>@)")  # up to the last @: a password may hold anything
_PASSWORD_IN_QUERY = re.compile(
    r"(?P<before>[?&](?:password|passwd|sslpassword|sentinel_password|oauth_client_secret|scram_(?:client|server)_key)=)[^&]*",
    re.IGNORECASE,
)

_PORTS: Final = {"redis": 6379, "rediss": 6379, "sentinel": 26379, "amqp": 5672, "amqps": 5671}
_TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_TLS = (*_TLS_FILES, "ssl_cert_reqs", "ssl_check_hostname")
_PARAMETERS: Final[Mapping[str, tuple[str, ...]]] = {
    "redis": ("db",),
    "rediss": ("db", *_TLS),
    "unix": ("db", "virtual_host"),
    "sentinel": ("db", "master_name", "sentinel_username", "sentinel_password", "ssl", *_TLS),
    "amqp": (),
    "amqps": _TLS,
}
_VERIFY = {"required": ssl.CERT_REQUIRED, "none": ssl.CERT_NONE}
_TRUE, _FALSE = ("true", "yes", "1"), ("false", "no", "0")
_SENTINELS = "sentinel://host1:26379;sentinel://host2:26379/0?master_name=NAME"

SOCKET_NAME = "valkey.sock"
MAX_SOCKET_PATH_BYTES = 100
"""`sun_path` holds 108 bytes on Linux (unix(7)) and 104 on macOS (unix(4)), with the final zero."""

# Kombu un-quotes the path of a `redis+socket://` URL, Flower 2.2 does not: only a path without need of it suits both.
_PLAIN = re.compile(r"[A-Za-z0-9/._-]+")
# Not `tempfile.gettempdir()`: that follows TMPDIR, and a producer run by cron would look elsewhere than `trivet up`.
SHORT_PARENT = Path("/tmp")


def masked(url: str) -> str:
    """The URL with its password replaced by stars."""
    return _PASSWORD_IN_QUERY.sub(r"\g<before>***", _PASSWORD.sub(r"\g<before>***\g<after>", url))


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """Verification of the server's certificate, and our own certificate. Files are None where the system's own serve."""

    verify: ssl.VerifyMode = ssl.CERT_REQUIRED
    check_hostname: bool = True
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None

    def for_redis(self) -> dict[str, Any]:
        """Return redis-py's arguments; kombu and Flower take the same."""
        return {
            "ssl_cert_reqs": self.verify,
            "ssl_check_hostname": self.check_hostname,
            "ssl_ca_certs": self.ca_file,
            "ssl_certfile": self.cert_file,
            "ssl_keyfile": self.key_file,
        }

    def for_amqp(self, host: str) -> dict[str, Any]:
        """Return py-amqp's arguments. It checks the host's name where it is given one."""
        return {
            "cert_reqs": self.verify,
            "server_hostname": host if self.check_hostname else None,
            "ca_certs": self.ca_file,
            "certfile": self.cert_file,
            "keyfile": self.key_file,
        }


@dataclass(frozen=True, slots=True)
class ServerUrl:
    """One server, or the Sentinels that know it. Made by `read_server_url`."""

    scheme: str
    """`redis`, `rediss`, `unix`, `sentinel`, `amqp` or `amqps`."""
    hosts: tuple[tuple[str, int], ...] = ()
    """One; several Sentinels; none for a Unix socket."""
    path: str = ""
    """The Unix socket's, or the virtual host of RabbitMQ."""
    database: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: TlsOptions | None = None
    """None: no TLS."""
    master: str = ""
    """Name of the server among the Sentinels."""
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)

    @property
    def is_amqp(self) -> bool:
        """Return whether it is RabbitMQ, and not Redis."""
        return self.scheme in ("amqp", "amqps")

    @property
    def celery_url(self) -> str:
        """The URL for Celery, with everything it takes from elsewhere left out."""
        who = ""
        if self.username is not None or self.password is not None:
            who = quote(self.username or "", safe="")
            who += f":{quote(self.password, safe='')}@" if self.password is not None else "@"
        if self.scheme == "unix":
            database = f"?virtual_host={self.database}" if self.database else ""
            return f"redis+socket://{who}{self.path}{database}"
        place = quote(self.path, safe="") if self.is_amqp else str(self.database)
        hosts = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        return ";".join(f"{self.scheme}://{who}{host}/{place}" for host in hosts)

    def celery_tls(self) -> dict[str, Any] | None:
        """Return Celery's `broker_use_ssl`; None without TLS."""
        if self.tls is None:
            return None
        return self.tls.for_amqp(self.hosts[0][0]) if self.is_amqp else self.tls.for_redis()

    def sentinel_options(self) -> dict[str, Any]:
        """Return redis-py's arguments for the connections to the Sentinels themselves."""
        return {
            "username": self.sentinel_username,
            "password": self.sentinel_password,
            **({} if self.tls is None else {"ssl": True, **self.tls.for_redis()}),
        }


def read_server_url(url: str) -> ServerUrl:
    """Read a URL.

    Raises:
        ValueError: it cannot be used; one sentence without its full stop, and without the URL's secrets.
    """
    scheme, found, rest = url.partition("://")
    scheme = {"redis+socket": "unix"}.get(scheme, scheme)
    if scheme == "rediscluster":
        raise ValueError(f"Redis Cluster is not supported: name a single server, or Sentinels as in {_SENTINELS}")
    if not found or scheme not in _PARAMETERS:
        near = difflib.get_close_matches(scheme, _PARAMETERS, n=1, cutoff=0.7) if found else []
        raise ValueError(
            f"must begin with {', '.join(f'{name}://' for name in _PARAMETERS)}"
            + (f"; did you mean {near[0]}://?" if near else "")
        )
    if scheme == "sentinel":
        return _sentinels(rest)
    hosts = rest.partition("?")[0].rpartition("@")[2]
    if scheme != "unix" and ("," in hosts or ";" in hosts):
        instead = "put a load balancer before a cluster's nodes" if scheme.startswith("amqp") else f"for Sentinels write {_SENTINELS}"  # fmt: skip
        raise ValueError(f"names several hosts, and one is needed: {instead}")
    return _single(scheme, rest)


def check_files(url: str) -> None:
    """Check that the certificate and key files a URL names can be read.

    Raises:
        ValueError: one cannot.
    """
    tls = read_server_url(url).tls
    for name in () if tls is None else (tls.ca_file, tls.cert_file, tls.key_file):
        try:
            if name is not None:
                Path(name).read_bytes()
        except OSError as error:
            raise ValueError(f"{name}: {error.strerror}") from None


def with_absolute_files(url: str, base: Path) -> str:
    """Return the URL with the paths of its TLS files counted from `base`."""
    before, question, query = url.partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    if not question or not any(name in _TLS_FILES for name, _ in pairs):
        return url
    return f"{before}?{urlencode([(k, str(base / v) if k in _TLS_FILES else v) for k, v in pairs], safe='/')}"


def _single(scheme: str, rest: str) -> ServerUrl:
    place, given = _split(scheme, rest)
    if scheme == "unix":
        if not place.path.startswith("/") or place.path == "/":
            raise ValueError("must name the socket's absolute path, as in unix:///run/redis.sock")
        database = _database(given.get("db") or given.get("virtual_host") or "0")
        return ServerUrl(scheme, path=unquote(place.path), database=database, **_credentials(place))
    host = _host(place, _PORTS[scheme])
    tls = _tls(given) if scheme in ("rediss", "amqps") else None
    if scheme in ("amqp", "amqps"):
        vhost = unquote(place.path.removeprefix("/")) or "/"
        return ServerUrl(scheme, (host,), path=vhost, tls=tls, **_credentials(place))
    database = _database(given.get("db") or place.path.strip("/") or "0")
    return ServerUrl(scheme, (host,), database=database, tls=tls, **_credentials(place))


def _sentinels(rest: str) -> ServerUrl:
    """Read `h1:26379;sentinel://h2:26379/0?master_name=…`: what one part says holds for all."""
    if "," in rest.partition("?")[0].rpartition("@")[2]:
        raise ValueError(f"names several hosts by comma: write {_SENTINELS}")
    # a semicolon in the query belongs to a value only where it is quoted, as elsewhere in a URL
    parts = [_split("sentinel", part.removeprefix("sentinel://")) for part in rest.split(";") if part]
    given: dict[str, str] = {}
    credentials: dict[str, str | None] = {}
    database = ""
    for place, said in parts:
        given |= said
        credentials |= {name: value for name, value in _credentials(place).items() if value is not None}
        database = place.path.strip("/") or database
    if not given.get("master_name"):
        raise ValueError(f"must say what the Sentinels call the server: ?master_name=NAME, as in {_SENTINELS}")
    encrypted = _flag("ssl", given["ssl"]) if "ssl" in given else False
    if not encrypted and (extra := [name for name in given if name in _TLS]):
        raise ValueError(f"{extra[0]} needs TLS: add ssl=true")
    return ServerUrl(
        "sentinel",
        tuple(_host(place, _PORTS["sentinel"]) for place, _ in parts),
        database=_database(given.get("db") or database or "0"),
        tls=_tls(given) if encrypted else None,
        master=given["master_name"],
        sentinel_username=given.get("sentinel_username"),
        sentinel_password=given.get("sentinel_password"),
        username=credentials.get("username"),
        password=credentials.get("password"),
    )


def _split(scheme: str, rest: str) -> tuple[Any, dict[str, str]]:
    """The parts of one URL, and its parameters, every one of them known."""
    try:
        place = urlsplit(f"//{rest}")
        given = dict(parse_qsl(place.query, keep_blank_values=True))
        # what follows may hold the rest of a password, and is not repeated
        broken = place.fragment or "@" in place.path or any("@" in name for name in given) or place.port == 0
    except ValueError:
        broken = True
    if broken:
        raise ValueError(
            "cannot be read: the port must be a number, and / ? # @ : % in a password are written %2F %3F %23 %40 %3A %25"
        )
    for name in given:
        if name in _PARAMETERS[scheme]:
            continue
        if name in _TLS:
            raise ValueError(f"{name} needs TLS: begin the URL with {'amqps' if scheme == 'amqp' else 'rediss'}://")
        known = _PARAMETERS[scheme]
        near = difflib.get_close_matches(name, known, n=1)
        listed = f"known: {', '.join(known)}" if known else "it takes none"
        raise ValueError(f"unknown parameter {name!r}; " + (f"did you mean {near[0]}?" if near else listed))
    return place, given


def _host(place: Any, default_port: int) -> tuple[str, int]:
    if not place.hostname:
        raise ValueError("names no host")
    return unquote(place.hostname), place.port or default_port


def _credentials(place: Any) -> dict[str, Any]:
    return {
        "username": unquote(place.username) if place.username else None,
        "password": unquote(place.password) if place.password else None,
    }


def _database(text: str) -> int:
    if not text.isdecimal():
        raise ValueError("the database must be a number, as in /0")
    return int(text)


def _tls(given: Mapping[str, str]) -> TlsOptions:
    said = given.get("ssl_cert_reqs", "required").lower().removeprefix("cert_")
    if said not in _VERIFY:
        raise ValueError(f"ssl_cert_reqs must be required or none, not {said!r}")
    if given.get("ssl_keyfile") and not given.get("ssl_certfile"):
        raise ValueError("ssl_keyfile needs the certificate it belongs to: ssl_certfile")
    checks = _flag("ssl_check_hostname", given.get("ssl_check_hostname", "true"))
    return TlsOptions(
        _VERIFY[said],
        checks and said == "required",
        given.get("ssl_ca_certs") or None,
        given.get("ssl_certfile") or None,
        given.get("ssl_keyfile") or None,
    )


def _flag(name: str, text: str) -> bool:
    if text.lower() not in (*_TRUE, *_FALSE):
        raise ValueError(f"{name} must be true or false, not {text!r}")
    return text.lower() in _TRUE


def socket_path(data_dir: Path) -> Path:
    """Return the Unix socket of this data directory's embedded broker; nothing is created.

    `valkey.sock` in the data directory; where that path is too long for a socket or has characters that a URL would
    have to quote, in a directory of this user's own under `/tmp`, named after the data directory.

    Raises:
        ConfigError: that directory under `/tmp` exists and is not this user's own.
    """
    beside = data_dir.resolve() / SOCKET_NAME
    if len(os.fsencode(beside)) <= MAX_SOCKET_PATH_BYTES and _PLAIN.fullmatch(str(beside)):
        return beside
    user = os.getuid()
    digest = hashlib.sha256(b"%d:%s" % (user, os.fsencode(beside.parent))).hexdigest()[:16]
    private = SHORT_PARENT / f"trivet-{user}-{digest}"
    _refuse_foreign(private, user)
    return private / SOCKET_NAME


def celery_url(data_dir: Path) -> str:
    """The address in Kombu's form, for Celery and Flower: `redis+socket:///path/valkey.sock` (database 0)."""
    return f"redis+socket://{socket_path(data_dir)}"


def redis_url(data_dir: Path) -> str:
    """The address in redis-py's form: `unix:///path/valkey.sock?db=0`."""
    return f"unix://{socket_path(data_dir)}?db=0"


def _refuse_foreign(private: Path, user: int) -> None:
    try:
        found = private.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != user:
        raise ConfigError(
            f"{private} is where the embedded broker's socket belongs, and it is not a directory of this user's own.",
            hint="Remove it, or set [broker] url, or keep the data in a directory with a shorter, plain path.",
        )
