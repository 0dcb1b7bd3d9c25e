"""A folder of documents through your own Celery application: read each, ask Claude through Trivet, write the answer.

    trivet up                                            # Trivet, with the section below in its trivet.toml
    celery -A examples.celery_pipeline worker            # a stock worker of this application, in a second terminal
    python examples/celery_pipeline.py contracts/        # sends a chain for each document and waits for all of them

Trivet sends the tasks on when their jobs have ended, so its configuration names the broker of this application:

    [celery_apps.pipeline]
    broker_url = "redis://127.0.0.1:6379/1"

A chain takes no slot of the worker while its job waits and runs. Workers of both sides may be killed meanwhile.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from celery import Celery, chain, group

from trivet.celery import generate

BROKER = os.environ.get("PIPELINE_BROKER_URL", "redis://127.0.0.1:6379/1")
BACKEND = os.environ.get("PIPELINE_BACKEND_URL", "redis://127.0.0.1:6379/2")
TERMS: dict[str, Any] = {"model": "claude-haiku-4-5", "max_tokens": 300}

app = Celery("pipeline", broker=BROKER, backend=BACKEND)
app.conf.update(
    task_default_queue="pipeline", task_acks_late=True, task_reject_on_worker_lost=True, worker_prefetch_multiplier=1
)


@app.task(name="pipeline.load")  # type: ignore[untyped-decorator] # Celery has no types
def load(path: str) -> str:
    """Return the text of a document."""
    return Path(path).read_text(encoding="utf-8", errors="replace")


@app.task(name="pipeline.save")  # type: ignore[untyped-decorator] # as above
def save(answer: str, path: str) -> str:
    """Write the answer beside its document, whole or not at all: a task may run twice. Return the file's name."""
    part = Path(f"{path}.part")
    part.write_text(answer, encoding="utf-8")
    return str(part.replace(f"{path}.summary"))


@app.task(name="pipeline.report")  # type: ignore[untyped-decorator] # as above
def report(request: Any, error: Exception, traceback: str, path: str) -> None:
    """Write why a document has no answer."""
    del request, traceback
    Path(f"{path}.error").write_text(f"{error}\n", encoding="utf-8")


def pipeline(path: Path) -> chain:
    """Return the chain of one document."""
    ask = generate.s(prompt="Summarise this document:\n\n{0}", max_retries=1, **TERMS)
    return chain(load.s(str(path)), ask.on_error(report.s(str(path))), save.s(str(path)))


def main() -> int:
    """Send a chain for each document, wait, and print the files. 1 when a document has no answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--glob", default="*.txt", help="the documents in the folder")
    options = parser.parse_args()
    documents = sorted(path.absolute() for path in options.folder.glob(options.glob))
    results = group(pipeline(path) for path in documents).delay()
    failed = 0
    for document, result in zip(documents, results, strict=True):
        written = result.get(propagate=False)
        if result.failed():
            failed += 1
            print(f"{document}: {written}", file=sys.stderr)
        else:
            print(written)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
