"""The database's URL as a person writes it, read into the one form that the store opens.

Accepted for PostgreSQL: `postgres://`, `postgresql://` and `postgresql+psycopg://`, several hosts by comma as libpq
writes them, and libpq's parameters after the `?`. What a URL leaves open is *not* filled in from libpq's `PG*` variables
(`connect_arguments`): a `PGHOST` in somebody's shell must not decide where prompts are kept.
"""

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DRIVER = "postgresql+psycopg"
PREPARE = "prepare_threshold"
"""Not libpq's but psycopg's: after how many executions a statement is prepared; `none` or 0: never."""

_POSTGRES = {"postgres", "postgresql", DRIVER}
_SQLITE = {"sqlite", "sqlite+pysqlite"}
_SQLITE_URL = "sqlite:///"
_FROM_ENVIRONMENT = {"user", "password", "passfile"}
"""Credentials may come from PGUSER, PGPASSWORD and PGPASSFILE; the server's address may not."""
_EMPTY = {"sslcertmode": b"allow", "min_protocol_version": b"3.0", "max_protocol_version": b"3.0"}
"""Placeholder where libpq does not take an empty value."""
_PATIENCE: Mapping[str, Any] = {
    "application_name": "trivet", "connect_timeout": 5,
    "tcp_user_timeout": 10_000, "keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3,
}  # fmt: skip
"""A server that vanished without a word is noticed within about ten seconds. In seconds; the first of the last in ms."""
_NOT_OURS = {"replication", "client_encoding"}
_NUMBERS = {
    "connect_timeout", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout",
}  # fmt: skip
_POOL = "set [store] pool_size and max_overflow instead"
_SEARCH_PATH = "write options=-csearch_path%3DNAME, or set the role's search_path"
_PREPARED = f"write {PREPARE}=none, or set [store] prepared_statements = false"
_ADVICE = {
    "schema": _SEARCH_PATH, "currentSchema": _SEARCH_PATH, "search_path": _SEARCH_PATH,
    "pgbouncer": "leave it out: a connection pooler is noticed by itself",
    "ssl": "write sslmode=require or sslmode=verify-full",
    "pool_size": _POOL, "max_overflow": _POOL, "connection_limit": _POOL, "pool_timeout": _POOL,
    "prepareThreshold": _PREPARED, "statement_cache_size": _PREPARED, "prepared_statement_cache_size": _PREPARED,
    "client_encoding": "leave it out: it is always UTF8",
    "encoding": "leave it out: it is always UTF8",
    "charset": "leave it out: it is always UTF8",
}  # fmt: skip
_MULTIPLE_HOSTS = re.compile(
    r"(?P<head>[^:]+://(?:[^/?]*@)?)(?P<hosts>[^/?@]*,[^/?@]*)(?P<tail>(?:[/?].*)?)", re.DOTALL
)
_INVALID = ("invalid ", "could not match ", "definition of service ")


@dataclass(frozen=True, slots=True)
class Prepare:
    """Preparation of statements, as the URL sets it. `threshold` None: never."""

    threshold: int | None


def database_url(url: str, base: Path) -> str:
    """Return the URL in the form that the store opens; the path of a SQLite file is counted from `base`.

    Raises:
        ValueError: it cannot be used; the text says why and what to write, in one sentence, without a password.
    """
    scheme, separator, rest = url.partition("://")
    scheme = scheme.strip().lower()
    if scheme.startswith("sqlite") and scheme not in _SQLITE:
        raise ValueError(f"the driver {scheme.partition('+')[2]!r} is not used here; write sqlite:///FILE")
    if scheme in _SQLITE and separator:
        return absolute_sqlite_url(f"sqlite://{rest.strip()}", base)
    if not separator or scheme not in _POSTGRES:
        raise ValueError(_wrong_scheme(scheme if separator else ""))
    return _postgres_url(f"{DRIVER}://{rest.strip()}")


def connect_arguments(url: str) -> dict[str, Any]:
    """Return libpq's parameters that a PostgreSQL URL leaves open, at libpq's own defaults whatever the environment says."""
    from psycopg import pq
    from sqlalchemy import make_url

    parsed = make_url(url)
    places = {"host": parsed.host, "port": parsed.port, "dbname": parsed.database}
    given = set(parsed.query) | {key for key, value in places.items() if value}
    defaults: dict[str, Any] = {"client_encoding": "utf8"}
    for option in pq.Conninfo.get_defaults():
        keyword = option.keyword.decode()
        if not option.envvar or keyword in given | _FROM_ENVIRONMENT | set(defaults) or "service" in given:
            continue
        # PGSERVICE names a file that may set any of them, and has no value that means none
        if option.envvar.decode() in os.environ or ("PGSERVICE" in os.environ and keyword != "service"):
            defaults[keyword] = (option.compiled or _EMPTY.get(keyword, b"")).decode()
    return defaults | {key: value for key, value in _PATIENCE.items() if key not in given}


def prepare_in(url: str) -> tuple[str, Prepare | None]:
    """Return a PostgreSQL URL without psycopg's own parameter, and what that said; None: nothing."""
    from sqlalchemy import make_url

    parsed = make_url(url)
    if PREPARE not in parsed.query:
        return url, None
    threshold = _threshold(str(parsed.query[PREPARE]))
    return parsed.difference_update_query([PREPARE]).render_as_string(hide_password=False), Prepare(threshold)


