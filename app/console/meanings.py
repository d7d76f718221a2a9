"""Meanings of failures in plain words: a title, an explanation, and the next step.

A code of the service has its own meaning. A code of the provider has the meaning that the service itself acts on:
`app/provider/error_table.py`.
"""

import re
from dataclasses import dataclass

from app.provider.error_table import Cause, Kind, Said, row_of


@dataclass(frozen=True, slots=True)
class Meaning:
    title: str
    happened: str
    next: str


INTERRUPTED = Meaning(
    "Interrupted",
    "The process that ran the turn ended, or the provider's stream broke off.",
    "Retry the turn. An incomplete turn keeps its output, and the thread can continue from it. If it repeats, look in "
    "the service's log for restarts.",
)
OUTPUT_LIMIT = Meaning(
    "Output limit reached",
    "The model used all its output tokens and stopped in the middle.",
    "Ask the model to continue, or raise max_output_tokens. Reasoning uses them too: lower reasoning.effort.",
)
INPUT_BLOCKED = Meaning(
    "Input blocked by the content filter",
    "The provider's content inspection refused something in the input or in the history.",
    "Change the message and send it again. If each message of the thread fails, fork it before the turn that is "
    "refused.",
)
OUTPUT_BLOCKED = Meaning(
    "Answer blocked by the content filter",
    "The provider's content inspection stopped the model's own answer.",
    "Retry, or rephrase the message. The output so far is kept.",
)
RATE_LIMITED = Meaning(
    "Rate limit reached",
    "The provider refused the calls because there were too many in a short time. Retries were refused too.",
    "Wait a minute and retry. If it repeats, spread the load over more accounts, or ask the provider for a higher "
    "limit.",
)
QUOTA = Meaning(
    "Quota used up",
    "The account's quota or budget at the provider is used up.",
    "Raise the quota or top the account up at the provider, or add another account to the project. A retry will not "
    "help.",
)
UNAVAILABLE = Meaning(
    "Provider unavailable",
    "The provider could not be reached, or answered with an internal error. Retries failed too.",
    "Retry in a minute. If it repeats, look at the provider's status page, or add an account in another region.",
)
TIMEOUT = Meaning(
    "Provider timeout",
    "The provider accepted the call and did not answer in time.",
    "Retry. For long answers, stream them or send background: true. EVERTHREAD_PROVIDER_TIMEOUT_SECONDS sets the "
    "limit.",
)
BROKEN = Meaning(
    "Answer broke off",
    "The provider's answer was cut off or cannot be read. The model may have been charged for.",
    "Retry the turn. If it repeats, look for a proxy between the service and the provider.",
)
TOO_LARGE = Meaning(
    "Answer too large",
    "The answer exceeds the size that the service accepts.",
    "Ask for less at a time, or raise EVERTHREAD_MAX_ANSWER_BYTES.",
)
ACCOUNT = Meaning(
    "Account refused",
    "The provider refused the account: its key, its permissions or its payment.",
    "Check the account's key, its access to the model and its balance in the settings. A retry will not help before "
    "that.",
)
REDIRECTED = Meaning(
    "Provider redirected the call",
    "The provider's address answered with a redirect, which is not followed.",
    "Correct the base URL of the account. That of the environment is DASHSCOPE_BASE_URL.",
)
TOO_LONG = Meaning(
    "Conversation too long",
    "The input has more tokens than the model accepts.",
    "Compact the thread, send truncation: auto, or choose a model with a larger window.",
)
UNKNOWN_MODEL = Meaning(
    "Unknown model",
    "The provider does not know the model, does not serve it here, or the account may not use it.",
    "Correct the model's name in the request, or define an alias for it in the project.",
)
RETIRED_MODEL = Meaning(
    "Retired model",
    "The provider has withdrawn the model.",
    "Send its successor, which the message names, or define an alias for it in the project.",
)
PARAMETER = Meaning(
    "Parameter refused",
    "The provider refused a parameter of the request: sampling, tools or format.",
    "Correct the parameter that the message names. A retry will not help.",
)
INVALID_INPUT = Meaning(
    "Invalid input",
    "The provider refused the input: an image or a file that it cannot read, or content in a wrong form.",
    "Look at the message and at what was sent, correct it and send it again.",
)
ENDPOINT = Meaning(
    "Endpoint refused",
    "The provider's address does not accept this kind of call.",
    "Check the base URL of the account.",
)
MODEL_FAILED = Meaning(
    "The model failed",
    "The provider accepted the call, and the model ended with an error.",
    "Retry. If it repeats for the same input, try another model.",
)
FORGOTTEN = Meaning(
    "Previous response unknown",
    "The provider does not know the response that the turn continues.",
    "Retry: the whole history is sent again.",
)
STOPPING = Meaning(
    "Service was stopped",
    "The service was stopped or restarted before the model had answered.",
    "Retry the turn.",
)
DATABASE = Meaning(
    "Database unavailable",
    "Postgres did not answer while the turn was opened or its history was read.",
    "Retry the turn. If it repeats, check the database.",
)
UNREADABLE = Meaning(
    "Stored content cannot be opened",
    "Something that is stored encrypted was changed, or its key is missing.",
    "Check the master key of the service. Fork the thread before the turn that cannot be opened.",
)
INTERNAL = Meaning(
    "Service failed",
    "The service itself failed on this turn.",
    "Retry. If it repeats, give the turn's id and the service's log to the operator of the service.",
)

