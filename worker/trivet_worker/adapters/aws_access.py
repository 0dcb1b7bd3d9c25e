"""Authentication of AWS routes: a bearer key, or signing (SigV4) with the credentials of the AWS chain."""

import os

import botocore.exceptions
import httpx2

from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.errors import ConfigError
from trivet_worker.adapters.aws_auth import NoAwsCredentials, SigV4, process_credentials
from trivet_worker.adapters.keys import RouteKey
from trivet_worker.adapters.wire import NotReady

SIGNED_BY_US = "signed-by-trivet"
"""Given to the SDK as a bearer key, so that it does not sign: our signature takes the key's place on the request."""

_SERVICES = {
    "invoke": "bedrock",
    "messages": "bedrock",
    "mantle": "bedrock-mantle",
    "platform": "aws-external-anthropic",
}
"""Service name that a signature is made for, by endpoint."""
_UNREACHABLE = (
    botocore.exceptions.ConnectionError,
    botocore.exceptions.HTTPClientError,
    botocore.exceptions.MetadataRetrievalError,
)


class AwsAccess:
    """One route's key or credentials, and its region."""

    def __init__(self, route: RouteSettings) -> None:
        self._route = route
        self._key = RouteKey(route.api_key) if route.api_key else None
        self._region = route.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        variable = "ANTHROPIC_AWS_API_KEY" if route.endpoint == "platform" else "AWS_BEARER_TOKEN_BEDROCK"
        self._of_environment = None if self._key else os.environ.get(variable) or None
        bearer = self._key is not None or self._of_environment is not None
        self._credentials = None if bearer else process_credentials()

    @property
    def region(self) -> str:
        """The AWS region. NotReady without one."""
        if not self._region:
            raise NotReady("no region: set region of the route, or AWS_REGION")
        return self._region

    @property
    def signed(self) -> bool:
        """Return whether calls go out with our signature rather than a bearer key."""
        return self._credentials is not None

    def signer(self) -> httpx2.Auth | None:
        """Return the signer of each request; None with a bearer key."""
        if self._credentials is None:
            return None
        return SigV4(self._credentials, self.region, _SERVICES[self._route.endpoint])

    async def key(self) -> str:
        """Return the key for the SDK, once there is one or credentials to sign with. NotReady where there is none."""
        if self._credentials is None:
            try:
                return self._key.current() if self._key else self._of_environment or ""
            except ConfigError as error:
                raise NotReady(str(error)) from None
        try:
            await self._credentials.ready()
        except NoAwsCredentials:
            raise NotReady(
                "no AWS credentials: set api_key of the route, or give the worker credentials of the AWS chain"
            ) from None
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
            raise NotReady(f"no AWS credentials: {error}", transient=isinstance(error, _UNREACHABLE)) from None
        return SIGNED_BY_US

    def refused(self) -> None:
        """Look for other credentials next time."""
        if self._key:
            self._key.forget()
        if self._credentials:
            self._credentials.forget()

    def secrets(self) -> tuple[str, ...]:
        """The secret key and session token that calls are signed with."""
        frozen = self._credentials.frozen if self._credentials else None
        return tuple(filter(None, (frozen.secret_key, frozen.token))) if frozen else ()
