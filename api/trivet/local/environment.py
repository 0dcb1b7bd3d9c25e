"""Hiding what is configured on this machine from a Trivet that must neither use nor touch it: the demo, and tests."""

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def without_settings() -> Iterator[None]:
    """Hide every `TRIVET_*` variable of this process, and so of the processes started inside."""
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("TRIVET_")}
    try:
        yield
    finally:
        os.environ.update(hidden)
