"""Checks routes: offline first, then each account in a thread of its own, under one wall-clock limit."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from trivet.live_check.catalogue_check import compare_catalogue
from trivet.live_check.compare import Comparison, compare
from trivet.live_check.masking import Mask
from trivet.live_check.offline import check_offline, region_of
from trivet.live_check.paste import paste_lines
from trivet.live_check.report import Finding, Level, Reading, RouteReport, SettledBy
from trivet.live_check.subject import Subject, subject_of
from trivet_tasks.catalog import Provider
from trivet_tasks.config.route_settings import RouteSettings

Reader = Callable[[Subject, float, Mask], Reading]
TIMEOUT_S = 20.0
"""Maximum seconds for one account, all its calls together."""
_NEEDS: dict[Provider, tuple[str, str]] = {
    "anthropic": ("anthropic", "trivet[worker]"),
    "bedrock": ("boto3", "trivet[worker]"),
    "vertex": ("google-cloud-aiplatform", "trivet[ops]"),
}


def check_routes(
    routes: Mapping[str, RouteSettings], *, models: Sequence[str] = (), live: bool = False, timeout_s: float = TIMEOUT_S
) -> tuple[RouteReport, ...]:
    """Check routes, in their order.

    Args:
        routes: by name, as configured.
        models: first-party ids to look at; none: all that each route may serve.
        live: ask the accounts over the network; else no account is asked.
        timeout_s: seconds that one account may take; all are asked at the same time.
    """
    checks = [_Check(subject_of(name, route, models), Mask(route)) for name, route in routes.items()]
    found = {check.subject.name: check_offline(check.subject) for check in checks}
    if not live:
        return tuple(_report(check, found[check.subject.name], None) for check in checks)
    askable = [check for check in checks if _may_ask(found[check.subject.name])]
    for check in askable:
        check.prepare()  # here and not in the threads: loading an SDK is no time of the account's
    for check in askable:
        check.start(timeout_s)
    ends = time.monotonic() + timeout_s
    readings = {check.subject.name: check.wait(ends, timeout_s) for check in askable}
    return tuple(_report(check, found[check.subject.name], readings.get(check.subject.name)) for check in checks)


def _may_ask(findings: tuple[Finding, ...]) -> bool:
    """Return whether a route can be asked: without a key or a place it cannot."""
    return not any(
        finding.level is Level.ERROR and finding.where.endswith((" api_key", " region", " project"))
        for finding in findings
    )


@dataclass(frozen=True, slots=True)
class _Answer:
    reading: Reading
    comparison: Comparison
    paste: str
    took_s: float


class _Check:
    """The check of one route. Its thread is a daemon: one that hangs is left behind."""

    def __init__(self, subject: Subject, mask: Mask) -> None:
        self.subject = subject
        self.mask = mask
        self._answer: _Answer | None = None
        self._thread: threading.Thread | None = None
        self._read: Reader

    def prepare(self) -> None:
        """Load what the check needs. That something is not installed is the answer."""
        provider = self.subject.route.provider
        try:
            self._read = _reader(self.subject)
        except ImportError as error:
            library, extra = _NEEDS[provider]
            what = f"{library} is not installed here ({error.name}), so the account was not asked."
            finding = Finding(Level.ERROR, what, self.subject.table, f"pip install '{extra}'")
            self._answer = _Answer(Reading(findings=(finding,)), Comparison((), ()), "", 0.0)

    def start(self, timeout_s: float) -> None:
        """Begin to ask."""
        if self._answer is not None:
            return
        name = f"check-{self.subject.name}"
        self._thread = threading.Thread(target=self._ask, args=(timeout_s,), name=name, daemon=True)
        self._thread.start()

    def wait(self, ends: float, timeout_s: float) -> _Answer:
        """The answer, or a finding that there was none until `ends` (monotonic seconds)."""
        if self._thread is not None:
            self._thread.join(max(0.0, ends - time.monotonic()))
        if self._answer is not None:
            return self._answer
        finding = Finding(
            Level.ERROR,
            f"The account did not answer within {timeout_s:g} s.",
            f"{self.subject.table} {self.subject.route.provider}",
            "Check network and proxy, or give it more time with --timeout.",
        )
        return _Answer(Reading(findings=(finding,)), Comparison((), ()), "", timeout_s)

    def _ask(self, timeout_s: float) -> None:
        began = time.monotonic()
        reading = self.mask.reading(self._reading(timeout_s))
        comparison = compare(self.subject, reading)
        if not reading.models and not reading.quotas:  # nothing was read: the findings say why
            comparison = Comparison((), ())
        paste = paste_lines(self.subject, reading, comparison.rows)
        self._answer = _Answer(reading, comparison, paste, time.monotonic() - began)

    def _reading(self, timeout_s: float) -> Reading:
        try:
            return self._read(self.subject, timeout_s, self.mask)
        except Exception as error:  # whatever an SDK raises is told, it does not end the check of the others
            what = f"The check failed: {type(error).__name__}: {self.mask.words(error)}"
            return Reading(findings=(Finding(Level.ERROR, what, self.subject.table, "Please report this."),))


def _reader(subject: Subject) -> Reader:
    """Return the reader of an account of this kind, with its SDK loaded."""
    if subject.route.endpoint == "mantle":
        from trivet.live_check.mantle import read_mantle

        return read_mantle
    match subject.route.answers_as:
        case "anthropic":
            from trivet.live_check import anthropic

            anthropic.prepare()
            return anthropic.read_anthropic
        case "bedrock":
            from trivet.live_check import bedrock

            bedrock.prepare()
            return bedrock.read_bedrock
        case "vertex":
            from trivet.live_check import vertex

            vertex.prepare()
            return vertex.read_vertex


def _report(check: _Check, offline: tuple[Finding, ...], answer: _Answer | None) -> RouteReport:
    subject = check.subject
    report = RouteReport(
        subject.name, subject.route.provider, region_of(subject), "", False, tuple(map(check.mask.finding, offline))
    )
    if answer is None:
        return report
    settled = {SettledBy.ASKING, *([SettledBy.QUOTAS] if answer.reading.quotas else [])}
    kept = [finding for finding in offline if finding.settled_by not in settled]
    by_catalogue = tuple(compare_catalogue(subject, answer.reading, datetime.now(UTC).date()))
    told_live = {model for finding in by_catalogue for model in finding.models if " retire" in finding.what}
    kept = [one for one in kept if not (one.where.startswith("the catalogue") and told_live.intersection(one.models))]
    findings = (*kept, *answer.reading.findings, *answer.comparison.findings, *by_catalogue)
    return replace(
        report,
        account=answer.reading.account,
        live=True,
        findings=tuple(map(check.mask.finding, findings)),
        limits=answer.comparison.rows,
        paste=answer.paste,
        took_s=answer.took_s,
    )
