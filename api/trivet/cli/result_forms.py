"""Formats of files of results, and the choice of one by a file's ending."""

from enum import StrEnum
from pathlib import Path

from trivet.cli.extras import need
from trivet.cli.options import stem_of
from trivet_tasks.errors import InvalidRequest
from trivet_tasks.result_files import CSV_ENDING, LINES_ENDINGS, PARQUET_ENDING, TABLE_ENDINGS


class Form(StrEnum):
    """Formats of exported results."""

    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"


_OF_ENDING = {**dict.fromkeys(LINES_ENDINGS, Form.JSONL), CSV_ENDING: Form.CSV, PARQUET_ENDING: Form.PARQUET}


def form_of(out: Path | None, form: Form | None) -> Form:
    """Return the format to write: the named one, or that of the file's ending; JSON Lines to standard output.

    Raises:
        InvalidRequest: the ending is unknown or means another format, or Parquet has no file.
        MissingExtra: Parquet, and pyarrow is not installed.
    """
    chosen = _chosen(out, form)
    if chosen is Form.PARQUET:
        if out is None:
            raise InvalidRequest(
                "--format parquet: needs a file to write to.", field="out", hint="Name one with --out."
            )
        need("--format parquet", "parquet")
    return chosen


def check_lines(out: Path) -> None:
    """Make sure that a file of JSON Lines is not called something else.

    Raises:
        InvalidRequest: its ending is another.
    """
    ending = out.suffix.lower()
    if ending in TABLE_ENDINGS:
        raise InvalidRequest(
            f"--out: {out.name}: a table is written of a batch that is done; while it runs, results are written as JSON "
            "Lines.",
            field="out",
            hint=f"Use {stem_of(out)}.jsonl, or `trivet bulk FILE --name NAME --wait` and then "
            f"`trivet batch export NAME --out {out.name}`.",
        )
    if ending not in LINES_ENDINGS:
        raise InvalidRequest(
            f"--out: {out.name}: results are written as JSON Lines, not as {ending}.",
            field="out",
            hint=f"Use {stem_of(out)}.jsonl. `trivet batch export NAME --out FILE` writes CSV and Parquet, too.",
        )


def _chosen(out: Path | None, form: Form | None) -> Form:
    ending = out.suffix.lower() if out else ""
    meant = _OF_ENDING.get(ending)
    if out and form is None and meant is None:
        stem = stem_of(out)
        raise InvalidRequest(
            f"--out: {out.name}: results are not written as {ending}.",
            field="out",
            hint=f"Use {stem}.jsonl, {stem}.csv or {stem}.parquet, or name the format with --format.",
        )
    if out and form and ending and meant not in (None, form):
        raise InvalidRequest(
            f"--out: {out.name}: the ending means {meant}, and --format says {form}.",
            field="out",
            hint="Leave --format out, or use another name.",
        )
    return form or meant or Form.JSONL
