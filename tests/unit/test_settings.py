"""Settings: file, variables, defaults, and the messages on mistakes."""

import json
import os
from decimal import Decimal
from pathlib import Path

import pytest

from trivet.config.effective import effective, effective_toml
from trivet_routing.permits import Quota
from trivet_tasks.config.celery_apps import broker_url_of
from trivet_tasks.config.route_settings import OPERATIONAL, OWN, PLACE, LimitGroup, RouteCosts, RouteSettings
from trivet_tasks.config.settings import Settings, load_settings
from trivet_tasks.errors import ConfigError
from trivet_tasks.latency import DEFAULTS, Latency


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, without any variable of ours."""
    for name in list(os.environ):
        if name.startswith("TRIVET_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, words: str) -> Path:
    path = folder / "trivet.toml"
    path.write_text(words, encoding="utf-8")
    return path


def refused(named: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(named)
    return str(caught.value)


# defaults and where they come from


def test_nothing_set_is_sqlite_and_the_embedded_broker_beside_us(folder: Path) -> None:
    settings = load_settings()
    assert settings.source == "the built-in defaults"
    assert settings.store_url == f"sqlite:///{folder}/.trivet/trivet.db"
    assert settings.embedded
    assert settings.broker_url.startswith("redis+socket:///")
    assert settings.redis_url.startswith("unix:///")
    assert settings.routes == {}, "no route is ever assumed"
    assert settings.classes == DEFAULTS
    assert settings.data_dir == folder / ".trivet"


def test_the_file_in_the_working_directory_is_read(folder: Path) -> None:
    path = write(folder, "[leases]\nttl_s = 7")
    settings = load_settings()
    assert (settings.leases.ttl_s, settings.source) == (7, str(path))
    assert settings.leases.heartbeat_s == 1, "what a section does not say keeps its default"


def test_the_file_named_by_the_variable_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, "[leases]\nttl_s = 7")
    (folder / "etc").mkdir()
    other = write(folder / "etc", "[leases]\nttl_s = 8")
    monkeypatch.setenv("TRIVET_CONFIG", str(other))
    assert load_settings().leases.ttl_s == 8
    assert load_settings(folder / "trivet.toml").leases.ttl_s == 7


def test_an_empty_file_is_the_defaults(folder: Path) -> None:
    write(folder, "")
    assert load_settings().classes == DEFAULTS


def test_variables_win_over_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, '[store]\nurl = "sqlite:///a.db"\n[leases]\nttl_s = 7\nheartbeat_s = 2')
    monkeypatch.setenv("TRIVET_STORE__URL", "postgresql://me@db/trivet")
    monkeypatch.setenv("TRIVET_LEASES__TTL_S", "9")
    settings = load_settings()
    assert settings.store_url == "postgresql+psycopg://me@db/trivet"
    assert (settings.leases.ttl_s, settings.leases.heartbeat_s) == (9, 2)


def test_a_variable_sets_one_key_of_a_route(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, '[routes.direct]\nprovider = "anthropic"\nmax_concurrency = 5')
    monkeypatch.setenv("TRIVET_ROUTES__DIRECT__MAX_CONCURRENCY", "9")
    route = load_settings().routes["direct"]
    assert (route.provider, route.max_concurrency) == ("anthropic", 9)


# latency classes


def test_a_class_set_in_part_keeps_its_other_defaults(folder: Path) -> None:
    write(folder, "[classes.batch]\nmax_rounds = 3")
    settings = load_settings()
    assert settings.of_class(Latency.BATCH) == DEFAULTS[Latency.BATCH].model_copy(update={"max_rounds": 3})
    assert settings.of_class(Latency.REALTIME) == DEFAULTS[Latency.REALTIME]


@pytest.mark.parametrize("words", ["", "[classes.batch]\nbudget_s = 20", "[classes.realtime]\nbudget_s = 2"])
def test_a_variable_sets_one_key_of_a_class(folder: Path, monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    write(folder, words)
    monkeypatch.setenv("TRIVET_CLASSES__BATCH__MAX_ROUNDS", "2")
    settings = load_settings()
    assert settings.of_class(Latency.BATCH).max_rounds == 2
    assert settings.of_class(Latency.BATCH).budget_s == (20 if "batch" in words else 30)
    assert set(settings.classes) == set(Latency)


def test_a_variable_sets_one_key_of_a_class_without_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIVET_CLASSES__ASYNC__BUDGET_S", "100")
    assert load_settings().of_class(Latency.ASYNC).budget_s == 100


# paths


def test_relative_paths_count_from_the_file(folder: Path) -> None:
    (folder / "etc").mkdir()
    path = write(
        folder / "etc",
        '[store]\nurl = "sqlite:///data/t.db"\n[routes.r]\nprovider = "anthropic"\napi_key = "file:keys/a"',
    )
    settings = load_settings(path)
    assert settings.store_url == f"sqlite:///{folder}/etc/data/t.db"
    assert settings.data_dir == folder / "etc" / ".trivet"
    key = settings.routes["r"].api_key
    assert key is not None
    assert (key.scheme, key.target) == ("file", f"{folder}/etc/keys/a")
    relative = load_settings(Path("etc/trivet.toml"))
    assert relative.store_url == settings.store_url


def test_absolute_paths_stay(folder: Path) -> None:
    write(folder, '[store]\nurl = "sqlite:////data/t.db"')
    assert load_settings().store_url == "sqlite:////data/t.db"


# secrets


def test_secrets_are_in_no_repr(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(
        folder,
        '[store]\nurl = "postgresql://me:s3cret1@db/x"\n[broker]\nurl = "redis://:s3cret2@mq/0"\n'
        '[redis]\nurl = "redis://:s3cret3@mq/1"\n[routes.r]\nprovider = "anthropic"\napi_key = "env:THE_KEY"',
    )
    monkeypatch.setenv("THE_KEY", "s3cret4")
    settings = load_settings()
    for shown in (repr(settings), str(settings), repr(settings.store), repr(settings.broker), f"{settings.redis}"):
        assert "s3cret" not in shown
    assert settings.redis_url == "redis://:s3cret3@mq/1"
    assert "s3cret" not in json.dumps([settings.routes["r"].place(), settings.routes["r"].operational()])


@pytest.mark.parametrize("key", ["sk-ant-s3cret", "s3cret", "vault:s3cret", "env:", "file:"])
def test_a_secret_in_place_of_a_reference_is_refused_without_repeating_it(folder: Path, key: str) -> None:
    write(folder, f'[routes.r]\nprovider = "anthropic"\napi_key = "{key}"')
    said = refused()
    assert "[routes.r] api_key" in said
    assert "env:NAME" in said
    assert "s3cret" not in said


# limits shared by several models

GROUPS = """
[routes.r]
provider = "bedrock"
requests_per_minute = 60
input_tokens_per_minute = 1_000
max_concurrency = 50
output_token_factor = 5

