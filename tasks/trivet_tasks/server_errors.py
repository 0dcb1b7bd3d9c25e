"""Errors of Redis in words: the fault of the server, and the remedy. `messages` has those of the Celery broker.

The libraries' own texts are not shown where they may hold the arguments of a command.
"""

import ssl
from collections.abc import Iterator

import redis
from redis import exceptions

_CLUSTER = "is a Redis Cluster, which is not supported. Use a single server or Sentinels."
_PASSWORD = "Check user and password in its URL."

_REDIS: tuple[tuple[str, type[Exception] | None, str], ...] = (
    ("OOM", exceptions.OutOfMemoryError, "has no memory left: it is at its maxmemory and refuses to write. Raise maxmemory or remove what else it keeps; work goes on by itself."),
    ("MISCONF", None, "cannot save to its disk and refuses to write (MISCONF). Make room on its disk; its own log says more. Work goes on by itself."),
    ("READONLY", exceptions.ReadOnlyError, "is a read-only replica. Point the URL at the primary, or at its Sentinels with sentinel://."),
    ("LOADING", exceptions.BusyLoadingError, "is loading its data. Work goes on by itself once it has."),
    ("MASTERDOWN", exceptions.MasterDownError, "is a replica that has lost its primary. Point the URL at the primary, or at its Sentinels with sentinel://."),
    ("NOREPLICAS", None, "refuses to write: it has fewer replicas than its min-replicas-to-write asks for. Start them; work goes on by itself."),
    ("BUSY ", None, "is busy with a script that does not end. See SCRIPT KILL of its manual."),
    ("MOVED", exceptions.MovedError, _CLUSTER),
    ("ASK ", exceptions.AskError, _CLUSTER),
    ("CROSSSLOT", exceptions.ClusterCrossSlotError, _CLUSTER),
    ("CLUSTERDOWN", exceptions.ClusterDownError, _CLUSTER),
    ("NOPERM", exceptions.NoPermissionError, "does not let its user do that (NOPERM). docs/how-to/use-redis.md lists the permissions that Trivet needs."),
    ("NOAUTH", None, "asks for a password (NOAUTH). Put user and password into its URL."),
    ("HELLO must be called", None, "asks for a password (NOAUTH). Put user and password into its URL."),
    ("Authentication required", None, "asks for a password (NOAUTH). Put user and password into its URL."),
    ("WRONGPASS", None, f"refuses the user or the password (WRONGPASS). {_PASSWORD}"),
    ("invalid username-password", None, f"refuses the user or the password (WRONGPASS). {_PASSWORD}"),
    ("AUTH <password> called without any password", None, "has no password, and the URL names one. Remove it from the URL, or set it there."),
    ("max number of clients", None, "has as many clients as its maxclients allows. Raise maxclients; work goes on by itself."),
    ("", exceptions.AuthenticationError, f"refuses the user or the password. {_PASSWORD}"),
)  # fmt: skip
"""Start of the server's error, redis-py's exception for it, and the message shown. The first that fits counts."""


def explain(error: BaseException) -> str:
    """Return what is wrong, to stand after the name of the server, with its full stop."""
    tls = _tls_problem(error)
    if tls:
        return tls
    if isinstance(error, redis.RedisError):
        return _of_redis(error)
    return f"does not answer: {reason_of(error)}."


def is_refusal(error: redis.RedisError) -> bool:
    """Return whether the server refuses such commands for a reason of its own, and not for what is wrong with ours."""
    return _known(error) is not None


def says_what_to_do(error: BaseException) -> bool:
    """Return whether `explain` knows this error, and says what to do about it."""
    return _tls_problem(error) is not None or (isinstance(error, redis.RedisError) and is_refusal(error))


def reason_of(error: BaseException) -> str:
    """Return the first line of the error, without the command of a pipeline that met it, and without its full stop."""
    lines = str(error).rpartition("of pipeline caused error: ")[2].splitlines()
    return lines[0].rstrip(".") if lines and lines[0] else type(error).__name__


def _of_redis(error: redis.RedisError) -> str:
    known = _known(error)
    if known is not None:
        return known
    does = "refused a command" if isinstance(error, redis.ResponseError) else "does not answer"
    return f"{does}: {reason_of(error)}."


def _known(error: redis.RedisError) -> str | None:
    text = reason_of(error)
    for begins, kind, said in _REDIS:
        if (kind is not None and isinstance(error, kind)) or (begins and text.startswith(begins)):
            return said
    # a script reports what a command of it met
    return next((said for begins, _, said in _REDIS if begins.isupper() and f": {begins}" in text), None)


def _tls_problem(error: BaseException) -> str | None:
    for cause in _causes(error):
        text = str(cause)
        if isinstance(cause, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY_FAILED" in text:
            why = text.partition("certificate verify failed: ")[2].partition(" (_ssl")[0] or reason_of(cause)
            return f"does not prove who it is ({why.rstrip('.')}), and nothing was sent. Name its CA with ?ssl_ca_certs=FILE in the URL, and the host as the certificate does."
        if "WRONG_VERSION_NUMBER" in text or "handshake operation timed out" in text:
            return "does not speak TLS on this port. Use redis:// or amqp://, or the port that does."
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__
