"""Reads nothing of bedrock-mantle: it has no list of models, and its quotas are not those of Bedrock's runtime."""

from trivet.live_check.masking import Mask
from trivet.live_check.report import Finding, Level, Reading
from trivet.live_check.subject import Subject


def read_mantle(subject: Subject, timeout_s: float, mask: Mask) -> Reading:  # noqa: ARG001 - nobody is asked
    """Return a reading that no account was asked, and what to do instead."""
    finding = Finding(
        Level.WARNING,
        "bedrock-mantle has no list of models, and its quotas cannot be read: models, key and limits were not compared.",
        f"{subject.table} endpoint",
        "Look its quotas up in the AWS console; `trivet route probe` makes one call of one token.",
    )
    return Reading(findings=(finding,))
