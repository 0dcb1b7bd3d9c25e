"""Checks routes: offline first, then each account in a thread of its own, under one wall-clock limit."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from functools import partial

from trivet.live_check.compare import compare, compare_catalogue, paste_lines
from trivet.live_check.offline import check_offline
from trivet.live_check.report import Finding, Level, Reading, RouteReport, SettledBy
from trivet.live_check.subject import Subject, subject_of
from trivet_tasks.catalog import Provider
from trivet_tasks.config.route_settings import RouteSettings

Reader = Callable[[Subject, float], Reading]
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
    today = datetime.now(UTC).date()
    checks = [_Check(subject_of(name, route, models), today) for name, route in routes.items()]
    asked = [check for check in checks if live and check.may_ask]
    for check in asked:
        check.prepare()  # here and not in the threads: loading an SDK is no time of the account's
    for check in asked:
        check.start(timeout_s)
    ends = time.monotonic() + timeout_s
    for check in asked:
        check.wait(ends, timeout_s)
    return tuple(check.report() for check in checks)


class _Check:
    """The check of one route. Its thread is a daemon: one that hangs is left behind."""

    def __init__(self, subject: Subject, today: date) -> None:
        self._subject = subject
        self._today = today
        self._offline = check_offline(subject, today)
        self._read: Reader | None = None
        self._thread: threading.Thread | None = None
        self._answered: tuple[Reading, float] | None = None
        """The account's reading, and the seconds it took; set by the thread."""
        self._reading: Reading | None = None
        self._took_s = 0.0

    @property
    def may_ask(self) -> bool:
        """True unless the route lacks a key or a place, without which its account cannot be asked."""
        return not any(
            finding.level is Level.ERROR and finding.where.endswith((" api_key", " region", " project"))
            for finding in self._offline
        )

    def prepare(self) -> None:
        """Load the SDK that the check needs. One that is not installed is a finding."""
        try:
            self._read = _reader(self._subject)
        except ImportError as error:
            library, extra = _NEEDS[self._subject.route.provider]
            what = f"{library} is not installed here ({error.name}), so the account was not asked."
            finding = Finding(Level.ERROR, what, self._subject.table, f"pip install '{extra}'")
            self._answered = Reading(findings=(finding,)), 0.0

    def start(self, timeout_s: float) -> None:
        """Begin to ask."""
        if self._read is not None:
            ask, name = partial(self._ask, self._read, timeout_s), f"check-{self._subject.name}"
            self._thread = threading.Thread(target=ask, name=name, daemon=True)
            self._thread.start()

    def wait(self, ends: float, timeout_s: float) -> None:
        """Take the answer, or a finding that there was none until `ends` (monotonic seconds)."""
        if self._thread is not None:
            self._thread.join(max(0.0, ends - time.monotonic()))
        finding = Finding(
            Level.ERROR,
            f"The account did not answer within {timeout_s:g} s.",
            f"{self._subject.table} {self._subject.route.provider}",
            "Check network and proxy, or give it more time with --timeout.",
        )
        self._reading, self._took_s = self._answered or (Reading(findings=(finding,)), timeout_s)

    def _ask(self, read: Reader, timeout_s: float) -> None:
        began = time.monotonic()
        try:
            reading = read(self._subject, timeout_s)
        except Exception as error:  # any error of an SDK is reported, it does not end the check of the others
            what = f"The check failed: {type(error).__name__}: {self._subject.mask.words(error)}"
            reading = Reading(findings=(Finding(Level.ERROR, what, self._subject.table, "Please report this."),))
        self._answered = reading, time.monotonic() - began

    def report(self) -> RouteReport:
        """Return all findings; those of the account take the place of offline ones that they settle."""
        subject, mask = self._subject, self._subject.mask
        report = RouteReport(
            subject.name, subject.route.provider, subject.region, "", False, tuple(map(mask.finding, self._offline))
        )
        if self._reading is None:
            return report
        reading = mask.reading(self._reading)
        compared, rows = compare(subject, reading)
        by_catalogue = tuple(compare_catalogue(subject, reading, self._today))
        findings = (*self._unsettled(reading, by_catalogue), *reading.findings, *compared, *by_catalogue)
        return replace(
            report,
            account=reading.account,
            live=True,
            findings=tuple(map(mask.finding, findings)),
            limits=rows,
            paste=paste_lines(subject, reading, rows),
            took_s=self._took_s,
        )

    def _unsettled(self, reading: Reading, by_catalogue: tuple[Finding, ...]) -> Iterator[Finding]:
        """Yield the offline findings that the reading of the account does not settle."""
        settled = {SettledBy.ASKING, *([SettledBy.QUOTAS] if reading.quotas else [])}
        retiring = {model for finding in by_catalogue for model in finding.models if " retire" in finding.what}
        for finding in self._offline:
            told_live = finding.where.startswith("the catalogue") and retiring.intersection(finding.models)
            if finding.settled_by not in settled and not told_live:
                yield finding


def _reader(subject: Subject) -> Reader:
    """Return the reader of an account of this kind, with its SDK loaded."""
    if subject.route.endpoint == "mantle":
        return _read_mantle
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


def _read_mantle(subject: Subject, timeout_s: float) -> Reading:  # noqa: ARG001 - no request is made
    """Return an empty reading: bedrock-mantle has no list of models, and its quotas are not those of Bedrock's runtime."""
    finding = Finding(
        Level.WARNING,
        "bedrock-mantle has no list of models, and its quotas cannot be read: models, key and limits were not compared.",
        f"{subject.table} endpoint",
        "Look its quotas up in the AWS console; `trivet route probe` makes one call of one token.",
    )
    return Reading(findings=(finding,))
