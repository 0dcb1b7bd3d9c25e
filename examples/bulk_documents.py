"""A folder of documents in, a JSON Lines file of results out. Safe to interrupt: run it again and it continues.

    python bulk_documents.py contracts/ --glob "*.txt" --out summaries.jsonl --prompt "Summarise this contract:"

Each document is a job of a batch that is named after the folder. Run again, it submits missing documents and adds the
results that the file does not have yet. When documents were added or changed, give another --name: the job's key is
made of all that decides its answer, so no document is paid for a second time. Failed jobs can be run again with
`trivet batch retry`; this script, started once more, then puts the new results in the place of the old ones.

Its progress is one line that changes in place on a terminal, and a line every 15 s elsewhere.
"""

import argparse
import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trivet import Client, TrivetError
from trivet.admin import Admin

LINE_EVERY_S = 15.0
"""Seconds between two lines of progress where there is no terminal."""


def requests(documents: list[Path], folder: Path, options: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Yield one request a document, read when its turn comes."""
    for path in documents:
        prompt = f"{options.prompt}\n\n{path.read_text(encoding='utf-8', errors='replace')}"
        document = str(path.relative_to(folder))
        digest = hashlib.sha256(f"{document} {options.model} {options.max_tokens} {prompt}".encode()).hexdigest()
        yield {"prompt": prompt, "key": digest, "tags": {"document": document}}


def written(out: Path) -> dict[str, str]:
    """Return the last status of each job in the file. A last line that was cut off is removed."""
    if not out.exists():
        return {}
    lines = out.read_bytes().splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):
        out.write_bytes(b"".join(lines := lines[:-1]))
    return {row["id"]: row["status"] for row in map(json.loads, lines)}


def keep_last_lines(out: Path) -> None:
    """Write the file anew with the last line of each job alone: of one that ran again, its new result."""
    lines = out.read_bytes().splitlines(keepends=True)
    last = {json.loads(line)["id"]: line for line in lines}
    if len(last) < len(lines):
        whole = out.with_name(f"{out.name}.part")
        whole.write_bytes(b"".join(last.values()))
        whole.replace(out)


def progress_line(admin: Admin, name: str) -> str:
    """Return the progress of the batch, or the reason why it cannot be read now."""
    try:
        progress, speed, left, _ = admin.batches.status(name)
    except TrivetError as error:
        return str(error)
    failed = progress.ended - progress.succeeded
    line = f"{progress.ended:,}/{progress.total:,} done, {failed:,} failed, ${progress.cost_usd:,.4f}"
    line += f", {speed:,.1f} jobs/s" if speed else ""
    return line + (f", {left / 60:,.1f} min left" if left else "")  # not known while a budget holds the batch


@contextmanager
def progress_shown(name: str) -> Iterator[None]:
    """Print the batch's progress on standard error while the block runs."""
    done, on_terminal = threading.Event(), sys.stderr.isatty()

    def show() -> None:
        with Admin() as admin:
            while not done.wait(1 if on_terminal else LINE_EVERY_S):
                line = progress_line(admin, name)
                print(
                    f"\r{line:<78.78}" if on_terminal else line,
                    end="" if on_terminal else "\n",
                    file=sys.stderr,
                    flush=True,
                )

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        if on_terminal:
            print(file=sys.stderr)


def main() -> int:
    """Return 0 when every document has a result, 1 when some jobs failed."""
    parser = argparse.ArgumentParser(description="Run a prompt over a folder of documents.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--glob", default="**/*.txt", help="which files (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("results.jsonl"), help="(default: %(default)s)")
    parser.add_argument("--prompt", default="Summarise this document in three sentences:")
    parser.add_argument("--model", default="claude-haiku-4-5")
    parser.add_argument("--max-tokens", type=int, default=300)
    parser.add_argument("--name", help="the batch's name (default: the folder's)")
    options = parser.parse_args()

    folder = options.folder.resolve()
    documents = sorted(path for path in folder.glob(options.glob) if path.is_file())
    if not documents:
        parser.error(f"no file in {options.folder} matches {options.glob}")
    have, failed = written(options.out), 0
    with Client() as client, options.out.open("a", encoding="utf-8") as out:
        batch = client.submit_many(
            requests(documents, folder, options),
            name=options.name or folder.name, dedupe="tenant", model=options.model, max_tokens=options.max_tokens,
        )  # fmt: skip
        if joined := batch.progress().joined:
            print(f"{joined} were submitted before under another name", file=sys.stderr)
        with progress_shown(batch.name):
            for result in batch.results():
                new = have.get(result.id) != result.status
                failed += result.status != "succeeded" or (new and result.pruned)
                if new and not result.pruned:
                    line = {
                        "id": result.id, "document": result.tags["document"], "status": result.status,
                        "text": result.text, "error": result.error.message if result.error else None,
                        "cost_usd": str(result.cost_usd),
                    }  # fmt: skip
                    out.write(json.dumps(line, ensure_ascii=False) + "\n")
    keep_last_lines(options.out)
    print(f"{failed} failed; results in {options.out}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
