"""Results as rows of a table, and a table as CSV."""

import csv
import io
from collections.abc import Callable
from typing import Any, BinaryIO

import orjson

from trivet.cli.output import csv_cell
from trivet.client.result import Result
from trivet.times import iso

_TIMES = ("created_at", "ended_at")
_LEFT_OUT = "message"
"""Column that CSV lacks: a spreadsheet cuts a cell of that length."""


def table_row(result: Result, *, with_request: bool) -> dict[str, Any]:
    """Return a result as a row; objects as JSON, amounts as decimals, times in seconds since the epoch.

    Args:
        with_request: it has the request, None once that was pruned.
    """
    usage = result.usage if result.succeeded else {}
    row = {
        "id": result.id,
        "batch": result.batch,
        "index": result.index,
        "key": result.key,
        "status": result.status,
        "pruned": result.pruned,
        "error_outcome": result.error.outcome if result.error else None,
        "error_message": result.error.message if result.error else None,
        "text": result.text if result.succeeded else None,
        "stop_reason": result.stop_reason,
        "input_tokens": usage.get("input_tokens"),
        "output_tokens": usage.get("output_tokens"),
        "cache_read_tokens": usage.get("cache_read_input_tokens"),
        "cache_write_tokens": usage.get("cache_creation_input_tokens"),
        "cost_usd": result.cost_usd,
        "estimated_usd": result.estimated_usd,
        "route": result.route,
        "provider": result.provider,
        "model": result.model,
        "attempts": len(result.attempts),
        "cached": result.cached,
        "latency_s": result.latency_s,
        "created_at": result.created_at,
        "ended_at": result.ended_at,
        "tags": orjson.dumps(result.tags).decode(),
        "metadata": orjson.dumps(result.metadata).decode(),
        "message": None if result.raw is None else result.raw.decode(),
    }
    if with_request:
        row["request"] = None if result.request is None else orjson.dumps(result.request).decode()
    return row


def csv_writer(file: BinaryIO, *, with_request: bool = False) -> Callable[[Result], None]:
    """Return a function that writes a result as a line of CSV; the headings come with the first, times are ISO 8601.

    Text that a spreadsheet takes for a formula gets a `'`.
    """
    line = io.StringIO()
    writer = csv.writer(line, lineterminator="\n")
    begun = False

    def write(result: Result) -> None:
        nonlocal begun
        row = table_row(result, with_request=with_request)
        del row[_LEFT_OUT]
        row |= {name: iso(row[name]) for name in _TIMES}
        if not begun:
            writer.writerow(row)
            begun = True
        writer.writerow("" if cell is None else csv_cell(cell) for cell in row.values())
        file.write(line.getvalue().encode())
        line.seek(0)
        line.truncate()

    return write
