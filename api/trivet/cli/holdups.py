"""Why the jobs that a command is about do not move, for a person."""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import redis

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from trivet.client import Client
    from trivet.holdup import Holdup
    from trivet_tasks.store.backlog import Line


def held_up(
    client: "Client", lines_of: "Callable[[Connection], Sequence[Line]]"
) -> "tuple[list[str], Sequence[Holdup]]":
    """The sentences, and what they come from; nothing where a route takes the jobs.

    Args:
        lines_of: reads what the jobs need of a route.
    """
    from trivet.holdup import Kind, holdups

    connections = client._connections
    with connections.store.read() as connection:
        lines = lines_of(connection)
    try:
        found = holdups(connections, lines)
    except redis.RedisError as error:
        return [str(connections.unavailable(error))], ()
    sentences = [holdup.sentence(named=len(found) > 1) for holdup in found]
    if lines and all(holdup.kind is Kind.OUT for holdup in found):
        sentences += _idle(client)
    return sentences, found


def _idle(client: "Client") -> list[str]:
    """What processes say that do no work; one of those that say the same."""
    from trivet.cli.routes_words import idle_words
    from trivet_tasks.troubles import announced

    try:
        said = announced(client._connections.redis)
    except redis.RedisError:
        return []
    of_each = {one.trouble: one for one in said}
    return [f"{idle_words(one, time.time())}".rstrip(".") + "." for one in of_each.values()]
