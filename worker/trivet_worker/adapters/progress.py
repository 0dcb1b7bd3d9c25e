"""The progress of an attempt: what is known of it when it ends, and the failure that this makes."""

import contextlib
from dataclasses import dataclass, field

import httpx2

from trivet_tasks.foreign_text import clean
from trivet_tasks.outcomes import Outcome, Scope, Usage
from trivet_worker.adapters import headers as wire_headers
from trivet_worker.adapters.assembly import BrokenStream
from trivet_worker.adapters.http import Contact, ErrorAnswer, TooLarge
from trivet_worker.adapters.protocol import MESSAGE_LIMIT, EventSink, Failure, LocalCause
from trivet_worker.adapters.streaming import Silence, StreamedAnswer


@dataclass(slots=True)
class Progress:
    """Progress of an attempt, for the text of its failure."""

    provider: str
    timeout: httpx2.Timeout
    """Timeouts of its socket operations."""
    until: float
    """Time of the event loop at which it is over."""
    response: httpx2.Response | None = None
    answer: StreamedAnswer | None = None
    silence: Silence | None = None
    headers: wire_headers.Headers = field(default_factory=dict)
    sent: bool = False
    """True if the request may have gone out."""
    sink: EventSink | None = None
    contact: Contact = field(default_factory=Contact)
    """Record of its connection to the provider."""

    def failure(
        self,
        outcome: Outcome,
        message: str,
        *,
        scope: Scope | None = None,
        usage: Usage | None = None,
        own_fault: bool = False,
        local_cause: LocalCause | None = None,
        stalled: bool = False,
    ) -> Failure:
        """Return a failure of our own wording, with the facts known from headers and stream."""
        return Failure(
            outcome,
            clean(message, MESSAGE_LIMIT),
            status=self.response.status_code if self.response else None,
            request_id=wire_headers.request_id(self.headers),
            scope=scope,
            limits=wire_headers.limits(self.headers) if self.provider == "anthropic" else None,
            usage=usage or (self.answer.assembly.final_usage if self.answer else None),
            may_be_billed=self.answer is not None and self.answer.assembly.began,
            own_fault=own_fault,
            local_cause=local_cause,
            stalled=stalled,
        )

    def stated_usage(self) -> Usage | None:
        """Return the whole usage of a streamed call that is dropped, if the provider has stated it by now."""
        if self.answer is None:
            return None
        with contextlib.suppress(ErrorAnswer, BrokenStream, TooLarge):
            self.answer.read()
        return self.answer.assembly.final_usage
