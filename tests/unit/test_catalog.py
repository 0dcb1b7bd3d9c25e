"""The catalog: models, their names on each wire, and the regions where a call may go."""

import subprocess
import sys
from typing import get_args

import pytest
from anthropic.types.model import Model as SdkModel
from genai_prices.data_snapshot import get_snapshot

from trivet_tasks import catalog
from trivet_tasks.catalog import known, near_matches, wire_model


def listed(list_id: str, wire: str) -> bool:
    provider = next(provider for provider in get_snapshot().providers if provider.id == list_id)
    return provider.find_model(wire) is not None


def test_every_model_the_sdk_names_is_known() -> None:
    literal = next(arg for arg in get_args(SdkModel) if arg is not str)
    assert len(get_args(literal)) > 20
    assert [name for name in get_args(literal) if known(name) is None] == []


def test_a_dated_id_is_the_same_model_as_its_alias() -> None:
    model = known("claude-haiku-4-5-20251001")
    assert model is not None
    assert model is known("claude-haiku-4-5")
    assert (model.id, model.anthropic) == ("claude-haiku-4-5", "claude-haiku-4-5-20251001")


@pytest.mark.parametrize("name", ["", "claude", "gpt-5", "anthropic.claude-sonnet-5-5", "claude-sonnet-5-5@default"])
def test_other_names_are_not_known(name: str) -> None:
    assert known(name) is None


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("claude-sonet-5-5", "claude-sonnet-5-5"),
        ("claude-sonnet-5.5", "claude-sonnet-5-5"),
        ("Claude-Haiku-4-5", "claude-haiku-4-5"),
        ("haiku-5-5", "claude-haiku-5-5"),
        ("us.anthropic.claude-opus-4-6-v1:0", "claude-opus-4-6"),
        ("claude-opus-4-5@20251101", "claude-opus-4-5"),
    ],
)
def test_a_near_match_is_offered_first(typed: str, meant: str) -> None:
    assert near_matches(typed)[0] == meant
    assert len(near_matches(typed)) <= 3


def test_nothing_is_offered_for_a_name_unlike_any() -> None:
    assert near_matches("gemini-3-pro") == []


def test_names_are_unique() -> None:
    names = [name for model in catalog.MODELS for name in (model.id, *model.aliases)]
    assert len(names) == len(set(names))
    for wire in ("anthropic", "bedrock", "vertex"):
        ids = [served for model in catalog.MODELS if (served := getattr(model, wire)) is not None]
        assert len(ids) == len(set(ids))


ON_BEDROCK = [model for model in catalog.MODELS if model.bedrock is not None]
UNPRICED = ("claude-mythos-5", "claude-mythos-5-1", "claude-mythos-preview")
"""On Bedrock by invitation: LiteLLM lists them there, genai-prices has no price of AWS."""


def test_the_clouds_serve_what_the_price_lists_know_and_nothing_else() -> None:
    for model in catalog.MODELS:
        if model.id in UNPRICED:
            assert (model.bedrock is not None, model.vertex) == (True, None)
            continue
        on_aws = listed("aws", f"global.anthropic.{model.id}") or listed("aws", f"us.{model.bedrock}")
        assert (model.bedrock is not None) == on_aws, model.id
        # the exception is told in the catalog: Vertex serves Sonnet 5, whose price genai-prices takes from Anthropic
        on_google = listed("google", model.id) or model.id == "claude-sonnet-5"
        assert (model.vertex is not None) == on_google, model.id


def test_every_bedrock_profile_has_a_price() -> None:
    for model in ON_BEDROCK:
        assert model.bedrock_profiles, model.id
        if model.id in UNPRICED:
            continue
        for profile in model.bedrock_profiles:
            named = listed("aws", f"{profile}.{model.bedrock}")
            assert named or listed("aws", f"global.{model.bedrock}"), (
                profile,
                model.id,
            )  # or priced as global plus 10 %


def test_context_windows_are_those_of_the_price_list() -> None:
    provider = next(provider for provider in get_snapshot().providers if provider.id == "anthropic")
    compared = 0
    for model in catalog.MODELS:
        info = provider.find_model(model.id)
        if info is not None:
            assert model.context_window == info.context_window, model.id
            compared += 1
    assert compared >= 15


def test_figures_make_sense() -> None:
    for model in catalog.MODELS:
        assert 0 < model.max_output_tokens < model.context_window
        assert 20 <= model.output_tokens_per_s <= 200


