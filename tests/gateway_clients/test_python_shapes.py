"""Requests with every parameter that the official Python client has, in the shapes of its own resource tests.

Each is accepted, or refused with a 400 that names the field: where Trivet does not send it on, or no route takes it.
"""

import copy
from typing import Any

import anthropic
import pytest
from tests.gateway_clients.running import RunningGateway

MODEL = "claude-opus-5-5"
WORKSPACE = "wrkspc_011CZkZaBF1tNoB5wlCeusgy"
HELLO = [{"role": "user", "content": "Hello, world"}]
CACHED = {"type": "ephemeral", "ttl": "5m"}
CITATION = {
    "cited_text": "The grass is green. The sky is blue.",
    "document_index": 0,
    "document_title": "x",
    "end_char_index": 0,
    "start_char_index": 0,
    "type": "char_location",
}
TOOL = {
    "input_schema": {
        "type": "object",
        "properties": {"location": "bar", "unit": "bar"},
        "required": ["location"],
    },
    "name": "name",
    "allowed_callers": ["direct"],
    "cache_control": CACHED,
    "defer_loading": True,
    "description": "Get the current weather in a given location",
    "eager_input_streaming": True,
    "input_examples": [{"foo": "bar"}],
    "strict": True,
    "type": "custom",
}
COUNTED: dict[str, Any] = {
    "messages": HELLO,
    "model": MODEL,
    "cache_control": CACHED,
    "output_config": {"effort": "low", "format": {"schema": {"foo": "bar"}, "type": "json_schema"}},
    "speed": "standard",
    "system": [
        {"text": "Today's date is 2024-06-01.", "type": "text", "cache_control": CACHED, "citations": [CITATION]}
    ],
    "thinking": {"type": "adaptive", "display": "summarized"},
    "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
    "tools": [TOOL],
    "user_profile_id": "anthropic-user-profile-id",
    "workspace_id": WORKSPACE,
}
"""Every parameter of `messages.count_tokens`."""
CREATED: dict[str, Any] = {
    **COUNTED,
    "max_tokens": 1_024,
    "container": {"id": "id", "skills": [{"skill_id": "pdf", "type": "anthropic", "version": "latest"}]},
    "diagnostics": {"previous_message_id": "previous_message_id"},
    "inference_geo": "inference_geo",
    "metadata": {"user_id": "13803d75-b4b5-4c3e-b2a2-6f21399b021b"},
    "service_tier": "auto",
    "stop_sequences": ["string"],
}
"""Every parameter of `messages.create`, but for `stream`."""
EDIT = {
    "type": "clear_tool_uses_20250919",
    "clear_at_least": {"type": "input_tokens", "value": 0},
    "clear_tool_inputs": True,
    "exclude_tools": ["string"],
    "keep": {"type": "tool_uses", "value": 0},
    "trigger": {"type": "input_tokens", "value": 1},
}
SERVER = {
    "name": "name",
    "type": "url",
    "url": "url",
    "authorization_token": "authorization_token",
    "tool_configuration": {"allowed_tools": ["string"], "enabled": True},
}
BETA: dict[str, Any] = {
    "context_management": {"edits": [EDIT]},
    "mcp_servers": [SERVER],
    "output_config": {
        **COUNTED["output_config"],
        "task_budget": {"total": 1_024, "type": "tokens", "remaining": 0},
    },
    "thinking": {
        "type": "adaptive",
        "block_binding": {"prefix_mismatch_behavior": "error"},
        "display": "summarized",
    },
    "betas": ["computer-use-2024-10-22"],
    "extra_query": {"beta": "true"},
}
BETA_COUNTED = {**COUNTED, **BETA}
BETA_CREATED: dict[str, Any] = {
    **CREATED,
    **BETA,
    "billing_policy": {"type": "billing_policy", "bill_to": "self"},
    "compaction": {"type": "summarize", "instructions": "instructions"},
    "fallback_credit_token": "x",
    "fallbacks": "default",
    "thread": {"type": "create"},
}
FEWEST: dict[str, Any] = {"max_tokens": 1_024, "messages": HELLO, "model": MODEL}
FEWEST_BETA: dict[str, Any] = {**FEWEST, "extra_query": {"beta": "true"}}
REFUSED = {"fallback_credit_token": "it holds for five minutes on one platform"}
"""Parameters that a queue cannot send on, with the words of their refusal."""


def without(request: dict[str, Any], *names: str) -> dict[str, Any]:
    return copy.deepcopy({name: value for name, value in request.items() if name not in names})


@pytest.mark.parametrize("request_", [FEWEST, CREATED], ids=["fewest", "all"])
def test_messages_are_created(gateway: RunningGateway, request_: dict[str, Any]) -> None:
    with gateway.client() as client:
        assert isinstance(client.messages.create(**request_), anthropic.types.Message)
        with client.messages.create(**request_, stream=True) as stream:
            assert [event.type for event in stream][-1] == "message_stop"


@pytest.mark.parametrize("request_", [FEWEST_BETA, without(BETA_CREATED, *REFUSED)], ids=["fewest", "all"])
def test_beta_messages_are_created(gateway: RunningGateway, request_: dict[str, Any]) -> None:
    with gateway.client() as client:
        assert isinstance(client.beta.messages.create(**request_), anthropic.types.beta.BetaMessage)
        with client.beta.messages.create(**request_, stream=True) as stream:
            assert [event.type for event in stream][-1] == "message_stop"


@pytest.mark.parametrize("field", REFUSED)
def test_what_a_queue_cannot_send_on_is_refused_by_name(gateway: RunningGateway, field: str) -> None:
    with gateway.client() as client, pytest.raises(anthropic.BadRequestError) as error:
        client.beta.messages.create(**BETA_CREATED)
    assert field in error.value.message
    assert REFUSED[field] in error.value.message


@pytest.mark.parametrize("request_", [{"messages": HELLO, "model": MODEL}, COUNTED], ids=["fewest", "all"])
def test_tokens_are_counted(gateway: RunningGateway, request_: dict[str, Any]) -> None:
    with gateway.client() as client:
        found = client.messages.count_tokens(**request_)
    assert isinstance(found, anthropic.types.MessageTokensCount)


def test_tokens_of_beta_messages_are_counted(gateway: RunningGateway) -> None:
    with gateway.client() as client:
        found = client.beta.messages.count_tokens(**BETA_COUNTED)
    assert isinstance(found, anthropic.types.beta.BetaMessageTokensCount)


def test_models_are_retrieved_and_listed(gateway: RunningGateway) -> None:
    beta: dict[str, Any] = {
        "betas": ["computer-use-2024-10-22"],
        "workspace_id": WORKSPACE,
        "extra_query": {"beta": "true"},
    }
    with gateway.client() as client:
        found = client.models.retrieve(MODEL, workspace_id=WORKSPACE)
        beta_found = client.beta.models.retrieve(MODEL, **beta)
        first = client.beta.models.list(limit=1, lifecycle=["active"], **beta)
        second = client.models.list(after_id=first.data[0].id, lifecycle=["active"], limit=1, workspace_id=WORKSPACE)
        deprecated = list(client.models.list(lifecycle=["deprecated"]))
        both = list(client.models.list(lifecycle=["deprecated", "active"]))
    assert isinstance(found, anthropic.types.ModelInfo)
    assert isinstance(beta_found, anthropic.types.beta.BetaModelInfo)
    assert second.data[0].id != first.data[0].id
    assert {model.lifecycle for model in deprecated} <= {"deprecated"}
    assert {found.id, *(model.id for model in deprecated)} <= {model.id for model in both}
