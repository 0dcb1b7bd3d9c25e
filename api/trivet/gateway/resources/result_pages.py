"""Pages of results as JSON Lines, bounded by their bytes: one result with its request may have tens of megabytes."""

from collections.abc import Iterator

from trivet.client.result import Result
from trivet.json_objects import result_line

PAGE = 50
"""Maximum number of results that are read and written at a time."""
PAGE_BYTES = 2**20
"""Bytes of lines with which a page ends."""


def next_page(results: Iterator[Result], *, with_request: bool) -> bytes:
    """Return the lines of the next results; empty when there are no more. Blocks while it reads them.

    Each line is written before the next result is read, so no more than a page and one result are held.

    while page := next_page(results, with_request=True):
        file.write(page)
    """
    page = bytearray()
    for _ in range(PAGE):
        result = next(results, None)
        if result is None:
            break
        page += result_line(result, with_request=with_request)
        if len(page) >= PAGE_BYTES:
            break
    return bytes(page)
