"""Spans and moments as people type them; see `trivet.cli.options`."""

from trivet.cli.options import age_s, since, span_or_moment, span_s

__all__ = ["age_s", "since", "span_or_moment", "span_s"]
