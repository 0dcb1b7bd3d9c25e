"""Refusals of AWS, in words for a person."""

from trivet.live_check.masking import Mask
from trivet.live_check.report import Finding, Level
from trivet.live_check.subject import Subject

_REFUSED = frozenset({"UnrecognizedClientException", "InvalidSignatureException", "ExpiredTokenException",
                      "InvalidClientTokenId", "SignatureDoesNotMatch", "ExpiredToken"})  # fmt: skip
_DENIED = frozenset({"AccessDeniedException", "AccessDenied", "UnauthorizedException"})


def denied(error: Exception) -> bool:
    """Return whether the identity is known and may not do this one thing."""
    return _code(error) in _DENIED


def failure(error: Exception, where: str, subject: Subject, mask: Mask, level: Level = Level.ERROR) -> Finding:
    """A call to AWS that failed, for a person."""
    from botocore.exceptions import NoCredentialsError

    code = _code(error)
    words = said(error, mask)
    if isinstance(error, NoCredentialsError):
        action = "Set api_key of the route, or give this process credentials of the AWS chain."
        return Finding(level, "No AWS credentials were found.", f"{subject.table} api_key", action)
    if code in _REFUSED:
        action = "Set a good key; temporary credentials run out."
        return Finding(level, f"AWS refused the credentials: {words}", where, action)
    if code in _DENIED:
        hint = (
            "A Bedrock API key may lack the right to list (bedrock:List*, bedrock:Get*) though it may call models. "
            if subject.route.api_key
            else ""
        )
        return Finding(level, f"AWS denied it: {words}", where, f"{hint}Allow the action to this identity.")
    return Finding(level, f"AWS did not answer: {words}", where, "Check region, network and proxy, then try again.")


def _code(error: Exception) -> str:
    from botocore.exceptions import ClientError

    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def said(error: Exception, mask: Mask) -> str:
    """AWS's code and words, masked; of an error of the network botocore's words."""
    from botocore.exceptions import ClientError

    if isinstance(error, ClientError):
        body = error.response.get("Error", {})
        return f"{body.get('Code', '')}: {mask.words(body.get('Message', '') or error)}".lstrip(": ")
    return mask.words(error)
