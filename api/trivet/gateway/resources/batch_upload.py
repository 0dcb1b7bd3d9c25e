"""Bodies of JSON Lines: kept in a temporary file, checked whole, then submitted as one batch."""

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any

from starlette.requests import ClientDisconnect, Request

from trivet.client.client import Dedupe
from trivet.client.jobs import Batch
from trivet.gateway.context import MIB, Gateway, overloaded
from trivet.gateway.errors import ApiError
from trivet.gateway.principal import AccessError, Principal
from trivet_tasks.errors import InvalidRequest, StoreUnavailable
from trivet_tasks.latency import Latency
from trivet_tasks.requests.jsonl import check_file, read_file
from trivet_tasks.tenant_scope import TenantScope

log = logging.getLogger("trivet.gateway")

MAX_BYTES = 2**30
"""Maximum size of a body, in bytes. A larger batch is sent in parts, or with `trivet bulk`."""
MAX_UPLOADS = 4
"""Bodies that one process takes in at a time: each lies on disk, and takes a thread while it is submitted."""
PIECE_BYTES = 2**20
"""Bytes that are written to the file at a time."""
PACE_BYTES = 4 * 2**20
"""Bytes of a body that must come within `PACE_S`, unless it ends: a slower client would keep the place of another."""
PACE_S = 60.0
"""Seconds within which `PACE_BYTES` must come."""
GZIP = b"\x1f\x8b"
NAME = "body"
"""Name of the body in messages: `body, line 731: …`."""


class Uploads:
    """Takes in the batches of one gateway process, a few at a time."""

    def __init__(self) -> None:
        self.running = 0

    async def submit(
        self,
        request: Request,
        gateway: Gateway,
        principal: Principal,
        *,
        name: str | None,
        dedupe: Dedupe,
        scope: TenantScope | None,
    ) -> Batch:
        """Take in a body and submit it. Nothing is submitted unless every line is valid.

        Raises:
            ApiError: 408, 413, 415, 503 or 529: it comes too slowly, is too large, is compressed, the disk is full, or too
                many come.
            ApiError: 403; the key does not allow a line. Names it.
            InvalidRequest: a line is wrong; names it.
            ApiError: 503 where the database fails on the way; the same again under its name continues where it stopped.
        """
        if self.running >= MAX_UPLOADS:
            raise overloaded(f"This gateway takes in {MAX_UPLOADS} batches, its maximum.")
        self.running += 1
        try:
            with NamedTemporaryFile(prefix="trivet-batch-", suffix=".jsonl") as file:
                try:
                    await _receive(request, gateway, file)
                except OSError as error:
                    raise ApiError(503, f"The body cannot be kept in a temporary file: {error.strerror}.") from None
                return await gateway.run(
                    lambda: _submit(
                        gateway, Path(file.name), KeyShape(principal), name=name, dedupe=dedupe, scope=scope
                    )
                )
        finally:
            self.running -= 1


class KeyShape:
    """Adds what a key fixes to each line of a body, and refuses what the key does not allow."""

    def __init__(self, principal: Principal) -> None:
        self._principal = principal
        self.forbids = False
        """True once the key did not allow a line."""

    def __call__(self, line: dict[str, Any]) -> Mapping[str, Any]:
        """Return the line's request as it is read. InvalidRequest where it is wrong, or the key does not allow it."""
        try:
            return self._principal.bind(line, default_class=Latency.BATCH)
        except AccessError as error:
            self.forbids = True
            raise InvalidRequest(error.message) from None


async def _receive(request: Request, gateway: Gateway, file: IO[bytes]) -> None:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > MAX_BYTES:
        raise _too_large()
    size, waiting = 0, bytearray()
    stream = request.stream().__aiter__()
    loop = asyncio.get_running_loop()
    due, due_at = PACE_BYTES, loop.time() + PACE_S
    while True:
        try:
            async with asyncio.timeout_at(due_at):
                piece = await anext(stream, None)
        except TimeoutError:
            pace = f"{PACE_BYTES / MIB:g} MiB in {PACE_S:g} s"
            raise ApiError(408, f"The body came too slowly: less than {pace}.", {"connection": "close"}) from None
        except ClientDisconnect:
            raise ApiError(400, "The body was broken off.") from None
        if piece is None:
            break
        size += len(piece)
        if size > MAX_BYTES:
            raise _too_large()
        if size >= due:
            due, due_at = size + PACE_BYTES, loop.time() + PACE_S
        waiting += piece
        if len(waiting) >= PIECE_BYTES:
            await gateway.run(file.write, bytes(waiting))
            waiting.clear()
    file.write(waiting)
    file.flush()


def _submit(
    gateway: Gateway,
    path: Path,
    shape: KeyShape,
    *,
    name: str | None,
    dedupe: Dedupe,
    scope: TenantScope | None,
) -> Batch:
    with path.open("rb") as file:
        if file.read(len(GZIP)) == GZIP:
            raise ApiError(415, "The body is compressed. Send JSON Lines as plain text.")
    client = gateway.client
    try:
        check = check_file(
            path, client.settings, {}, now=client.now(), dedupe=dedupe is not None, name=NAME, shape=shape
        )
    except InvalidRequest as error:  # names the lines
        if shape.forbids:
            raise ApiError(403, str(error), {"x-should-retry": "false"}) from None
        raise
    specs = read_file(check, client.settings, {}, shape=shape)
    try:
        return client.submit_specs(specs, name=name, dedupe=dedupe, scope=scope)
    except StoreUnavailable as error:  # its words name the database; they belong in the log
        log.warning("a batch is not taken in whole: %s", error)
        advice = (
            f"The same body under the name {name!r} continues where it stopped." if name else "Give a name to go on."
        )
        raise ApiError(503, f"The database of this Trivet does not answer. {advice}", {"retry-after": "1"}) from None


def _too_large() -> ApiError:
    return ApiError(413, f"The body is larger than {MAX_BYTES:,} bytes.", {"connection": "close"})
