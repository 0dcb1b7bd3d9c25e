"""Refusals that name a model, a feature or an account, as the clouds word them.

Bedrock's words are from its user guide's troubleshooting pages and public issue threads, Vertex's from the error
bodies that its users quote in public. Account, role and project are made up.
"""

from __future__ import annotations

from trivet_simulator.replies import Reply, Row

_RESOURCE = "arn:aws:bedrock:us-east-1::foundation-model/{model}"
_ROLE = "arn:aws:sts::000000000000:assumed-role/simulated/worker"
_PUBLISHER = "projects/simulated/locations/global/publishers/anthropic/models/{model}"
_BETA = (
    "Unexpected value(s) `simulated-2026-01-01` for the `anthropic-beta` header. Please consult our documentation at "
    "docs.claude.com or try again without the header."
)

ACCESS: dict[str, Row] = {
    "model_denied": Row(
        "access policy denies one model: IAM on Bedrock, no access on the others",
        Reply(403, "permission_error", "Your organization does not have access to the model {model}."),
        Reply(
            403,
            "AccessDeniedException",
            f"User: {_ROLE} is not authorized to perform: bedrock:InvokeModel on resource: {_RESOURCE} because no "
            "identity-based policy allows the bedrock:InvokeModel action",
        ),
        Reply(
            403,
            "PERMISSION_DENIED",
            f"Permission 'aiplatform.endpoints.predict' denied on resource '//aiplatform.googleapis.com/{_PUBLISHER}' "
            "(or it may not exist).",
        ),
    ),
    "data_sharing_off": Row(
        "Vertex: the model needs data sharing with its publisher",
        vertex=Reply(
            403,
            "PERMISSION_DENIED",
            "Access to this model requires data sharing to be enabled for publisher 'anthropic'. Enable it for the "
            "project and try again.",
        ),
    ),
    "publisher_model_not_allowed": Row(
        "Vertex: the project may not use the model, with HTTP status 400",
        vertex=Reply(
            400,
            "FAILED_PRECONDITION",
            f"Project `simulated` is not allowed to use Publisher Model `{_PUBLISHER}`",
        ),
    ),
    "data_retention_mode": Row(
        "Bedrock: the account's data retention mode rules the model out",
        bedrock=Reply(400, "ValidationException", "data retention mode 'default' is not available for this model"),
    ),
    "unsupported_country": Row(
        "Bedrock: the account calls from a country that is not served",
        bedrock=Reply(
            400,
            "ValidationException",
            "Access to Anthropic models is not allowed from unsupported countries, regions, or territories. Please "
            "refer to https://www.anthropic.com/supported-countries for more information on the countries and regions "
            "Anthropic currently supports.",
        ),
    ),
    "invalid_beta": Row(
        "the wire does not know a beta of the request",
        Reply(400, "invalid_request_error", _BETA),
        Reply(400, "ValidationException", "invalid beta flag"),
        Reply(400, "invalid_request_error", _BETA, passed_on=True),
    ),
    "use_case_form_missing": Row(
        "Bedrock: the form about the use case was not sent in",
        bedrock=Reply(
            404,
            "ResourceNotFoundException",
            "Model use case details have not been submitted for this account. Fill out the Anthropic use case details "
            "form before using the model.",
        ),
    ),
    "on_demand_unsupported": Row(
        "Bedrock: the bare model id needs an inference profile",
        bedrock=Reply(
            400,
            "ValidationException",
            "Invocation of model ID {model} with on-demand throughput isn\u2019t supported. Retry your request with the ID "
            "or ARN of an inference profile that contains this model.",
        ),
    ),
}
"""By name of the fault."""
