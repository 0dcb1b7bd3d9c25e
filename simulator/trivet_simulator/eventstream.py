"""The binary framing of AWS event streams (vnd.amazon.eventstream), as Bedrock's streaming answers use it.

A message is: total length, header length, CRC of these, headers, payload, CRC of all of it; numbers are big-endian.
Source: botocore/eventstream.py (decoder) in the installed package.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Mapping

STRING = 7
"""Header value type: a UTF-8 string with a two-byte length."""


def message(headers: Mapping[str, str], payload: bytes) -> bytes:
    """One framed message with string headers."""
    packed = b"".join(
        struct.pack("!B", len(name)) + name.encode() + struct.pack("!BH", STRING, len(value)) + value.encode()
        for name, value in headers.items()
    )
    prelude = struct.pack("!II", 16 + len(packed) + len(payload), len(packed))
    body = prelude + struct.pack("!I", zlib.crc32(prelude)) + packed + payload
    return body + struct.pack("!I", zlib.crc32(body))


def chunk_event(event: bytes) -> bytes:
    """A `chunk` event carrying one JSON event of the model."""
    headers = {":event-type": "chunk", ":content-type": "application/json", ":message-type": "event"}
    return message(headers, b'{"bytes":"%b"}' % base64.b64encode(event))


def exception_event(name: str, payload: bytes) -> bytes:
    """An exception inside the stream, named by its member of the ResponseStream shape, e.g. `throttlingException`."""
    headers = {":exception-type": name, ":content-type": "application/json", ":message-type": "exception"}
    return message(headers, payload)