@pytest.mark.parametrize(
    ("model", "region", "resident", "wire"),
    [
        ("claude-sonnet-5-5", "us-east-1", False, "global.anthropic.claude-sonnet-5-5"),
        ("claude-sonnet-5-5", "us-east-1", True, "us.anthropic.claude-sonnet-5-5"),
        ("claude-sonnet-5-5", "eu-central-1", True, "eu.anthropic.claude-sonnet-5-5"),
        ("claude-sonnet-5-5", "ap-northeast-1", True, "jp.anthropic.claude-sonnet-5-5"),
        ("claude-sonnet-5-5", "ap-southeast-2", True, "au.anthropic.claude-sonnet-5-5"),
        ("claude-sonnet-5-5", "ap-southeast-1", True, "apac.anthropic.claude-sonnet-5-5"),
        ("claude-sonnet-5-5", None, False, "global.anthropic.claude-sonnet-5-5"),
        ("claude-sonnet-5-5", "us-gov-west-1", False, "us-gov.anthropic.claude-sonnet-5-5"),
        ("claude-opus-5", "ap-south-1", True, "in.anthropic.claude-opus-5"),
        ("claude-opus-4-6", "eu-west-1", True, "eu.anthropic.claude-opus-4-6-v1"),
        ("claude-haiku-4-5-20251001", "us-west-2", False, "global.anthropic.claude-haiku-4-5-20251001-v1:0"),
        ("claude-opus-4-1", "us-west-2", False, "us.anthropic.claude-opus-4-1-20250805-v1:0"),  # no global profile
    ],
)
def test_bedrock_id(model: str, region: str | None, resident: bool, wire: str) -> None:
    assert wire_model(model, "bedrock", region, resident=resident) == wire


@pytest.mark.parametrize(
    ("model", "region", "resident"),
    [
        ("claude-sonnet-5-5", "ca-central-1", True),  # the us. profile would take it out of the country
        ("claude-sonnet-5-5", "eu-west-2", True),
        ("claude-sonnet-5-5", None, True),
        ("claude-opus-4-5", "ap-northeast-1", True),  # no jp. profile; apac. is wider
        ("claude-fable-5-2", "us-gov-west-1", False),
        ("claude-opus-4-1", "sa-east-1", False),
        ("claude-mythos-5", "eu-west-1", False),  # in the United States only
        ("claude-nonsense-9", "us-east-1", False),
    ],
)
def test_bedrock_does_not_serve_it_there(model: str, region: str | None, resident: bool) -> None:
    assert wire_model(model, "bedrock", region, resident=resident) is None


def test_a_resident_call_never_gets_a_profile_wider_than_its_region() -> None:
    homes = {"us": "us-", "eu": "eu-", "jp": "ap-northeast-", "au": "ap-southeast-", "in": "ap-south-", "apac": "ap-"}
    regions = [
        "us-east-1", "us-west-2", "ca-central-1", "eu-west-1", "eu-west-2", "eu-north-1", "sa-east-1",
        "ap-northeast-1", "ap-northeast-2", "ap-south-1", "ap-southeast-1", "ap-southeast-2",
        "me-central-1", "af-south-1", "il-central-1",
    ]  # fmt: skip
    served = 0
    for model in ON_BEDROCK:
        for region in regions:
            wire = wire_model(model.id, "bedrock", region, resident=True)
            if wire is not None:
                assert region.startswith(homes[wire.partition(".")[0]]), (wire, region)
                served += 1
    assert served > 50


def test_vertex_and_anthropic_ids() -> None:
    assert wire_model("claude-opus-4-5", "vertex", "us-east5") == "claude-opus-4-5@20251101"
    assert wire_model("claude-opus-5-5", "vertex", "global") == "claude-opus-5-5"
    assert wire_model("claude-mythos-5-2", "vertex", "global") is None
    assert wire_model("claude-sonnet-4-5", "anthropic") == "claude-sonnet-4-5-20250929"
    assert wire_model("claude-opus-4-1", "anthropic") is None  # retired there, alive on the clouds


def test_an_override_wins_whatever_it_says() -> None:
    arn = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc123"
    overrides = {"claude-haiku-4-5": arn, "claude-next": "claude-next-preview"}
    assert wire_model("claude-haiku-4-5", "bedrock", "us-east-1", overrides, resident=True) == arn
    assert wire_model("claude-haiku-4-5-20251001", "bedrock", "us-east-1", overrides) == arn
    assert wire_model("claude-next", "anthropic", None, overrides) == "claude-next-preview"
    assert wire_model("claude-haiku-5-5", "bedrock", "us-east-1", overrides) == "global.anthropic.claude-haiku-5-5"


def test_importing_catalog_and_prices_loads_neither_price_data_nor_an_sdk() -> None:
    code = (
        "import sys, trivet_tasks.catalog, trivet_tasks.prices.price_book; trivet_tasks.prices.price_book.PriceBook();"
        "print([name for name in ('genai_prices', 'anthropic', 'boto3', 'google.auth') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
