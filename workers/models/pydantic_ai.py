"""A model of any provider that pydantic-ai speaks to, as an LLM.

pydantic-ai takes most of a second to import, so this module is imported only by a worker that uses it.
"""

import os
import re
from collections.abc import AsyncIterable, Callable
from dataclasses import replace
from typing import Any

from pydantic import TypeAdapter
from pydantic_ai import (
    Agent,
    AgentStreamEvent,
    ModelRetry,
    ModelSettings,
    PartDeltaEvent,
    PartStartEvent,
    RunContext,
    StructuredDict,
    TextPart,
    TextPartDelta,
    exceptions,
)
from pydantic_ai.models import Model, infer_model, parse_model_id
from pydantic_ai.providers import Provider, infer_provider_class
from pydantic_ai.usage import RunUsage

from broker.errors import ConfigurationError
from workers.models.base import Answer, Job, ModelError, Progress, Usage
from workers.models.output import check_schema, parse_output, validate_output
from workers.models.prompt import render_prompt

OLLAMA_URL = "http://127.0.0.1:11434/v1"

PROVIDER_RETRIES = 2
"""How often a request is sent again after 408, 409, 429, 5xx or a failed connection.

This is the only layer that retries a request. It is the provider's own SDK, which waits as long as a Retry-After
header asks (up to two minutes). A stream that breaks off is not retried here, as its text has been shown already:
the attempt fails and the coordinator starts another one.
"""

OUTPUT_RETRIES = 1
"""How often the model is told what is wrong with its answer and answers again, within one attempt."""


class PydanticAILLM:
    """Asks a model, one conversation per job. Text is passed on as it streams in."""

    def __init__(self, name: str, model: Model, instructions: str | None = None) -> None:
        """`name` is what books and lists show for `model`; `instructions` are the system prompt."""
        self._name = name
        self._model = model
        self._instructions = instructions

    @property
    def model(self) -> str:
        """The model as it was named, such as `ollama:llama3.2`."""
        return self._name

    async def run(self, job: Job, progress: Progress) -> Answer:
        """The model's answer, and the tokens and, where its price is known, the dollars it took.

        With an output schema the model is asked for structured output and its answer is checked. Raises
        ModelError with one of the types in `_FAILURES`, `output_truncated` or `not_json`.
        """
        schema = job.output_schema
        check_schema(schema)
        output_type = _output_type(schema)
        is_text = output_type is str
        agent: Agent[object, Any] = Agent(
            self._model,
            output_type=output_type,
            instructions=job.instructions or self._instructions,
            retries={"output": OUTPUT_RETRIES},
            model_settings=_settings(job),
        )

        @agent.output_validator
        def satisfies_schema(output: Any) -> Any:
            try:
                return parse_output(output, schema) if is_text else validate_output(output, schema)
            except ModelError as error:
                if error.retryable:
                    raise ModelRetry(error.message) from error
                raise

        async def show(_: RunContext[object], events: AsyncIterable[AgentStreamEvent]) -> None:
            async for event in events:
                match event:
                    case PartStartEvent(part=TextPart(content=text)) if text:
                        progress(text)
                    case PartDeltaEvent(delta=TextPartDelta(content_delta=text)) if text:
                        progress(text)

        # A structured output carries its schema on its own; in a prompt too it would draw an answer in text.
        prompt = render_prompt(job if is_text else replace(job, output_schema=None))
        try:
            async with agent:
                result = await agent.run(prompt, event_stream_handler=show)
        except (exceptions.AgentRunError, exceptions.UserError) as error:
            raise self._failure(error, schema) from error
        if result.response.finish_reason == "length":
            message = "the model reached its token limit before the end of its answer"
            raise ModelError("output_truncated", message, retryable=False)
        return Answer(result.output, _usage(result.usage))

    def _failure(self, error: Exception, schema: dict[str, Any] | None) -> ModelError:
        message = _provider_message(error)
        if isinstance(error, exceptions.ModelConnectionError):
            message = f"{self._model.base_url}: {message}"
        for kind, name, retryable in _FAILURES:
            if isinstance(error, kind):
                return ModelError(name, message, retryable=retryable)
        name = "output_schema" if schema is not None else "no_answer"
        return ModelError(name, _last_reason(error), retryable=True)


