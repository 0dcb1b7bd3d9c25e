"""Requests that a page in a browser must not make: rebound names and other sites."""

import pytest

from trivet_tasks.config.local_requests import RequestGuard, host_name, is_loopback

LOCAL = RequestGuard("127.0.0.1", ("flower.example.org",))


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:5555", "127.0.0.1", "localhost:80", "LocalHost:5555", "localhost.:5555", "trivet.localhost:1",
        "[::1]:5555", "127.9.9.9:5555", "flower.example.org", "FLOWER.example.org:8080", None,
    ],
)  # fmt: skip
def test_names_of_this_machine_and_configured_ones_are_served(host: str | None) -> None:
    assert LOCAL.refusal("GET", host, None) is None


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:5555", "localhost.evil.example", "127.0.0.1.evil.example:5555", "evil-localhost", "192.0.2.7:5555",
        "flower.example.org.evil.example", "example.org", "127.0.0.1:5555@evil.example", "[::1", "::1", "", ":5555",
        "localhost:port", "evil.example\r\nx: y", "[2001:db8::1]:5555",
    ],
)  # fmt: skip
def test_other_names_are_refused(host: str) -> None:
    assert "is not a name of this server" in (LOCAL.refusal("GET", host, None) or "")


def test_on_all_addresses_every_address_is_served_and_no_name() -> None:
    for address in ("0.0.0.0", "::", ""):
        guard = RequestGuard(address)
        assert guard.refusal("GET", "192.0.2.7:5555", None) is None
        assert guard.refusal("GET", "[2001:db8::1]:5555", None) is None
        assert guard.refusal("GET", "evil.example:5555", None)
    assert RequestGuard("192.0.2.7").refusal("GET", "192.0.2.7:80", None) is None
    assert RequestGuard("192.0.2.7").refusal("GET", "192.0.2.8:80", None)


@pytest.mark.parametrize(
    ("host", "origin", "served"),
    [
        ("127.0.0.1:5555", "http://127.0.0.1:5555", True),
        ("localhost:5555", "http://LOCALHOST:5555", True),
        ("flower.example.org", "https://flower.example.org", True),
        ("127.0.0.1:5555", "https://flower.example.org", True),  # behind a proxy that says its own Host
        ("127.0.0.1:5555", "http://127.0.0.1:8000", False),
        ("127.0.0.1:5555", "http://localhost:5555", False),
        ("127.0.0.1:5555", "https://evil.example", False),
        ("127.0.0.1:5555", "https://flower.example.org.evil.example", False),
        ("127.0.0.1:5555", "null", False),
        ("127.0.0.1:5555", "", False),
        ("127.0.0.1:5555", "file://", False),
        (None, "http://evil.example", False),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_only_pages_of_its_own_may_ask(method: str, host: str | None, origin: str, served: bool) -> None:
    said = LOCAL.refusal(method, host, origin)
    assert said is None if served else "is another site" in (said or "")


def test_another_site_may_link_here_and_not_post() -> None:
    host = "127.0.0.1:5555"
    assert LOCAL.refusal("GET", host, None, "cross-site") is None
    assert LOCAL.refusal("POST", host, None, "cross-site")
    assert LOCAL.refusal("POST", host, None, "same-site")
    assert LOCAL.refusal("POST", host, None, "none") is None
    assert LOCAL.refusal("POST", host, None, "same-origin") is None


def test_what_is_repeated_of_a_header_is_short_and_on_one_line() -> None:
    said = LOCAL.refusal("GET", "evil\r\n" + "x" * 10_000, None) or ""
    assert "\n" not in said
    assert len(said) < 200


def test_loopback() -> None:
    assert all(is_loopback(name) for name in ("127.0.0.1", "::1", "[::1]", "localhost", "a.localhost", "127.1.2.3"))
    assert not any(is_loopback(name) for name in ("", "0.0.0.0", "::", "192.0.2.7", "example.org", "localhost.evil"))


def test_host_names_of_a_configuration() -> None:
    assert [host_name(name) for name in ("Flower.Example.org", "flower", "[::1]", "192.0.2.7", "a_b")] == [
        "flower.example.org", "flower", "::1", "192.0.2.7", "a_b",
    ]  # fmt: skip
    for bad in ("https://flower.example.org", "flower:5555", "", "-a", "a b", "*"):
        with pytest.raises(ValueError, match="is not a host name"):
            host_name(bad)
