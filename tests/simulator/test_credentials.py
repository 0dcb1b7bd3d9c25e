"""The credential endpoints, asked by the real credential chains."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import botocore.session
import google.auth.exceptions
import google.auth.transport.requests
import pytest
import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.oauth2 import credentials as user_credentials
from google.oauth2 import service_account

from trivet_simulator import Control, Endpoints

SCOPE = "https://www.googleapis.com/auth/cloud-platform"


def _transport() -> tuple[requests.Session, google.auth.transport.requests.Request]:
    session = requests.Session()
    return session, google.auth.transport.requests.Request(session)


def test_service_account_gets_a_token(control: Control, endpoints: Endpoints) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    found = service_account.Credentials.from_service_account_info(
        {"client_email": "a@p.iam", "token_uri": endpoints.token_url, "private_key": key.decode()}, scopes=[SCOPE]
    )
    session, transport = _transport()
    with session:
        found.refresh(transport)
    assert found.valid
    assert control.counts()["credentials"] == {"google_token": 1}


def test_refresh_token_gets_a_token(control: Control, endpoints: Endpoints) -> None:
    found = user_credentials.Credentials(
        None, refresh_token="r", token_uri=endpoints.token_url, client_id="c", client_secret="s"
    )
    session, transport = _transport()
    with session:
        found.refresh(transport)
        first = found.token
        found.refresh(transport)
    assert found.valid
    assert found.token != first
    assert control.counts()["credentials"] == {"google_token": 2}


def test_wrong_grant_is_refused(control: Control, endpoints: Endpoints) -> None:
    found = user_credentials.Credentials(
        None, refresh_token="", token_uri=endpoints.token_url, client_id="c", client_secret="s"
    )
    session, transport = _transport()
    with session, pytest.raises(google.auth.exceptions.RefreshError):
        found.refresh(transport)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(endpoints.token_url, b"grant_type=password", timeout=10)
    with caught.value as answer:
        assert json.loads(answer.read())["error"] == "unsupported_grant_type"
    assert control.counts()["credentials"] == {}


def test_botocore_finds_container_credentials(
    control: Control, endpoints: Endpoints, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, f"{tmp_path}/none")
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", endpoints.credentials_url)
    found = botocore.session.Session().get_credentials()
    assert found.method == "container-role"
    assert found.get_frozen_credentials().access_key.startswith("ASIA")
    assert not found.refresh_needed()
    assert control.counts()["credentials"] == {"aws_credentials": 1}
