"""Check that a request can be answered in the time that its class gives one call."""

from trivet_tasks.catalog import Model
from trivet_tasks.config.settings import Settings
from trivet_tasks.latency import Latency


def longest_call_s(latency: Latency, settings: Settings) -> float:
    """Return the maximum time of one call of the class, in seconds."""
    of_class = settings.of_class(latency)
    return of_class.budget_s if of_class.attempt_timeout_s is None else of_class.attempt_timeout_s


def needed_s(model: Model, max_tokens: int) -> float:
    """Seconds that an answer of this length takes at the model's usual rate; rough."""
    return max_tokens / model.output_tokens_per_s


def too_short_text(model: Model | None, latency: Latency, max_tokens: int, settings: Settings) -> str | None:
    """Return a warning when `max_tokens` cannot come in time at the model's usual rate; None where they can."""
    if model is None:
        return None
    seconds = needed_s(model, max_tokens)
    if seconds <= longest_call_s(latency, settings):
        return None
    fitting = next((one for one in Latency if longest_call_s(one, settings) >= seconds), None)
    advice = (
        f"latency {fitting.value} allows {longest_call_s(fitting, settings):g} s"
        if fitting
        else "no latency class allows that; a longer attempt_timeout_s can be set for one"
    )
    return (
        f"max_tokens: {max_tokens:,} tokens take about {seconds:,.0f} s with {model.id}, but a call of class "
        f"{latency.value} ends after {longest_call_s(latency, settings):g} s; {advice}."
    )
