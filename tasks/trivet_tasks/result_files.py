"""Endings of files of results, for commands and schedules alike."""

LINES_ENDINGS = ("", ".jsonl", ".ndjson")
"""Files of JSON Lines, one result a line; a name without an ending is one."""
PARQUET_ENDING = ".parquet"
CSV_ENDING = ".csv"
TABLE_ENDINGS = (CSV_ENDING, PARQUET_ENDING)
"""Tables, one row a result. They are written of a whole batch at once."""
