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
        sentences += impairments(client)
    return sentences, found


def impairments(client: "Client") -> list[str]:
    """Return why processes do no work, in sentences; one of those that are alike, none where all work."""
    from trivet.cli.routes_words import idle_words
    from trivet_tasks.shared_state import check_writable
    from trivet_tasks.troubles import announced

    connections = client._connections
    try:
        check_writable(connections.redis)  # where nothing can be written, nobody can announce it
        said = announced(connections.redis)
    except redis.RedisError as error:
        return [str(connections.unavailable(error))]
    of_each = {one.trouble: one for one in said}
    return [f"{idle_words(one, time.time())}".rstrip(".") + "." for one in of_each.values()]
