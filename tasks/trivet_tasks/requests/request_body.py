"""The fields of a Messages API body, and the check of each.

They are those of `MessageCreateParams` in the `anthropic` SDK 2.14.0 (`types/message_create_params.py`) and of its beta
twin (`types/beta/message_create_params.py`), written down here because a producer does not have the SDK; and
the sampling parameters, which versions of the API before 2026-10-21 take.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from trivet_tasks.requests.request_messages import (
    PLAIN_NAME,
    check_block_text,
    check_some_text,
    check_text,
    kind,
    quoted,
    shown,
    wrong,
)

BETA_FIELDS = frozenset({"billing_policy", "compaction", "context_management", "fallbacks", "mcp_servers", "thread"})
"""Fields that the API knows only under a beta, named in `betas`."""

BATCH_ONLY = frozenset({"output-300k-2026-03-24"})
"""Betas of the Message Batches API, which online calls cannot use."""

MAX_BETAS = 30
REFUSED_FIELDS: Mapping[str, str] = {
    "stream": "jobs are not streamed; leave it out.",
    "anthropic_version": "Trivet sets it for each provider; leave it out.",
    "anthropic_beta": "give the names as a list under betas.",
    "fallback_credit_token": "it holds for five minutes on one platform, too little for a queued job; leave it out.",
    "output_format": "it is the older name of output_config.format.",
    "user_profile_id": "Trivet does not send it; leave it out.",
    "workspace_id": "it belongs to a route's credentials, not to a request; leave it out.",
    "custom_id": "without params it is named key here.",
    "params": "it is the body of a request; it cannot be in itself, nor in defaults.",
    "timeout": "the latency class sets it; deadline says until when the result is wanted.",
}
"""Fields that people bring from elsewhere and Trivet does not take, with what to do instead."""

_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")  # what the API says in its 400
_EFFORTS = ("low", "medium", "high", "xhigh", "max")


MAX_OUTPUT = 1_000_000
"""The bound of `max_tokens` for a model that only a route knows: no model has a larger context window."""
BATCH_OUTPUT = 300_000
"""The longest answer of a native batch (beta output-300k-2026-03-24)."""
_BATCH_ONLY = f"answers of up to {BATCH_OUTPUT:,} tokens exist in native batches only, which online jobs are not"


def check_max_tokens(value: object, largest: int | None) -> int:
    """The number of `max_tokens`; `largest` is what the model can write, None where that is not known."""
    most = largest or MAX_OUTPUT
    allowed = f"a whole number from 1 to {most:,}"
    if value is None:
        raise wrong("max_tokens", f"is missing; give how many tokens the answer may have, {allowed}.")
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        number = isinstance(value, int) and not isinstance(value, bool)
        batch = largest and number and largest < value <= BATCH_OUTPUT  # type: ignore[operator]
        raise wrong("max_tokens", f"must be {allowed}, is {quoted(value)}{f'; {_BATCH_ONLY}' if batch else ''}.")
    return value


def check_thinking_budget(thinking: object, body: Mapping[str, object], max_tokens: int) -> None:
    """A thinking budget must leave room for the answer; between tool calls it may be larger (interleaved thinking)."""
    budget = thinking.get("budget_tokens") if isinstance(thinking, dict) else None
    if isinstance(budget, int) and budget >= max_tokens and "tools" not in body:
        raise wrong("thinking.budget_tokens", f"must be less than max_tokens ({max_tokens:,}), is {kind(budget)}.")


def _object(value: object, field: str) -> dict[object, object]:
    if not isinstance(value, dict):
        raise wrong(field, f"must be an object, is {kind(value)}.")
    return value


def _one_of(value: object, field: str, allowed: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in allowed:
        raise wrong(field, f"must be {', '.join(allowed[:-1])} or {allowed[-1]}, is {shown(value)}.")


def _any_object(field: str) -> Callable[[object], None]:
    def check(value: object) -> None:
        _object(value, field)

    return check


def _any_string(field: str) -> Callable[[object], None]:
    def check(value: object) -> None:
        if not isinstance(value, str) or not value:
            raise wrong(field, f"must be a string that is not empty, is {kind(value)}.")

    return check


def _share(field: str) -> Callable[[object], None]:
    def check(value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise wrong(field, f"must be a number from 0 to 1, is {quoted(value)}.")

    return check


def _check_top_k(value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise wrong("top_k", f"must be a whole number of at least 0, is {quoted(value)}.")


def _choice(field: str, *allowed: str) -> Callable[[object], None]:
    return lambda value: _one_of(value, field, allowed)


def _check_system(value: object) -> None:
    if isinstance(value, str):
        return
    if not isinstance(value, list | tuple):
        raise wrong("system", f"must be a string or a list of text blocks, is {kind(value)}.")
    for index, block in enumerate(value):
        if not isinstance(block, dict) or block.get("type") != "text":
            raise wrong(f"system[{index}]", "must be an object of type text.")
        check_block_text(block.get("text"), f"system[{index}].text")
    check_some_text(value, "system")


def _check_tools(value: object) -> None:
    if not isinstance(value, list | tuple):
        raise wrong("tools", f"must be a list of tools, is {kind(value)}.")
    names: set[str] = set()
    for index, tool in enumerate(value):
        field = f"tools[{index}]"
        form, name = (tool.get("type"), tool.get("name")) if isinstance(tool, dict) else (None, None)
        if not isinstance(tool, dict) or (form is None and name is None):
            raise wrong(field, "must be an object with a name and an input_schema, or with a type.")
        if form is not None and (not isinstance(form, str) or not form):
            raise wrong(f"{field}.type", f"must be a name, is {kind(form)}.")
        if form in (None, "custom") or name is not None:
            if not isinstance(name, str) or not _TOOL_NAME.fullmatch(name):
                raise wrong(f"{field}.name", "must be 1 to 128 letters, digits, _ or -.")
            if name in names:
                raise wrong(f"{field}.name", "is the name of an earlier tool too; names must differ.")
            names.add(name)
        if form in (None, "custom") and not isinstance(tool.get("input_schema"), dict):
            raise wrong(f"{field}.input_schema", "must be an object (the JSON schema of the tool's input).")


def _check_tool_choice(value: object) -> None:
    choice = _object(value, "tool_choice")
    _one_of(choice.get("type"), "tool_choice.type", ("auto", "any", "tool", "none"))
    if choice["type"] == "tool" and not isinstance(choice.get("name"), str):
        raise wrong("tool_choice.name", "must name the tool.")


def _check_thinking(value: object) -> None:
    thinking = _object(value, "thinking")
    _one_of(thinking.get("type"), "thinking.type", ("adaptive", "enabled", "between_tools", "disabled"))
    if thinking["type"] == "enabled":
        budget = thinking.get("budget_tokens")
        if isinstance(budget, bool) or not isinstance(budget, int) or budget < 1_024:
            raise wrong("thinking.budget_tokens", f"must be a whole number of at least 1,024, is {quoted(budget)}.")


def _check_metadata(value: object) -> None:
    user = _object(value, "metadata").get("user_id")
    if user is not None and not isinstance(user, str):
        raise wrong("metadata.user_id", f"must be a string, is {kind(user)}.")


def _check_stop_sequences(value: object) -> None:
    if not isinstance(value, list | tuple):
        raise wrong("stop_sequences", f"must be a list of strings, is {kind(value)}.")
    for index, sequence in enumerate(value):
        check_text(sequence, f"stop_sequences[{index}]")


def _check_output_config(value: object) -> None:
    config = _object(value, "output_config")
    if config.get("effort") is not None:
        _one_of(config["effort"], "output_config.effort", _EFFORTS)
    if config.get("format") is not None:
        _object(config["format"], "output_config.format")


def _check_cache_control(value: object) -> None:
    control = _object(value, "cache_control")
    if control.get("type") != "ephemeral":
        raise wrong("cache_control.type", "must be ephemeral.")
    if control.get("ttl") is not None:
        _one_of(control["ttl"], "cache_control.ttl", ("5m", "1h"))


def _check_container(value: object) -> None:
    if not isinstance(value, str | dict) or not value:
        raise wrong("container", f"must be a container id or an object with contents, is {kind(value)}.")


def _check_mcp_servers(value: object) -> None:
    if not isinstance(value, list | tuple):
        raise wrong("mcp_servers", f"must be a list of servers, is {kind(value)}.")
    for index, server in enumerate(value):
        _object(server, f"mcp_servers[{index}]")


def _check_fallbacks(value: object) -> None:
    if not isinstance(value, list | tuple) and not (isinstance(value, str) and value == "default"):
        raise wrong("fallbacks", f"must be default or a list of models, is {quoted(value)}.")


def _check_betas(value: object) -> None:
    names = value if isinstance(value, list | tuple) else [None]
    if not all(isinstance(name, str) and PLAIN_NAME.fullmatch(name) for name in names):
        raise wrong("betas", "must be a list of beta names, such as context-management-2025-06-27.")
    if len(names) > MAX_BETAS:
        raise wrong("betas", f"may hold at most {MAX_BETAS} names, holds {len(names):,}.")
    for name in names:
        if name in BATCH_ONLY:
            raise wrong("betas", f"{name}: {_BATCH_ONLY}; leave it out.")


BODY_FIELDS: Mapping[str, Callable[[object], None] | None] = {
    "messages": None,  # these two are checked with the model at hand
    "max_tokens": None,
    "system": _check_system,
    "tools": _check_tools,
    "tool_choice": _check_tool_choice,
    "thinking": _check_thinking,
    "metadata": _check_metadata,
    "stop_sequences": _check_stop_sequences,
    # the next three depend on the API's version: `trivet_tasks.requests.eligibility`
    "temperature": _share("temperature"),
    "top_p": _share("top_p"),
    "top_k": _check_top_k,
    "output_config": _check_output_config,
    "service_tier": _choice("service_tier", "auto", "standard_only"),
    "speed": _choice("speed", "standard", "fast"),
    "inference_geo": _any_string("inference_geo"),
    "cache_control": _check_cache_control,
    "container": _check_container,
    "diagnostics": _any_object("diagnostics"),
    "context_management": _any_object("context_management"),
    "compaction": _any_object("compaction"),
    "thread": _any_object("thread"),
    "billing_policy": _any_object("billing_policy"),
    "mcp_servers": _check_mcp_servers,
    "fallbacks": _check_fallbacks,
    "betas": _check_betas,
}
"""Every field of the body that is taken, with its check. `betas` is written as `anthropic_beta`, its name on the wires."""


def as_submitted(body: Mapping[str, Any], model: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request as `submit` takes it, from the body that a job keeps: with its model and all of its metadata.

        as_submitted({"max_tokens": 9, "messages": [...], "anthropic_beta": ["x"]}, "claude-haiku-4-5", {"row": 1})
        # {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": [...], "betas": ["x"], "metadata": {"row": 1}}

    Fields that Trivet does not know are in `extra_body` again.
    """
    fields = {"model": model, **body}
    if betas := fields.pop("anthropic_beta", None):
        fields["betas"] = betas
    if metadata:
        fields["metadata"] = dict(metadata)
    known = BODY_FIELDS.keys() | {"model", "extra_headers"}
    extra = {name: fields.pop(name) for name in fields.keys() - known}
    return {**fields, **({"extra_body": extra} if extra else {})}
