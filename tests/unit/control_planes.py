"""The providers' control planes on loopback, for the tests of the check: one small server that answers all three.

What an account has is a plain `Account`; a test changes it and looks at `asked`. The shapes are those of botocore's
service models, of Google's REST interfaces and of the Anthropic API.
"""

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from trivet.live_check.report import Finding, Level, RouteReport

AWS_ACCOUNT = "123456789012"
HAIKU = "anthropic.claude-haiku-4-5-20251001-v1:0"
HAIKU_QUOTA = "Anthropic Claude Haiku 4.5"


@dataclass
class Account:
    """Contents and answers of the fake accounts."""

    refuse: dict[str, tuple[int, Any]] = field(default_factory=dict)
    """By a part of the path (or of X-Amz-Target): the status and body to answer with instead."""
    foundation: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Further keys of Bedrock's model summaries, by model id."""
    profiles: dict[str, list[str]] = field(default_factory=dict)
    """Inference profiles by id, with the ARNs of their models."""
    availability: dict[str, dict[str, Any]] = field(default_factory=dict)
    quotas: dict[str, float] = field(default_factory=dict)
    """Service quotas by name."""
    default_quotas: dict[str, float] = field(default_factory=dict)
    quota_account: str = AWS_ACCOUNT
    garden: set[str] = field(default_factory=set)
    """Model Garden's names."""
    enabled: set[str] = field(default_factory=set)
    """Names that the project sees."""
    google_quotas: list[dict[str, Any]] = field(default_factory=list)
    anthropic_models: list[str] = field(default_factory=list)
    model_infos: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Further keys of what the Anthropic API lists, by model."""
    rate_limits: list[dict[str, Any]] = field(default_factory=list)
    """Entries that its Admin API lists."""
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    """Headers of a message's answer, by model."""
    page_size: int = 2
    """Lists come in pages of so many, so that paging is tried, too."""
    hang: str = ""
    """A part of a path that is not answered until the server stops."""
    asked: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    """Method, path with query, headers in lower case, body."""

    def calls(self, part: str) -> list[tuple[str, str, dict[str, str], bytes]]:
        """The requests whose path or target has this in it."""
        return [call for call in self.asked if part in call[1] or part in call[2].get("x-amz-target", "")]


@contextmanager
def planes(account: Account, tls: Path | None = None) -> Iterator[str]:
    """Serve the account; yields the base URL. `tls`: a PEM of certificate and key."""
    released = threading.Event()

    class Handler(_Handler):
        of = account
        stop = released

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    finally:
        released.set()
        server.shutdown()
        server.server_close()
        thread.join()


def certificate(folder: Path) -> Path:
    """A certificate for 127.0.0.1 with its key, signed by itself, in one PEM."""
    import ipaddress

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "loopback.pem"
    path.write_bytes(_pem(key) + made.public_bytes(serialization.Encoding.PEM))
    return path


def service_account(folder: Path, url: str) -> Path:
    """A service account file whose tokens come from the fake."""
    path = folder / "service-account.json"
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    path.write_text(
        json.dumps(
            {
                "type": "service_account",
                "project_id": "its-own-project",
                "private_key_id": "1",
                "private_key": _pem(key).decode(),
                "client_email": "trivet@its-own-project.iam.gserviceaccount.com",
                "token_uri": f"{url}/token",
            }
        )
    )
    return path


def errors(report: RouteReport) -> list[Finding]:
    """Return the findings that are errors."""
    return [finding for finding in report.findings if finding.level is Level.ERROR]


def _pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    of: Account
    stop: threading.Event

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.of.asked.append((self.command, self.path, headers, body))
        target = headers.get("x-amz-target", "")
        if self.of.hang and self.of.hang in self.path:
            self.stop.wait(60)
            self.close_connection = True
            return
        for part, (status, answer) in self.of.refuse.items():
            if part in self.path or (target and part in target):
                self._send(status, answer)
                return
        split = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(split.query).items()}
        self._send(*_route(self.of, unquote(split.path), query, target, json.loads(body) if body[:1] == b"{" else {}))

    def _send(self, status: int, answer: Any, headers: dict[str, str] | None = None) -> None:
        sent = json.dumps(answer).encode()
        self.send_response(status)
        code = answer.get("__type") if isinstance(answer, dict) else None
        for name, value in {**(headers or {}), **({"x-amzn-ErrorType": code} if code else {})}.items():
            self.send_header(name, value)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)
        self.wfile.flush()