[[routes.r.limits]]
models = ["claude-haiku-*", "claude-3-*"]
requests_per_minute = 600
max_concurrency = 5

[[routes.r.limits]]
models = ["claude-haiku-4-5", "*opus*"]
output_tokens_per_minute = 7
"""


@pytest.mark.parametrize(
    ("model", "group"),
    [
        ("claude-haiku-4-5", "claude-haiku-*+claude-3-*"),
        ("claude-3-opus", "claude-haiku-*+claude-3-*"),
        ("claude-opus-4-5", "claude-haiku-4-5+*opus*"),
        ("claude-sonnet-5-5", None),
        ("Claude-haiku-4-5", None),
    ],
)
def test_the_first_group_whose_globs_fit_a_model_counts(folder: Path, model: str, group: str | None) -> None:
    write(folder, GROUPS)
    found = load_settings().routes["r"].group_of(model)
    assert (found.name if found else None) == group


def test_a_group_has_its_own_figures_and_no_other_limit(folder: Path) -> None:
    write(folder, GROUPS)
    route = load_settings().routes["r"]
    assert Quota.of(route, "claude-haiku-4-5") == Quota("claude-haiku-*+claude-3-*", 600, 0, 0, 5, 5)
    assert Quota.of(route, "claude-opus-4-5") == Quota("claude-haiku-4-5+*opus*", 0, 0, 7, 5, 50)
    assert Quota.of(route, "claude-sonnet-5-5") == Quota("claude-sonnet-5-5", 60, 1000, 0, 5, 50), "for itself"


def test_groups_of_many_models_have_short_names_of_their_own() -> None:
    many = [f"claude-haiku-{n}-20260101-*" for n in range(40)]
    one, other = LimitGroup(models=tuple(many)), LimitGroup(models=(*many[:-1], "claude-opus-*"))
    assert one.name != other.name
    assert one.name == LimitGroup(models=tuple(many)).name
    for group in (one, other):
        assert len(group.name) <= 120, "the tables hold no longer ones"
        assert group.name.startswith("claude-haiku-0-20260101-*+claude-haiku-1-20260101-*")


def test_two_groups_of_the_same_models_are_refused(folder: Path) -> None:
    group = "[[routes.r.limits]]\nmodels = ['a*', 'b']\n"
    path = write(folder, f"[routes.r]\nprovider = 'bedrock'\n{group}requests_per_minute = 1\n{group}")
    said = refused()
    assert said.startswith(f"{path}: ")
    assert "[routes] r: two tables of limits name the same models: a*+b" in said


@pytest.mark.parametrize(
    ("words", "place", "says"),
    [
        ("models = ['a']\nmax_concurency = 3", "[routes.r.limits.0] max_concurency", "max_concurrency"),
        ("models = ['a']\nweigth = 3", "[routes.r.limits.0] weigth", "unknown key."),
        ("modles = ['a']", "[routes.r.limits.0] modles", "Did you mean models?"),
        ("models = []", "[routes.r.limits.0] models", "at least 1"),
        ("models = 'a'", "[routes.r.limits.0] models", "tuple"),
        ("requests_per_minute = 3", "[routes.r.limits.0] models", "required"),
        ("models = ['a']\nrequests_per_minute = 0", "[routes.r.limits.0] requests_per_minute", "greater than"),
        ("models = ['a']\nmax_concurrency = 0", "[routes.r.limits.0] max_concurrency", "greater than"),
    ],
)
def test_a_mistake_in_a_group_names_its_key(folder: Path, words: str, place: str, says: str) -> None:
    path = write(folder, f"[routes.r]\nprovider = 'bedrock'\n[[routes.r.limits]]\n{words}")
    (line,) = (line for line in refused().splitlines() if f"{place}: " in line)
    assert line.startswith(f"{path}: ")
    assert says in line


def test_an_unknown_key_of_a_group_is_compared_with_those_of_groups(folder: Path) -> None:
    write(folder, "[routes.r]\nprovider = 'bedrock'\n[[routes.r.limits]]\nmodels = ['a']\nregoin = 'x'")
    assert refused().endswith("[routes.r.limits.0] regoin: unknown key."), "a group has no region"


# hidden costs

COSTS = "[routes.r]\nprovider = 'anthropic'\n[routes.r.costs]\n"


def test_costs_are_exact_however_they_are_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, COSTS + "per_request_usd = 0.0000002\nper_gb_out_usd = '0.10'\nper_month_usd = 1_200")
    monkeypatch.setenv("TRIVET_ROUTES__OTHER__PROVIDER", "anthropic")
    monkeypatch.setenv("TRIVET_ROUTES__OTHER__COSTS__PER_REQUEST_USD", "0.1")
    routes = load_settings().routes
    assert routes["r"].costs == RouteCosts(
        per_request_usd=Decimal("0.0000002"), per_gb_out_usd=Decimal("0.1"), per_month_usd=Decimal(1200)
    )
    assert routes["other"].costs == RouteCosts(per_request_usd=Decimal("0.1"))


def test_costs_are_operational_and_no_part_of_a_place(folder: Path) -> None:
    write(folder, COSTS + "per_request_usd = 0.0000002\nper_gb_out_usd = '0.10'")
    with_costs = load_settings().routes["r"]
    write(folder, COSTS)
    plain = load_settings().routes["r"]
    assert plain.place_digest == with_costs.place_digest
    assert plain.operational_digest != with_costs.operational_digest


def test_every_field_of_a_route_is_in_exactly_one_group() -> None:
    groups = (OPERATIONAL, PLACE, OWN)
    assert sorted(name for group in groups for name in group) == sorted(RouteSettings.model_fields)


def test_digests_tell_definitions_apart_however_they_were_written() -> None:
    one = RouteSettings.model_validate({"provider": "bedrock", "models": {"a": "x", "b": "y"}, "max_concurrency": 200})
    same = RouteSettings.model_validate({"models": {"b": "y", "a": "x"}, "provider": "bedrock", "stream": True})
    assert (one.place_digest, one.operational_digest) == (same.place_digest, same.operational_digest)
    for field, value in (("region", "us-east-1"), ("residency", ["us"]), ("base_url", "https://here")):
        other = RouteSettings.model_validate({**one.model_dump(exclude={"api_key"}), field: value})
        assert (other.place_digest != one.place_digest, other.operational_digest) == (True, one.operational_digest)
    more = RouteSettings.model_validate({**one.model_dump(exclude={"api_key"}), "requests_per_minute": 5})
    assert (more.place_digest, more.operational_digest != one.operational_digest) == (one.place_digest, True)
    assert more.with_figures_of(one) == one


def test_reading_again_finds_the_same_file_and_names_the_tables_that_differ(folder: Path) -> None:
    path = folder / "other.toml"
    path.write_text('[worker]\nslots = 5\n[routes.r]\nprovider = "bedrock"\n', encoding="utf-8")
    first = load_settings(path)
    path.write_text('[worker]\nslots = 6\n[routes.r]\nprovider = "bedrock"\npriority = 2\n', encoding="utf-8")
    again = first.read_again()
    assert (again.source, again.routes["r"].priority) == (str(path), 2)
    assert first.sections_unlike(again) == ["worker"]
    path.write_text("[routes.r]\nregoin = 1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="regoin"):
        first.read_again()


@pytest.mark.parametrize(
    ("words", "place", "says"),
    [
        ("per_requests_usd = 1", "[routes.r.costs] per_requests_usd", "unknown key. Did you mean per_request_usd?"),
        ("regoin = 1", "[routes.r.costs] regoin", "unknown key."),
        ("per_month_usd = -1", "[routes.r.costs] per_month_usd", "greater than"),
        ("per_month_usd = nan", "[routes.r.costs] per_month_usd", "finite"),
        ("per_month_usd = true", "[routes.r.costs] per_month_usd", "decimal"),
        ("per_gb_out_usd = 0.12345678901234567", "[routes.r.costs] per_gb_out_usd", "15 digits"),
    ],
)
def test_a_mistake_in_costs_names_file_and_key(folder: Path, words: str, place: str, says: str) -> None:
    path = write(folder, COSTS + words)
    said = refused()
    assert said.startswith(f"{path}: {place}: ")
    assert says.lower() in said.lower()
    assert said.count("Did you mean") == says.count("Did you mean")


# health


def test_the_defaults_of_health() -> None:
    health = load_settings().health
    assert (health.open_after_failures, health.open_failed_share, health.window_s, health.min_calls) == (3, 0.5, 30, 10)
    assert (health.probe_interval_s, health.close_after_successes) == (15, 3)
    assert (health.recovery_shares, health.recovery_step_s) == ((0.10, 0.25, 0.50, 1.0), 20)
    assert (health.unusable_probe_max_s, health.limited_backoff_s) == (3600, 2)


@pytest.mark.parametrize("shares", ["[1.0]", "[1]", "[0.5, 1.0]", "[0.001, 0.01, 0.1, 0.999, 1.0]"])
def test_recovery_climbs_to_all_of_the_work(folder: Path, shares: str) -> None:
    write(folder, f"[health]\nrecovery_shares = {shares}")
    assert load_settings().health.recovery_shares == tuple(json.loads(shares))


@pytest.mark.parametrize(
    "shares",
    ["[]", "[0.5]", "[0.5, 0.25, 1.0]", "[0.5, 0.5, 1.0]", "[0.0, 1.0]", "[-0.1, 1.0]", "[0.5, 1.0, 2.0]",
     "[0.5, 1.5, 1.0]", "[nan, 1.0]", "[0.5, nan, 1.0]"],
)  # fmt: skip
def test_recovery_that_does_not_climb_to_the_whole_is_refused(folder: Path, shares: str) -> None:
    path = write(folder, f"[health]\nrecovery_shares = {shares}")
    said = refused()
    assert said.startswith(f"{path}: [health] recovery_shares: ")
    assert "must climb and end with 1.0, as in [0.10, 0.25, 0.50, 1.0]" in said


@pytest.mark.parametrize(("interval_s", "timeout_s"), [(0.2, 1), (5, 5), (15, 15), (120, 15)])
def test_a_probe_is_given_as_long_as_there_is_between_two(folder: Path, interval_s: float, timeout_s: float) -> None:
    write(folder, f"[health]\nprobe_interval_s = {interval_s}")
    assert load_settings().health.probe_timeout_s == timeout_s


@pytest.mark.parametrize(
    ("key", "value"),
    [("open_failed_share", "0"), ("open_failed_share", "1.1"), ("open_after_failures", "0"), ("window_s", "0"),
     ("probe_interval_s", "0"), ("probe_interval_s", "nan"), ("min_calls", "0"), ("recovery_step_s", "-1")],
)  # fmt: skip
def test_a_bad_value_of_health_is_named(folder: Path, key: str, value: str) -> None:
    write(folder, f"[health]\n{key} = {value}")
    assert f"[health] {key}: " in refused()


def test_a_share_of_hedges_is_a_share(folder: Path) -> None:
    assert {terms.hedge_share for terms in load_settings().classes.values()} == {0}, "nobody pays twice unasked"
    write(folder, "[classes.realtime]\nhedge_share = 0.05")
    assert load_settings().of_class(Latency.REALTIME).hedge_share == 0.05
    for value in ("1.5", "-0.1", "nan"):
        write(folder, f"[classes.realtime]\nhedge_share = {value}")
        assert "[classes.realtime] hedge_share: " in refused()


# mistakes


@pytest.mark.parametrize(
    ("words", "place", "near"),
    [
        ("[stor]\nurl = 'x'", "stor", "store"),
        ("[store]\nurll = 'x'", "[store] urll", "url"),
        ("[leases]\nttl = 3", "[leases] ttl", "ttl_s"),
        ("[routes.r]\nprovider = 'bedrock'\nregoin = 'x'", "[routes.r] regoin", "region"),
        ("[classes.batch]\nmax_round = 3", "[classes.batch] max_round", "max_rounds"),
    ],
)
def test_an_unknown_key_names_file_key_and_near_match(folder: Path, words: str, place: str, near: str) -> None:
    path = write(folder, words)
    said = refused()
    assert said.startswith(f"{path}: ")
    assert f"{place}: unknown key. Did you mean {near}?" in said


def test_a_key_like_no_other_is_unknown_without_a_guess(folder: Path) -> None:
    write(folder, "[store]\nzzz = 1")
    assert refused().endswith("[store] zzz: unknown key.")


def test_an_unknown_class_names_it(folder: Path) -> None:
    path = write(folder, "[classes.bacth]\nmax_rounds = 3")
    said = refused()
    assert str(path) in said
    assert "bacth" in said


def test_every_mistake_is_told(folder: Path) -> None:
    write(folder, "[leases]\nttl_s = -1\n[worker]\nslots = 'many'\n[store]\nurll = 'x'")
    lines = refused().splitlines()
    assert len(lines) == 3
    assert {
        part for line in lines for part in ("[leases] ttl_s", "[worker] slots", "[store] urll") if part in line
    } == {
        "[leases] ttl_s",
        "[worker] slots",
        "[store] urll",
    }


@pytest.mark.parametrize(
    "words",
    [
        "provider = 'openai'", "", "provider = 'bedrock'\nmax_concurrency = 0", "provider = 'bedrock'\nweight = -1",
        "provider = 'bedrock'\nrequests_per_minute = 0", "provider = 'bedrock'\npriority = 0",
        "provider = 'bedrock'\noutput_token_factor = 0.5", "provider = 'bedrock'\nmodels = 3",
        "provider = 'bedrock'\nlimits = [{ models = [] }]", "provider = 'bedrock'\nweight = nan",
        "provider = 'bedrock'\napi_key = 5",
    ],
)  # fmt: skip
def test_a_bad_route_names_itself(folder: Path, words: str) -> None:
    write(folder, f"[routes.r]\n{words}")
    assert "[routes.r" in refused()


def test_a_bad_variable_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIVET_LEASES__TTL_S", "soon")
    assert refused().startswith("the variable TRIVET_LEASES__TTL_S: [leases] ttl_s: ")
    monkeypatch.delenv("TRIVET_LEASES__TTL_S")
    monkeypatch.setenv("TRIVET_STORE__URLL", "x")
    said = refused()
    assert "TRIVET_STORE__URLL" in said
    assert "Did you mean url?" in said


@pytest.mark.parametrize(
    ("section", "url"),
    [
        ("store", "mysql://me:s3cret@db/x"),
        ("store", "oracle+oracledb://me:s3cret@db"),
        ("store", "trivet.db"),
        ("store", "sqlite://"),
        ("store", "sqlite:///"),
        ("store", "sqlite:///:memory:"),
        ("store", "sqlite:trivet.db"),
        ("broker", "sqs://me:s3cret@x"),
        ("broker", "localhost:6379"),
        ("redis", "amqp://me:s3cret@mq"),
        ("redis", "memcached://x"),
    ],
)
def test_a_url_of_a_kind_we_do_not_know_is_refused(folder: Path, section: str, url: str) -> None:
    path = write(folder, f'[{section}]\nurl = "{url}"')
    said = refused()
    assert said.startswith(f"{path}: [{section}] url: ")
    assert "s3cret" not in said


@pytest.mark.parametrize("scheme", ["redis", "rediss", "unix", "redis+socket", "amqp", "amqps"])
def test_every_broker_that_we_know_is_taken(folder: Path, scheme: str) -> None:
    write(folder, f'[broker]\nurl = "{scheme}://mq/0"\n[redis]\nurl = "redis://cache/0"')
    settings = load_settings()
    assert (settings.broker_url, settings.redis_url) == (f"{scheme}://mq/0", "redis://cache/0")
    assert not settings.embedded


def test_the_shared_state_is_the_broker_where_that_is_redis(folder: Path) -> None:
    write(folder, '[broker]\nurl = "redis://mq/3"')
    assert load_settings().redis_url == "redis://mq/3"
    write(folder, '[broker]\nurl = "redis+socket:///run/v.sock"')
    assert load_settings().redis_url == "unix:///run/v.sock"


@pytest.mark.parametrize("scheme", ["amqp", "amqps"])
def test_rabbitmq_needs_a_redis_beside_it(folder: Path, scheme: str) -> None:
    write(folder, f'[broker]\nurl = "{scheme}://me:s3cret@mq//"')
    said = refused()
    assert "[redis] url: is needed" in said
    assert "s3cret" not in said


def test_a_file_that_is_not_there_or_no_toml(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no such configuration file" in refused(folder / "other.toml")
    monkeypatch.setenv("TRIVET_CONFIG", str(folder / "gone.toml"))
    assert str(folder / "gone.toml") in refused()
    monkeypatch.delenv("TRIVET_CONFIG")
    path = write(folder, "[store\nurl = 1")
    said = refused()
    assert said.startswith(f"{path}: is not valid TOML")
    assert "line 1" in said
    path.write_bytes(b"# \xff\xfe")
    assert "is not UTF-8 text (byte 2)" in refused()
    assert "cannot be read" in refused(folder)


def test_settings_do_not_change(folder: Path) -> None:
    settings = load_settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.store = settings.store
    assert isinstance(settings, Settings)


# budgets

BUDGET = "[[budgets]]\nname = 'b'\nusd = 50\nper = 'day'\n"


def test_budgets_are_read_exactly(folder: Path) -> None:
    write(folder, BUDGET + "tag = 'team=search'\n[[budgets]]\nname = 'all'\nusd = 0.1\nper = 'month'\nwarn_at = 1")
    one, other = load_settings().budgets
    assert (one.usd, one.scope, one.label, one.warn_at) == (Decimal(50), "tag team=search", ("tag:team", "search"), 0.8)
    assert (other.usd, other.scope, other.label, other.warn_at) == (Decimal("0.1"), "all", None, 1)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (BUDGET + "tga = 'a=b'", "[budgets.0] tga: unknown key. Did you mean tag?"),
        (BUDGET + "tag = 'team'", "[budgets] 0: b: tag must be NAME=VALUE, as in team=search."),
        (BUDGET + "tag = 'a=b'\nbatch = 'x'", "[budgets] 0: b: tag and batch do not go together"),
        (BUDGET.replace("day", "total"), '[budgets] 0: b: per = "total" is for a batch'),
        (BUDGET.replace("day", "week"), "[budgets.0] per: input should be 'day', 'month' or 'total'."),
        (BUDGET.replace("50", "0"), "[budgets.0] usd: input should be greater than 0."),
        (BUDGET.replace("'b'", "'a b'"), "[budgets.0] name: "),
        (BUDGET + "warn_at = 80", "[budgets.0] warn_at: input should be less than or equal to 1."),
        (BUDGET + BUDGET, "[budgets.1] name: another budget is called 'b', too."),
        (
            f"{BUDGET}route = 'bedrok'\n[routes.bedrock]\nprovider = 'bedrock'",
            "[budgets.0] route: no route is called 'bedrok'. Did you mean bedrock?",
        ),
        ("[[budgets]]\nname = 'b'", "[budgets.0] usd: field required."),
    ],
)
def test_a_mistake_in_a_budget_names_file_and_key(folder: Path, words: str, says: str) -> None:
    path = write(folder, words)
    assert any(line.startswith(f"{path}: {says}") for line in refused().splitlines()), refused()


# Celery applications of the user


def test_the_broker_of_a_celery_application_may_be_a_reference_that_only_schedulers_resolve(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(
        folder, '[celery_apps.shop]\nbroker_url = "env:SHOP_BROKER"\n[celery_apps."my.app"]\nbroker_url = "file:url"\n'
    )
    settings = load_settings()
    (folder / "url").write_text("amqp://guest:hunter2@mq\n", encoding="utf-8")
    shop, other = settings.celery_apps["shop"], settings.celery_apps["my.app"]
    assert broker_url_of("my.app", other, folder) == "amqp://guest:hunter2@mq"
    with pytest.raises(ConfigError, match="SHOP_BROKER is empty or not set"):
        broker_url_of("shop", shop, folder)
    monkeypatch.setenv("SHOP_BROKER", "http://user:hunter2@shop")
    with pytest.raises(ConfigError) as caught:
        broker_url_of("shop", shop, folder)
    assert "[celery_apps.shop] broker_url: must begin with redis://" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_passwords_of_celery_applications_are_not_shown(folder: Path) -> None:
    write(
        folder,
        '[celery_apps.shop]\nbroker_url = "sentinel://:hunter2@a/0?master_name=m"\n'
        'broker_transport_options = { sentinel_kwargs = { password = "hunter2" } }\n',
    )
    settings = load_settings()
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in json.dumps(effective(settings))
    shown = effective_toml(settings)
    assert "hunter2" not in shown
    assert "sentinel://:***@a/0?master_name=m" in shown


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ('broker_url = "http://shop"', "[celery_apps.shop] broker_url: must begin with redis://"),
        ('broker_url = ""', "[celery_apps.shop] broker_url: "),
        ('broker_url = "env:"', "[celery_apps.shop] broker_url: must be a reference"),
        ('broker = "redis://shop"', "[celery_apps.shop] broker: unknown key. Did you mean broker_url?"),
    ],
)
def test_a_celery_application_that_cannot_be_reached_is_refused(folder: Path, table: str, words: str) -> None:
    write(folder, f"[celery_apps.shop]\n{table}\n")
    assert words in refused()