def _wrong_scheme(scheme: str) -> str:
    if scheme.startswith(("postgresql+", "postgres+")):
        driver = scheme.partition("+")[2]
        return f"the driver {driver!r} is not used here; write {DRIVER}://, or postgresql://, and no driver's own parameters"
    if scheme in ("", "jdbc:postgresql"):
        return f"is not a database URL; it must begin with sqlite:/// or {DRIVER}://"
    return f"{scheme}:// is not supported; it must begin with sqlite:/// or {DRIVER}://"


def _postgres_url(url: str) -> str:
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    url, hosts = _without_hosts(url)
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ValueError(f"is not a database URL, as in {DRIVER}://USER@HOST:5432/DATABASE") from None
    except ValueError:
        raise ValueError(
            "its port is not a number; characters of a password such as / and @ are written %2F, %40"
        ) from None
    for key, value in parsed.query.items():
        if not isinstance(value, str) and key not in ("host", "port"):
            raise ValueError(f"its parameter {key!r} is given twice")
        _check_key(key)
    query = {key: value if isinstance(value, str) else ",".join(value) for key, value in parsed.query.items()}
    if hosts and "host" in query:
        raise ValueError("it names hosts twice: before the database and as parameter")
    query.update(_split({**query, **hosts}))
    _check_values(query, f"{parsed.host or ''}")
    if query == dict(parsed.query):
        return parsed.set(drivername=DRIVER).render_as_string(hide_password=False)
    return parsed.set(drivername=DRIVER, query=query).render_as_string(hide_password=False)


def _without_hosts(url: str) -> tuple[str, dict[str, str]]:
    """Take several hosts out of the place of one: libpq writes `//a:5432,b:5433/name`, SQLAlchemy reads `?host=a,b`."""
    found = _MULTIPLE_HOSTS.fullmatch(url)
    if not found:
        return url, {}
    return found["head"] + (found["tail"] or ""), {"host": found["hosts"]}


def _split(query: Mapping[str, str]) -> dict[str, str]:
    """Hosts and ports as libpq takes them: `a:1,b:2` becomes `a,b` and `1,2`; an address in brackets loses them."""
    hosts = query.get("host", "")
    if not hosts:
        return {}
    pairs = [re.fullmatch(r"\[(.*)\](?::(.*))?|([^:]*)(?::([^:]*))?|(.*)", host) for host in hosts.split(",")]
    names = [found[1] or found[3] or found[5] or "" for found in pairs if found]
    ports = [found[2] or found[4] or "" for found in pairs if found]
    if not any(ports) and (len(names) == 1 or "port" in query):
        return {"host": ",".join(names)}
    if "port" in query:
        raise ValueError("it gives ports twice: behind the hosts and as parameter")
    return {"host": ",".join(names), "port": ",".join(port or "5432" for port in ports)}


def _check_key(key: str) -> None:
    from psycopg import pq

    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()} - _NOT_OURS | {PREPARE}
    if key in known:
        return
    advice = _ADVICE.get(key)
    if advice is None and (near := difflib.get_close_matches(key, sorted(known), n=1)):
        advice = f"did you mean {near[0]}?"
    raise ValueError(f"{key!r} is not a parameter of a PostgreSQL URL" + (f"; {advice}" if advice else ""))


def _check_values(query: Mapping[str, str], host: str) -> None:
    """Refuse what libpq would refuse. It checks the parameters before it looks for a server: no host is asked for."""
    from psycopg import ProgrammingError, conninfo, pq

    for key in _NUMBERS & set(query):
        if not re.fullmatch(r"-?\d+", query[key].strip()):
            raise ValueError(f"its parameter {key} is not a number")
    if PREPARE in query:
        _threshold(query[PREPARE])
    nowhere = ",".join("/" for _ in query.get("host", host).split(","))
    trial = {key: value for key, value in query.items() if key not in ("hostaddr", PREPARE)}
    try:
        text = conninfo.make_conninfo("", **{**trial, "host": nowhere})
    except ProgrammingError as error:
        raise ValueError(f"its parameters cannot be read: {str(error).strip()}") from None
    connection = pq.PGconn.connect_start(text.encode())
    said = connection.get_error_message().strip()
    connection.finish()
    if said.startswith(_INVALID):
        raise ValueError(f"its parameters are refused: {said.splitlines()[0]}")


def _threshold(value: str) -> int | None:
    word = value.strip().lower()
    if word in ("none", "off", "null", "0", ""):
        return None
    if not word.isdecimal():
        raise ValueError(f"its parameter {PREPARE} must be none or a number of executions")
    return int(word)


def absolute_sqlite_url(url: str, base: Path) -> str:
    """A SQLite URL with its path made absolute, counted from `base`; any other URL unchanged."""
    if not url.startswith(_SQLITE_URL):
        return url
    return _SQLITE_URL + str((base / url.removeprefix(_SQLITE_URL)).absolute())


def sqlite_path(url: str) -> Path | None:
    """The file of a SQLite URL, or None for another database."""
    return Path(url.removeprefix(_SQLITE_URL)) if url.startswith(_SQLITE_URL) else None