def _route(of: Account, path: str, query: dict[str, str], target: str, body: dict[str, Any]) -> Any:
    if target:
        listed = of.quotas if target.endswith("ListServiceQuotas") else of.default_quotas
        arn = f"arn:aws:servicequotas:us-east-1:{of.quota_account}:bedrock/L-1"
        entries = [{"QuotaName": name, "Value": value, "QuotaArn": arn} for name, value in listed.items()]
        shown, next_page = _page(of, entries, body.get("NextToken"))
        return 200, {"Quotas": shown, **({"NextToken": next_page} if next_page else {})}
    if path == "/token":
        return 200, {"access_token": "ya29.of-the-fake", "expires_in": 3600, "token_type": "Bearer"}
    if path == "/foundation-models":
        return 200, {"modelSummaries": [_summary(name, more) for name, more in of.foundation.items()]}
    if path == "/inference-profiles":
        system = query.get("type") == "SYSTEM_DEFINED"
        found = [_profile(n, arns) for n, arns in of.profiles.items() if system is not n.startswith("my-")]
        shown, next_page = _page(of, found, query.get("nextToken"))
        return 200, {"inferenceProfileSummaries": shown, **({"nextToken": next_page} if next_page else {})}
    if path.startswith("/foundation-model-availability/"):
        model = path.rpartition("/")[2]
        usual = {"authorizationStatus": "AUTHORIZED", "entitlementAvailability": "AVAILABLE"}
        agreement = {"agreementAvailability": {"status": "AVAILABLE"}, "regionAvailability": "AVAILABLE"}
        return 200, {"modelId": model, **usual, **agreement, **of.availability.get(model, {})}
    if path.startswith("/v1/publishers/anthropic/models/"):
        name = path.rpartition("/")[2]
        return (200, {"name": path[4:]}) if name in of.garden else _google(404, f"{name} was not found.")
    if path.endswith(":countTokens"):
        name = path.rpartition("/")[2].removesuffix(":countTokens")
        if name in of.enabled:
            return _google(400, "The model does not count tokens this way.")
        return _google(404, f"Publisher Model {name} was not found or your project does not have access to it.")
    if path.endswith("/quotaInfos"):
        shown, next_page = _page(of, of.google_quotas, query.get("pageToken"))
        return 200, {"quotaInfos": shown, **({"nextPageToken": next_page} if next_page else {})}
    if path == "/v1/models":
        data = [
            {"type": "model", "id": name, "display_name": name, "created_at": "2026-01-01T00:00:00Z",
             **of.model_infos.get(name, {})}
            for name in of.anthropic_models
        ]  # fmt: skip
        return 200, {"data": data, "has_more": False, "first_id": None, "last_id": None}
    if path == "/v1/organizations/rate_limits":
        shown, next_page = _page(of, of.rate_limits, query.get("page"))
        return 200, {"data": shown, "next_page": next_page or None}
    if path == "/v1beta1/publishers/anthropic/models":
        shown, next_page = _page(of, sorted(of.garden), query.get("pageToken"))
        models = [{"name": f"publishers/anthropic/models/{name}"} for name in shown]
        return 200, {"publisherModels": models, **({"nextPageToken": next_page} if next_page else {})}
    if path == "/v1/messages":
        message = {
            "id": "msg_1", "type": "message", "role": "assistant", "model": body["model"], "stop_reason": "max_tokens",
            "content": [{"type": "text", "text": "."}], "usage": {"input_tokens": 8, "output_tokens": 1},
        }  # fmt: skip
        return 200, message, of.headers.get(body["model"], {})
    return 404, {"message": f"the fake has no {path}"}


def _page(of: Account, entries: list[Any], token: str | None) -> tuple[list[Any], str]:
    start = int(token or 0)
    end = start + of.page_size
    return entries[start:end], str(end) if end < len(entries) else ""


def _summary(name: str, more: dict[str, Any]) -> dict[str, Any]:
    usual = {"inferenceTypesSupported": ["INFERENCE_PROFILE"], "modelLifecycle": {"status": "ACTIVE"}}
    arn = f"arn:aws:bedrock:us-east-1::foundation-model/{name}"
    return {"modelId": name, "modelArn": arn, "providerName": "Anthropic", **usual, **more}


def _profile(name: str, models: list[str]) -> dict[str, Any]:
    own = name.startswith("my-")
    kind = "application-inference-profile" if own else "inference-profile"
    return {
        "inferenceProfileId": name, "inferenceProfileName": name, "status": "ACTIVE",
        "type": "APPLICATION" if own else "SYSTEM_DEFINED",
        "inferenceProfileArn": f"arn:aws:bedrock:us-east-1:{AWS_ACCOUNT}:{kind}/{name}",
        "models": [{"modelArn": arn} for arn in models],
    }  # fmt: skip


def _google(code: int, message: str) -> tuple[int, dict[str, Any]]:
    status = {400: "FAILED_PRECONDITION", 404: "NOT_FOUND"}[code]
    return code, {"error": {"code": code, "message": message, "status": status}}
