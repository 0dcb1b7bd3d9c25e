"""Joining the deltas of a stream before they are parsed: an answer of 3,000 tokens has 1,000 and more of them.

Neighbouring deltas of one block differ in nothing but their text, so their texts are put into one event by replacing the
bytes between them: a tenth of the CPU (`benchmarks/bench_streams.py`). No JSON string holds these bytes: they
have a line feed. What looks in any way different is left as it is.
"""

import re

_PING_END = b'"ping"}\n\n'
_PING = re.compile(rb'(?:event: ?ping\n)?data: ?\{"type": ?"ping"\}\n\n')
_NAMED = b"event: content_block_delta\n"
_FIRST = re.compile(
    rb'data: ?\{"type": ?"content_block_delta", ?"index": ?\d+, ?'
    rb'"delta": ?\{"type": ?"(?:text|thinking|input_json)_delta", ?"(?:text|thinking|partial_json)": ?"'
)
_LEAST = 2_000
"""Bytes of a stream that is worth the search."""


def joined(stream: bytes) -> bytes:
    """Return a stream of server-sent events with neighbouring deltas of a block made one, e.g. `Hel` and `lo` `Hello`."""
    if len(stream) < _LEAST:
        return stream
    stream = _without_pings(stream)
    done: list[bytes] = []
    at = 0
    while first := _FIRST.search(stream, at):
        named = stream.endswith(_NAMED, at, first.start())
        begin = first.start() - named * len(_NAMED)
        prefix = stream[begin : first.end()]
        last = stream.rfind(prefix)
        end = stream.find(b"\n\n", last)
        if end < 0:
            break
        run = stream[begin : end + 2]
        done += stream[at:begin], _one(run, prefix)
        at = end + 2
    return b"".join([*done, stream[at:]])


def _without_pings(stream: bytes) -> bytes:
    kept: list[bytes] = []
    at = 0
    while (found := stream.find(_PING_END, at)) >= 0:
        before, end = stream.rfind(b"\n\n", at, found), found + len(_PING_END)
        begin = before + 2 if before >= 0 else at
        kept.append(stream[at : begin if _PING.fullmatch(stream, begin, end) else end])
        at = end
    return b"".join([*kept, stream[at:]]) if kept else stream


def _one(run: bytes, prefix: bytes) -> bytes:
    """Return a run of events as one, if all of them begin so; else as they are."""
    one = re.sub(rb'"\} *\}\n\n' + re.escape(prefix), b"", run)
    return one if one.count(b"\n\n") == 1 else run
