"""Convert the errors of a model of a provider to the failure of an attempt."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import ValidationError
from pydantic_ai import ModelResponse, ModelRetry, ToolCallPart, exceptions

from broker.protocol.primitives import problems
from workers.models.base import ModelError
from workers.models.provider.http_client import WrongReply, shown_url
from workers.models.provider.retry_after import retry_after

KINDS: tuple[tuple[type[Exception], str, bool], ...] = (
    (exceptions.ModelRateLimitError, "rate_limited", True),
    (exceptions.ModelQuotaExceededError, "quota_exceeded", False),
    (exceptions.ModelAuthenticationError, "authentication", False),
    (exceptions.ModelNotFoundError, "model_not_found", False),
    (exceptions.ModelContextWindowExceededError, "context_too_long", False),
    (exceptions.ModelRequestRejectedError, "request_rejected", False),
    (exceptions.ModelConnectionError, "connection", True),
    (exceptions.ModelServerError, "provider_error", True),
    (exceptions.ModelUnavailableError, "overloaded", True),
    (exceptions.ModelHTTPError, "request_rejected", False),
    (exceptions.ModelAPIError, "provider_error", True),
    (exceptions.ContentFilterError, "content_filter", False),
    (exceptions.UsageLimitExceeded, "too_many_steps", False),
    (exceptions.OutputTokenLimitExceeded, "output_truncated", False),
    (exceptions.UserError, "request_rejected", False),
)
"""The exceptions of pydantic-ai: class, type of the failure, whether it is retryable. The first match counts."""

FOUND: dict[str, bool] = {
    "budget_exceeded": False,
    "stalled": True,
    "not_a_model_server": False,
    "wrong_tool_call": True,
    "output_schema": True,
    "no_answer": True,
}
"""Types of failures that are detected otherwise, and whether they are retryable."""

_CUT_OFF: dict[str, tuple[str, str]] = {
    **dict.fromkeys(
        ("length", "max_tokens", "max_output_tokens", "model_length"),
        ("output_truncated", "the model reached its token limit before the end of its answer"),
    ),
    **dict.fromkeys(
        ("content_filter", "refusal", "safety", "recitation", "blocklist", "prohibited_content", "spii"),
        ("content_filter", "the provider stopped the answer: content filter"),
    ),
    **dict.fromkeys(
        ("error", "abort", "cancelled", "insufficient_system_resource"),
        ("provider_error", "the provider ended the answer early"),
    ),
}
"""Finish reasons of providers, in lower case, with which an answer is not complete."""

_TOO_LONG = re.compile(
    r"exceed_context_size|context_length_exceeded|prompt is too long|prompt too long|input is too long"
    r"|maximum prompt length|too many input tokens|tokens \+ `?max_new_tokens|input length exceeds"
    r"|exceeds? (?:the |its )?(?:\w+ ){0,3}context|context (?:length|size|window|limit) .{0,40}exceeded"
    r"|(?:longer|greater|larger|more) than (?:the )?(?:\S+ ){0,3}context|maximum context length"
    r"|exceed context (?:limit|window)|loaded with context length of only",
    re.IGNORECASE,
)
_QUOTA = re.compile(
    r"insufficient_quota|credit balance is too low|insufficient (?:credits?|balance|funds)|payment required"
    r"|(?:out of|no more) credits|billing (?:hard )?limit|spend(?:ing)? limit",
    re.IGNORECASE,
)
_WRONG_KEY = re.compile(
    r"(?:api[ _]key|token) (?:is )?(?:not valid|invalid)|(?:invalid|incorrect) api[ _]key", re.IGNORECASE
)
_BUSY_STATUSES = {408, 409, 425}  # of a server that could not do it at the moment
_WRONG_SERVER_STATUSES = {405, 407, 415, 426}  # of a server that is none for models, whatever the task
_TOOL_SCHEMA = re.compile(r"schema|parameters|propert", re.IGNORECASE)
_NO_TOOLS = re.compile(
    r"invalid schema for function|(?=.*\b(?:tools?|functions?|(?:tool|function)[_ -]?(?:choice|use|call(?:s|ing)?))\b)"
    r".*(?:support|requires? (?:the )?--|not (?:enabled|available|allowed|implemented)|jinja)",
    re.IGNORECASE | re.DOTALL,
)
_TAG = re.compile(r"<(?:style|script)\b.*?</(?:style|script)>|<[^>]*>", re.IGNORECASE | re.DOTALL)
_WRONG_TOOL = re.compile(r"Tool '([^']+)' exceeded max retries")
OUTPUT_TOOL = "final_result"  # pydantic-ai's name for the tool that a model answers with
_FALL_BACK = {
    "rate_limited",
    "quota_exceeded",
    "provider_error",
    "overloaded",
    "connection",
    "stalled",
    "context_too_long",
}
_SHOWN = 1000
_HTML_READ = 20_000


def cannot_call_tools(error: Exception) -> bool:
    """Return whether a server refused a request because it, or its model, cannot call tools."""
    refused = (exceptions.ModelRateLimitError, exceptions.ModelAuthenticationError, exceptions.ModelConnectionError)
    if not isinstance(error, exceptions.ModelAPIError) or isinstance(error, refused):
        return False
    return not is_too_long(error) and _NO_TOOLS.search(said(error)) is not None


def cannot_take_schema(error: Exception) -> bool:
    """Return whether the server refused only the schema of one tool."""
    return _TOOL_SCHEMA.search(said(error)) is not None


def failure_of(
    error: exceptions.AgentRunError | exceptions.UserError, *, base_url: str | None, stall_timeout: float, schema: bool
) -> ModelError:
    """Return the failure for an exception of pydantic-ai. `schema`: whether the job has an output schema."""
    for cause in causes(error):
        if isinstance(cause, WrongReply):
            return _found("not_a_model_server", str(cause))
        if isinstance(cause, ModelError):
            return ModelError(
                cause.type,
                cause.message,
                retryable=cause.retryable,
                retry_after=cause.retry_after,
                fault=cause.fault,
            )
    if isinstance(error, exceptions.ModelTimeoutError) and error.phase != "connect":
        where = shown_url(base_url) if base_url else "the provider"
        return _found("stalled", f"{where}: nothing came for {stall_timeout:g} s (--stall-timeout)")
    if isinstance(error, exceptions.ModelAPIError):
        return _failure_of_provider(error, base_url)
    for kind, name, retryable in KINDS:
        if isinstance(error, kind):
            return ModelError(name, said(error), retryable=retryable)
    return _unusable(error, schema)


def _failure_of_provider(error: exceptions.ModelAPIError, base_url: str | None) -> ModelError:
    name, retryable = _kind_of(error)
    message = f"{shown_url(base_url)}: {said(error)}" if name == "connection" and base_url else said(error)
    is_other_server = isinstance(error, exceptions.ModelHTTPError) and error.status_code in _WRONG_SERVER_STATUSES
    return ModelError(
        name,
        message,
        retryable=retryable,
        retry_after=retry_after(error),
        fault="llm" if name == "request_rejected" and is_other_server else None,
    )


def _kind_of(error: exceptions.ModelAPIError) -> tuple[str, bool]:
    """Return the type of the failure, and whether it is retryable."""
    if is_too_long(error):
        return "context_too_long", False
    status = error.status_code if isinstance(error, exceptions.ModelHTTPError) else None
    if _says(error, _QUOTA) and (status is None or status < 500):
        return "quota_exceeded", False
    if status in _BUSY_STATUSES:
        return "provider_error", True
    if status == 400 and _says(error, _WRONG_KEY):
        return "authentication", False
    return next((name, retryable) for kind, name, retryable in KINDS if isinstance(error, kind))


def may_fall_back(error: Exception) -> bool:
    """Return whether another model may do what this one could not: limit, quota, server, connection, context.

    A wrong key and a refused request are to be seen and mended, not to be hidden by another model.
    """
    if not isinstance(error, exceptions.ModelAPIError) or cannot_call_tools(error):
        return False
    if any(isinstance(cause, WrongReply) for cause in causes(error)):
        return False
    return _kind_of(error)[0] in _FALL_BACK


def failure_of_all(failures: list[tuple[str, ModelError]]) -> ModelError:
    """Return the failure of an LLM none of whose models answered: that of the first one, with the words of each.

    A prompt that is too long for the first model only fails because of the others. They have other rate limits than
    the LLM, so a limit of theirs is reported as an overload.
    """
    first = next((it for _, it in failures if it.type != "context_too_long"), failures[0][1])
    is_other = first is not failures[0][1]
    return ModelError(
        "overloaded" if is_other and first.type in ("rate_limited", "quota_exceeded") else first.type,
        "; ".join(f"{name}: {it.message}" for name, it in failures),
        retryable=first.retryable,
        retry_after=first.retry_after,
        fault=first.fault,
    )


def cut_off(response: ModelResponse) -> ModelError | None:
    """Return why a response is incomplete although its stream ended; None for a complete one."""
    raw = str((response.provider_details or {}).get("finish_reason") or "").lower()
    reason = raw if raw in _CUT_OFF else str(response.finish_reason)
    if reason in _CUT_OFF:
        kind, message = _CUT_OFF[reason]
        return ModelError(kind, message, retryable=kind == "provider_error")
    if reason == "tool_call" and not any(isinstance(part, ToolCallPart) for part in response.parts):
        return _found("wrong_tool_call", "the model ended its answer to call a tool, and called none")
    return None


def said(error: Exception) -> str:
    """Return the text of a provider about an error, from any of its usual places."""
    if isinstance(error, exceptions.ModelHTTPError):
        return f"status {error.status_code}: {_words(error.body)[:_SHOWN] or 'no details'}"
    if isinstance(error, exceptions.ModelConnectionError):
        root = list(causes(error))[-1]
        return str(root) or type(root).__name__
    if isinstance(error, exceptions.ModelAPIError):
        return _words(error.body)[:_SHOWN] or error.message
    return getattr(error, "message", "") or str(error)


def is_too_long(error: exceptions.ModelAPIError) -> bool:
    """Return whether a prompt was refused because it is too long for the model."""
    if isinstance(error, exceptions.ModelRateLimitError | exceptions.ModelConnectionError):
        return False
    return _says(error, _TOO_LONG)


def is_loading(error: exceptions.ModelAPIError) -> bool:
    """Return whether a server is still loading the model."""
    return isinstance(error, exceptions.ModelHTTPError) and error.status_code == 503 and "loading" in str(error).lower()


def _says(error: exceptions.ModelAPIError, pattern: re.Pattern[str]) -> bool:
    names = (error.provider_error_code, error.provider_error_type, said(error))
    return any(name and pattern.search(name) for name in names)


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and its causes, the root last."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def kinds() -> Iterable[tuple[str, bool]]:
    """Return every type of failure of a model, with whether it is retryable."""
    return {**{name: retryable for _, name, retryable in KINDS}, **FOUND}.items()


def _unusable(error: Exception, schema: bool) -> ModelError:
    """Return the failure for an answer that the model could not correct."""
    message = getattr(error, "message", "")
    reason = _reason(error)
    if (wrong := _WRONG_TOOL.search(message)) and (not schema or wrong[1] != OUTPUT_TOOL):
        return _found("wrong_tool_call", f"the model called the tool {wrong[1]} wrongly: {reason or message}")
    if schema:
        return _found("output_schema", f"the answer does not satisfy the output schema: {reason or 'there is none'}")
    return _found("no_answer", reason or "the model answered nothing")


def _reason(error: Exception) -> str:
    """Return the mistakes in the answer, as the model received them."""
    for cause in list(causes(error))[1:]:
        if isinstance(cause, ValidationError):
            return "; ".join(map(str, problems(cause)))
        if isinstance(cause, ModelRetry):
            return cause.message
    return ""


def _found(kind: str, message: str) -> ModelError:
    return ModelError(kind, message, retryable=FOUND[kind])


def _words(body: Any) -> str:
    """Return the message in the body of an error: `{"error": {"message": …}}`, `{"detail": …}`, a list, or a page."""
    match body:
        case dict():
            words = next((body[key] for key in ("message", "error", "detail", "msg") if body.get(key)), None)
            where = ".".join(map(str, body["loc"])) if isinstance(body.get("loc"), list | tuple) else ""
            return ": ".join(filter(None, (where, _words(words))))
        case list():
            return "; ".join(filter(None, map(_words, body)))
        case str() if body.lstrip()[:1] == "<":
            return " ".join(_TAG.sub(" ", body[:_HTML_READ]).split())
        case None:
            return ""
        case _:
            return str(body)