_FAILURES: tuple[tuple[type[Exception], str, bool], ...] = (
    (exceptions.ModelRateLimitError, "rate_limited", True),
    (exceptions.ModelQuotaExceededError, "quota_exceeded", False),
    (exceptions.ModelAuthenticationError, "authentication", False),
    (exceptions.ModelNotFoundError, "model_not_found", False),
    (exceptions.ModelContextWindowExceededError, "context_too_long", False),
    (exceptions.ModelRequestRejectedError, "request_rejected", False),
    (exceptions.ModelConnectionError, "connection", True),
    (exceptions.ModelAPIError, "provider_error", True),
    (exceptions.ContentFilterError, "content_filter", False),
    (exceptions.OutputTokenLimitExceeded, "output_truncated", False),
    (exceptions.UserError, "request_rejected", False),
)
"""What pydantic-ai raises: its class, our type on the wire, whether another attempt may help. First match wins."""


def _output_type(schema: dict[str, Any] | None) -> Any:
    """Structured output where the provider can do it: for an object that does not refer to itself. Else text."""
    if schema is None:
        return str
    try:
        structured = StructuredDict(schema)
        TypeAdapter(structured).json_schema()  # KeyError: a $ref that does not lead into $defs
    except (exceptions.UserError, KeyError):
        return str
    return structured


def _settings(job: Job) -> ModelSettings:
    settings = ModelSettings(max_retries=PROVIDER_RETRIES)
    if job.timeout is not None:
        settings["timeout"] = job.timeout  # else a client waits ten minutes for the next piece of an answer
    return settings


def _usage(usage: RunUsage) -> Usage | None:
    if usage.unmeasured_requests and not usage.total_tokens:
        return None
    return Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cost_usd=None if usage.cost is None else float(usage.cost),
    )


def _provider_message(error: Exception) -> str:
    """What the provider said, without the wrapping that the SDK puts around it."""
    if not isinstance(error, exceptions.ModelHTTPError):
        return str(error)
    said: Any = error.body
    while isinstance(said, dict):
        said = said.get("message") or said.get("error")
    return f"status {error.status_code}: {said or 'no details'}"


def _last_reason(error: BaseException) -> str:
    """The first of our own errors among the causes of `error`, or `error` itself."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ModelError):
            return cause.message
        cause = cause.__cause__
    return str(error)


def find_model(name: str, base_url: str | None) -> Model:
    """The model that `name` (`provider:model`) stands for, with its API key from the environment.

    With `base_url`, a name without a provider, or of `openai`, is a model of the OpenAI-compatible server at that
    URL (chat completions), which gets OPENAI_API_KEY if it is set. Any other provider is spoken to at that URL.
    Raises ConfigurationError for an unknown provider, a missing key or a missing package.
    """
    provider, model = parse_model_id(name)
    if provider == "ollama":
        base_url = base_url or os.environ.get("OLLAMA_BASE_URL") or OLLAMA_URL
    try:
        if base_url is None:
            return infer_model(name)
        if provider in ("openai", "openai-chat"):
            return _openai_compatible(model, base_url)
        if provider is None or not _is_provider(provider):  # such as `qwen2.5:7b`, a name with a tag
            return _openai_compatible(name, base_url)
        return infer_model(name, lambda provider: _provider_at(provider, base_url))
    except ImportError as error:
        raise ConfigurationError(f"--model {name}: {error}") from error
    except exceptions.UserError as error:
        raise ConfigurationError(f"--model {name}: {_advice(error.message)}") from error


def _openai_compatible(model: str, base_url: str) -> Model:
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider

    key = os.environ.get("OPENAI_API_KEY")
    return OpenAIChatModel(
        model, provider=OpenAICompatibleProvider("openai-compatible", base_url=base_url, api_key=key)
    )


def _is_provider(name: str) -> bool:
    try:
        infer_provider_class(name)
    except ValueError:
        return False
    except ImportError:
        return True
    return True


def _provider_at(name: str, base_url: str) -> Provider[Any]:
    provider: Callable[..., Provider[Any]] = infer_provider_class(name)
    try:
        return provider(base_url=base_url)
    except TypeError as error:
        raise ConfigurationError(f"--base-url: the provider {name} takes none") from error


def _advice(message: str) -> str:
    """pydantic-ai's message for programmers, as one for the person at the command line."""
    if missing := re.match(r"Set the `(\w+)` environment variable", message):
        return f"set the environment variable {missing[1]}"
    if message.startswith("Unknown model"):
        return (
            f"{message}. A model is named provider:model, such as openai:gpt-5 or ollama:llama3.2; "
            "with --base-url, any name that the server knows"
        )
    return message
