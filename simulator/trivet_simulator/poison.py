"""Answers that harm their reader: counts that cannot be, and bodies without end.

The content of an answer with spoiled counts is whole. What a flood sends is well formed to its last byte.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from trivet_simulator.http import LAST_CHUNK, chunk, head

POISON: dict[str, str] = {
    "usage_null": "a whole answer whose `usage` is null",
    "usage_missing": "a whole answer without `usage`",
    "counts_null": "a whole answer whose token counts are null",
    "absurd_tokens": "a whole answer whose token counts are all `tokens` (default 10^19)",
    "negative_tokens": "a whole answer whose token counts are negative",
    "fractional_tokens": "a whole answer whose token counts have a fraction",
    "gzip_bomb": "200, or the status given, with a body of a few KB that unpacks to `megabytes`",
    "huge_error": "500, or the status given, with a body of `megabytes`",
}
SPOILED_USAGE = frozenset(name for name in POISON if name not in ("gzip_bomb", "huge_error"))
FLOODS: Mapping[str, int] = {"gzip_bomb": 200, "huge_error": 500}
"""By name: the status where none is given."""

_BLOCK = b"a" * 2**20
_RAW_DEFLATE = -15
_GZIP_HEAD = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_ANSWER = (
    b'{"id":"msg_flood","type":"message","role":"assistant","model":"claude","content":[{"type":"text","text":"',
    b'"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":1}}',
)
_ERROR = (b'{"type":"error","error":{"type":"api_error","message":"', b'"}}')


def spoil_usage(kind: str, holder: dict[str, Any], tokens: int) -> None:
    """Spoil the `usage` of a message or of an event that carries one. `kind` is one of `SPOILED_USAGE`."""
    usage = holder.get("usage")
    if not isinstance(usage, dict):
        return
    if kind == "usage_null":
        holder["usage"] = None
    elif kind == "usage_missing":
        del holder["usage"]
    else:
        holder["usage"] = {name: _spoiled(kind, value, tokens) for name, value in usage.items()}


def _spoiled(kind: str, value: object, tokens: int) -> object:
    if isinstance(value, dict):
        return {name: _spoiled(kind, inner, tokens) for name, inner in value.items()}
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    match kind:
        case "counts_null":
            return None
        case "negative_tokens":
            return -1 - value
        case "fractional_tokens":
            return value + 0.5
        case _:
            return tokens


def flood(kind: str, status: int, headers: Mapping[str, str], megabytes: float) -> Iterator[bytes]:
    """Yield a response of `megabytes` (unpacked), a part at a time; `kind` is one of `FLOODS`."""
    before, after = _ANSWER if status == 200 else _ERROR
    blocks = max(1, round(megabytes))
    packed = kind == "gzip_bomb"
    yield head(status, {**headers, **({"content-encoding": "gzip"} if packed else {})}, length=None)
    if packed:
        yield from map(chunk, _gzip(before, blocks, after))
    else:
        yield chunk(before)
        block = chunk(_BLOCK)
        for _ in range(blocks):
            yield block
        yield chunk(after)
    yield LAST_CHUNK


def _gzip(before: bytes, blocks: int, after: bytes) -> Iterator[bytes]:
    """Yield a gzip file; the block is packed once and repeated, since each begins with an empty window."""
    crc = zlib.crc32(before)
    yield _GZIP_HEAD + _packed(before)
    block = _packed(_BLOCK)
    for _ in range(blocks):
        crc = zlib.crc32(_BLOCK, crc)
        yield block
    crc = zlib.crc32(after, crc)
    size = (len(before) + blocks * len(_BLOCK) + len(after)) & 0xFFFFFFFF
    yield _packed(after, zlib.Z_FINISH) + crc.to_bytes(4, "little") + size.to_bytes(4, "little")


def _packed(data: bytes, mode: int = zlib.Z_FULL_FLUSH) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, _RAW_DEFLATE)
    return packer.compress(data) + packer.flush(mode)
