"""Errors of the Celery broker in words: those of RabbitMQ here, those of Redis in `server_errors`.

A module of its own, because it loads kombu and amqp: a command that only reads the database needs neither.
"""

from amqp.exceptions import AccessRefused, AMQPError, NotAllowed, PreconditionFailed
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from trivet_tasks.config.server_urls import masked
from trivet_tasks.errors import BrokerUnavailable
from trivet_tasks.server_errors import explain, reason_of

BROKER_ERRORS = (KombuError, RedisError, AMQPError, OSError)
"""Raised by kombu where the broker is away or refuses."""


def broker_unavailable(url: str, error: BaseException) -> BrokerUnavailable:
    """Return the error for a person to read.

    Args:
        url: the broker's; its password is not shown.
    """
    return BrokerUnavailable(broker_text(url, error))


def broker_text(url: str, error: BaseException) -> str:
    """Return what is wrong with the broker, and what to do about it."""
    return f"The broker {masked(url)} {_explain(error)}"


def _explain(error: BaseException) -> str:
    cause = error
    while isinstance(cause, KombuError) and cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, AccessRefused):
        return (
            "refuses the user, the password or the permission (403). Check user and password in its URL; "
            "docs/how-to/use-redis.md lists the permissions that Trivet needs."
        )
    if isinstance(cause, NotAllowed):
        return "has no such virtual host, or does not let the user use it (530). Check the end of its URL."
    if isinstance(cause, PreconditionFailed):
        return f"has a queue that was declared otherwise (406): {reason_of(cause)}. Delete it; it is declared anew."
    if isinstance(cause, AMQPError):
        return f"does not answer: {reason_of(cause)}."
    return explain(cause)
