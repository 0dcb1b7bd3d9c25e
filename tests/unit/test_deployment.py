"""docker-compose.yml and Dockerfile, as far as they can be proven without a Docker engine."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"] == "trivet"}
PARTS = {("worker",), ("scheduler",), ("flower",), ("serve",), ("db", "upgrade")}


def test_every_service_of_ours_runs_a_part_of_trivet() -> None:
    commands = {name: service["command"] for name, service in OURS.items()}
    parts = {
        name: tuple(word for word in command[:2] if re.fullmatch(r"[a-z]+", word)) for name, command in commands.items()
    }
    assert set(parts.values()) == PARTS
    assert set(SERVICES) - set(OURS) == {"valkey", "postgres"}


def test_the_workers_serve_exactly_the_routes_of_the_mounted_configuration() -> None:
    mounted = {volume for service in OURS.values() for volume in service["volumes"]}
    assert mounted == {"./examples/trivet.toml:/srv/trivet/trivet.toml:ro"}
    with (REPOSITORY / "examples" / "trivet.toml").open("rb") as file:
        routes = tomllib.load(file)["routes"]
    served = [service["command"][2] for service in OURS.values() if service["command"][0] == "worker"]
    assert sorted(served) == sorted(routes)


@pytest.mark.parametrize("name", sorted(OURS))
def test_a_service_of_ours_is_told_where_everything_is(name: str) -> None:
    service = OURS[name]
    environment = service["environment"]
    assert environment["TRIVET_CONFIG"] == "/srv/trivet/trivet.toml"
    assert "@postgres:5432" in environment["TRIVET_STORE__URL"]
    assert "//valkey:6379" in environment["TRIVET_BROKER__URL"]
    assert set(service["depends_on"]) <= set(SERVICES)
    assert "postgres" in service["depends_on"]


@pytest.mark.parametrize("name", sorted(set(SERVICES) - {"migrate"}))
def test_a_lasting_service_is_checked_restarted_and_given_time(name: str) -> None:
    service = SERVICES[name]
    assert service["healthcheck"]["test"]
    assert service["restart"] == "unless-stopped"
    assert service["stop_grace_period"]
    if name in OURS:
        assert service["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}


def test_no_secret_stands_in_it_and_only_this_machine_reaches_it() -> None:
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            if re.search(r"KEY|TOKEN|SECRET|PASSWORD|AUTH|CREDENTIALS", variable):
                assert value is None or re.fullmatch(r"\$\{[A-Z_]+:\?[^}]*\}|env:[A-Z_]+", value), f"{name}: {variable}"
            elif isinstance(value, str):
                assert not re.search(r"://[^/@]*:[^/@]+@", value), f"{name}: a password in {variable}"
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name


def test_a_worker_gets_the_credentials_of_its_own_provider_alone() -> None:
    prefixes = {"worker-bedrock": "AWS_", "worker-vertex": "GOOGLE_", "worker-anthropic": "ANTHROPIC_"}
    for name, prefix in prefixes.items():
        given = {variable for variable, value in SERVICES[name]["environment"].items() if value is None}
        assert given
        assert all(variable.startswith(prefix) for variable in given)


def test_workers_and_the_gateway_alone_get_the_key_that_signs_answers() -> None:
    assert {name for name, service in OURS.items() if "TRIVET_KEY" in service["environment"]} == {
        name for name, service in OURS.items() if service["command"][0] in ("worker", "serve")
    }
    assert {service["environment"]["TRIVET_SECURITY__KEY"] for service in OURS.values()} == {"env:TRIVET_KEY"}


def test_the_image_is_built_from_what_is_there_and_does_not_run_as_root() -> None:
    lines = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8").splitlines()
    sources = [
        word for line in lines if line.startswith("COPY ") and "--from" not in line for word in line.split()[1:-1]
    ]
    assert "api" in sources
    assert [source for source in sources if not (REPOSITORY / source).exists()] == []
    kept = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {f"!{source}" for source in sources} <= set(kept)
    assert "*" in kept
    assert any(re.fullmatch(r"USER \d+", line) for line in lines)
    assert [line for line in lines if line.startswith("ENTRYPOINT")] == ['ENTRYPOINT ["trivet"]']
