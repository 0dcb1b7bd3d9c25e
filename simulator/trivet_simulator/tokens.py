"""The credential endpoints: Google's OAuth2 token endpoint and AWS container credentials.

Google: service-account JWT grant (RFC 7523) and refresh-token grant. AWS: the answer of an ECS credentials endpoint, as
botocore's ContainerProvider reads it. Signatures are not checked; forms are. Each counts how often it was asked.
"""

from __future__ import annotations

import base64
import binascii
import time
from collections import Counter
from urllib.parse import parse_qs

import orjson

from trivet_simulator.http import Request, response

JWT_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
LIFETIME_S = 3600
_JSON = {"content-type": "application/json", "cache-control": "no-store"}


class Credentials:
    """Hands out tokens that look real and are good for nothing elsewhere."""

    def __init__(self, lifetime_s: int = LIFETIME_S) -> None:
        self.asked: Counter[str] = Counter()
        self._lifetime_s = lifetime_s

    def google(self, request: Request) -> bytes:
        """POST /token."""
        form = {name: values[-1] for name, values in parse_qs(request.body.decode("latin-1")).items()}
        grant = form.get("grant_type", "")
        if grant == JWT_GRANT:
            problem = _jwt_problem(form.get("assertion", ""))
        elif grant == "refresh_token":
            problem = None if form.get("refresh_token") else "Missing required parameter: refresh_token"
        else:
            return _oauth_error("unsupported_grant_type", f"Invalid grant_type: {grant[:80]}")
        if problem is not None:
            return _oauth_error("invalid_grant", problem)
        self.asked["google_token"] += 1
        body = {
            "access_token": f"ya29.simulated-{self.asked['google_token']}",
            "expires_in": self._lifetime_s - 1,
            "token_type": "Bearer",
        }
        return response(200, _JSON, orjson.dumps(body))

    def aws(self) -> bytes:
        """GET /credentials."""
        self.asked["aws_credentials"] += 1
        body = {
            "RoleArn": "arn:aws:iam::000000000000:role/simulated",
            "AccessKeyId": f"ASIASIMULATED{self.asked['aws_credentials']:07d}",
            "SecretAccessKey": "simulated-secret",
            "Token": "simulated-session-token",
            "Expiration": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + self._lifetime_s)),
        }
        return response(200, _JSON, orjson.dumps(body))


def _jwt_problem(assertion: str) -> str | None:
    parts = assertion.split(".")
    if len(parts) != 3:
        return "Invalid JWT: must have three parts"
    try:
        claims = orjson.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError):
        return "Invalid JWT: claims cannot be read"
    if not isinstance(claims, dict) or not claims.get("iss") or not claims.get("aud"):
        return "Invalid JWT: iss and aud are needed"
    expires = claims.get("exp")
    if not isinstance(expires, int | float) or expires < time.time():
        return "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe"
    return None


def _oauth_error(error: str, description: str) -> bytes:
    return response(400, _JSON, orjson.dumps({"error": error, "error_description": description}))