OF_SERVICE: dict[str, Meaning] = {
    "interrupted": INTERRUPTED,
    "max_output_tokens": OUTPUT_LIMIT,
    "insufficient_quota": QUOTA,
    "provider_unreachable": UNAVAILABLE,
    "provider_timeout": TIMEOUT,
    "provider_answer_broken": BROKEN,
    "answer_too_large": TOO_LARGE,
    "provider_redirect": REDIRECTED,
    "context_length_exceeded": TOO_LONG,
    "model_not_found": UNKNOWN_MODEL,
    "model_unsupported": UNKNOWN_MODEL,
    "model_retired": RETIRED_MODEL,
    "refused_by_provider": INVALID_INPUT,
    "service_stopping": STOPPING,
    "database_unavailable": DATABASE,
    "content_unreadable": UNREADABLE,
    "internal_error": INTERNAL,
}

OF_KIND: dict[Kind, Meaning] = {
    Kind.UNKNOWN_PREVIOUS: FORGOTTEN,
    Kind.THROTTLED: RATE_LIMITED,
    Kind.UNAVAILABLE: UNAVAILABLE,
    Kind.BROKEN: BROKEN,
    Kind.TOO_LARGE: TOO_LARGE,
    Kind.TIMEOUT: TIMEOUT,
    Kind.CREDENTIALS: ACCOUNT,
    Kind.REFUSED: INVALID_INPUT,
    Kind.FAILED: MODEL_FAILED,
}

OF_CAUSE: dict[Cause, Meaning] = {
    Cause.INADMISSIBLE: INPUT_BLOCKED,
    Cause.INVALID_INPUT: INVALID_INPUT,
    Cause.OUTPUT_INSPECTED: OUTPUT_BLOCKED,
    Cause.TOO_LONG: TOO_LONG,
    Cause.MODEL: UNKNOWN_MODEL,
    Cause.PARAMETER: PARAMETER,
    Cause.OTHER: ENDPOINT,
}


def meaning_of(status: str, code: str, message: str = "", http: int | None = None) -> Meaning:
    """Return the meaning of a failed or incomplete turn. Args: http: the provider's HTTP status, if it is known."""
    if code in OF_SERVICE:
        return OF_SERVICE[code]
    if status == "incomplete":
        return OUTPUT_BLOCKED if "filter" in code else INTERRUPTED
    # The code of an error that has none is its HTTP status.
    status_code = http or (int(code) if re.fullmatch(r"[45]\d\d", code) else 200)
    row = row_of(Said(status_code, code, message))
    return OF_KIND[row.kind] if row.cause is None else OF_CAUSE[row.cause]
