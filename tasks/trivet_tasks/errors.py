"""Every exception that Trivet raises for a person to read.

    TrivetError
    ├── ConfigError            a setting is wrong; names the file (or variable) and the key
    ├── InvalidRequest         a request is wrong; names the field, and the index or line in a bulk submit
    │   ├── BatchTaken         another process fills, or ended, the batch meanwhile
    │   ├── KeyConflict        the key is taken by a different request
    │   ├── SetByOperator      an operator paused the work or lowered its priority; its owner cannot undo that
    │   └── UnknownModel       there is no such model, or no more
    ├── NotFound               no such job, batch or route
    ├── BatchIncomplete        the batch took only a part of its requests and does not run
    ├── StoreError             the database cannot be used
    │   ├── StoreUnavailable   it does not answer
    │   └── SchemaMismatch     its schema is older or newer than this Trivet
    ├── BrokerUnavailable      the broker or the shared state does not answer
    ├── ClientClosed           the client was used after its `close()`
    ├── ProcessFailed          a part that was to be started here did not start
    ├── ProbeNotMade           a probe asked for by hand was not made
    ├── ResultTimeout          waiting ended before the job did
    └── StreamFailed           the answer of a streamed job did not come, or not to its end

No message carries a password, a key or a prompt.
"""

import traceback
from dataclasses import dataclass


class TrivetError(Exception):
    """The root of all of these."""

    hint: str = ""
    """Advice on what to do about it, one sentence, or nothing."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        if hint:
            self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class ConfigError(TrivetError):
    """A setting is wrong."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with one request of a bulk submit. `where` is an index ("request 17") or a line ("line 731")."""

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


class InvalidRequest(TrivetError):
    """A request is wrong. `field` is its path in the request; `problems` has one entry per bad request of a bulk."""

    def __init__(self, message: str, *, field: str = "", problems: tuple[Problem, ...] = (), hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.field = field
        self.problems = problems


class KeyConflict(InvalidRequest):
    """The key is taken by a job with a different request. `index` is the request's place in its group."""

    def __init__(self, message: str, *, index: int, hint: str = "") -> None:
        super().__init__(message, field="key", hint=hint)
        self.index = index


class BatchTaken(InvalidRequest):
    """Another process has filled, cancelled or discarded the batch meanwhile, so that it goes on where it is now when it is
    submitted again; or the name is taken by a batch of another tenant."""


class SetByOperator(InvalidRequest):
    """An operator paused the work or lowered its priority, which its owner cannot undo."""


class UnknownModel(InvalidRequest):
    """There is no model of this id, or no more."""


class NotFound(TrivetError):
    """No such job, batch or route."""


class BatchIncomplete(TrivetError):
    """The batch took only a part of its requests; nothing of it runs until it is resumed or accepted as it is."""

    def __init__(self, message: str, *, name: str, taken: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.name = name
        self.taken = taken


class StoreError(TrivetError):
    """The database cannot be used."""


class StoreUnavailable(StoreError):
    """The database does not answer."""


class SchemaMismatch(StoreError):
    """The schema of the database is not the one this Trivet works with."""


class BrokerUnavailable(TrivetError):
    """The broker or the shared state does not answer."""


class ClientClosed(TrivetError):
    """The client was used after it was closed, or closed while something waited. Jobs go on."""

    hint = "Make a new Client; jobs go on without one."


class ProcessFailed(TrivetError):
    """A part that was to be started on this machine did not start."""


class ProbeNotMade(TrivetError):
    """A probe that a person asked for was not made, or its result is not known."""


class ResultTimeout(TrivetError, TimeoutError):
    """Waiting ended before the job did.

    `reasons` says in sentences why it has not ended, empty where it moves. `held_up` is true if something is wrong, so
    that it does not go on by itself.
    """

    def __init__(self, message: str, *, hint: str = "", reasons: tuple[str, ...] = (), held_up: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.reasons = reasons
        self.held_up = held_up


class StreamFailed(TrivetError):
    """The answer of a streamed job did not come, or not to its end.

    `outcome` is one of the table of outcomes, or the job's state; `began` is true if a part of the answer was shown. The job
    may still go on with another call then: its result is a whole answer or none.
    """

    def __init__(self, message: str, *, outcome: str, began: bool, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.outcome = outcome
        self.began = began


def no_sdk(what: str, error: ModuleNotFoundError) -> ConfigError:
    """Return the error to raise where the `anthropic` SDK, or a package of it, is needed and not installed."""
    return ConfigError(
        f"{what} needs {error.name or 'anthropic'}, which is not installed here.",
        hint="pip install 'trivet[stream]' installs it.",
    )


def place_of(error: BaseException) -> str:
    """Return kind and place: `KeyError at recorder.py:120`."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "trivet" in frame.filename] or frames
    if not ours:
        return type(error).__name__
    return f"{type(error).__name__} at {ours[-1].filename.rpartition('/')[2]}:{ours[-1].lineno}"
