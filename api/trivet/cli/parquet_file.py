"""Results as Parquet, through pyarrow: one row a result, the columns of its JSON line."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from trivet.cli.result_table import table_row
from trivet.client.result import Result

GROUP_ROWS = 5_000
GROUP_BYTES = 16_000_000
"""Of texts and messages. A row group ends at whichever comes first; so much is held in memory."""

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        ("batch", pa.string()),
        ("index", pa.int64()),  # position in the batch
        ("key", pa.string()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("pruned", pa.bool_(), nullable=False),
        ("error_outcome", pa.string()),
        ("error_message", pa.string()),
        ("text", pa.string()),
        ("stop_reason", pa.string()),
        # of the message, as its provider counts
        ("input_tokens", pa.int64()),
        ("output_tokens", pa.int64()),
        ("cache_read_tokens", pa.int64()),
        ("cache_write_tokens", pa.int64()),
        ("cost_usd", pa.decimal128(38, 12)),  # as the database has it: no digit is lost
        pa.field("estimated_usd", pa.decimal128(38, 12), nullable=False),
        ("route", pa.string()),
        ("provider", pa.string()),
        pa.field("model", pa.string(), nullable=False),
        pa.field("attempts", pa.int32(), nullable=False),
        pa.field("cached", pa.bool_(), nullable=False),
        pa.field("latency_s", pa.float64(), nullable=False),
        pa.field("created_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("ended_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("tags", pa.string(), nullable=False),  # a JSON object
        pa.field("metadata", pa.string(), nullable=False),  # likewise
        ("message", pa.string()),  # JSON, as the provider sent it
    ]
)
_FEW_VALUES = ["batch", "status", "error_outcome", "stop_reason", "route", "provider", "model", "tags"]
_WITHOUT_STATISTICS = {"error_message", "text", "tags", "metadata", "message", "request"}


class ParquetFile:
    """Writes results in row groups. Made by `parquet_file`."""

    def __init__(self, writer: pq.ParquetWriter, schema: pa.Schema) -> None:
        self._writer = writer
        self._schema = schema
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0

    def write(self, result: Result) -> None:
        """Add a row."""
        row = table_row(result, with_request="request" in self._schema.names)
        row |= {name: round(row[name] * 1e6) for name in ("created_at", "ended_at")}
        self._rows.append(row)
        self._bytes += sum(len(row.get(name) or "") for name in ("message", "text", "error_message", "request"))
        if len(self._rows) >= GROUP_ROWS or self._bytes >= GROUP_BYTES:
            self.end_group()

    def end_group(self) -> None:
        """Write what is held as a row group."""
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, self._schema), row_group_size=len(self._rows))
        self._rows, self._bytes = [], 0


@contextmanager
def parquet_file(file: BinaryIO, *, with_request: bool = False) -> Iterator[ParquetFile]:
    """Write a Parquet file into this one; it is readable once the block has ended, as its directory comes last.

    Args:
        with_request: a column has the requests.
    """
    schema = SCHEMA.append(pa.field("request", pa.string())) if with_request else SCHEMA
    statistics = [name for name in schema.names if name not in _WITHOUT_STATISTICS]
    with pq.ParquetWriter(
        file, schema, compression="zstd", use_dictionary=_FEW_VALUES, write_statistics=statistics
    ) as writer:
        written = ParquetFile(writer, schema)
        yield written
        written.end_group()
