"""A model of any provider that pydantic-ai speaks to, as an LLM.

pydantic-ai takes most of a second to import, so this module is imported only by a worker that uses it.
"""

from collections.abc import AsyncIterable, Awaitable, Callable
from dataclasses import replace
from functools import wraps
from typing import Any

from pydantic import TypeAdapter
from pydantic_ai import (
    Agent,
    AgentStreamEvent,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    ModelRetry,
    ModelSettings,
    PartDeltaEvent,
    PartStartEvent,
    RunContext,
    StructuredDict,
    TextPart,
    TextPartDelta,
    ToolFailed,
    UserPromptPart,
    exceptions,
)
from pydantic_ai.agent import EventStreamHandler
from pydantic_ai.capabilities import Hooks
from pydantic_ai.models import Model, ModelRequestContext
from pydantic_ai.toolsets import FunctionToolset
from pydantic_ai.usage import RunUsage, UsageLimits

from broker.text import portable
from workers.models.base import Answer, Job, ModelError, Progress, Usage
from workers.models.output import check_schema, parse_output, validate_output
from workers.models.prompt import render_prompt
from workers.tools import Desk, ToolError

PROVIDER_RETRIES = 2
"""How often a request is sent again after 408, 409, 429, 5xx or a failed connection.

This is the only layer that retries a request. It is the provider's own SDK, which waits as long as a Retry-After
header asks (up to two minutes). A stream that breaks off is not retried here, as its text has been shown already:
the attempt fails and the coordinator starts another one.
"""

OUTPUT_RETRIES = 1
"""How often the model is told what is wrong with its answer and answers again, within one attempt."""

LIMITS = UsageLimits(request_limit=50, tool_calls_limit=200)
"""How often the model is asked, and how many tools it may call, within one attempt."""


class PydanticAILLM:
    """Asks a model, one conversation per job. Text is passed on as it streams in."""

    def __init__(self, name: str, model: Model) -> None:
        """`name` is what books and lists show for `model`."""
        self._name = name
        self._model = model

    @property
    def model(self) -> str:
        """The model as it was named, such as `ollama:llama3.2`."""
        return self._name

    async def run(self, job: Job, progress: Progress, desk: Desk | None = None) -> Answer:
        """The model's answer, and the tokens and, where its price is known, the dollars it took.

        With an output schema the model is asked for structured output and its answer is checked. Raises
        ModelError with one of the types in `_FAILURES`, `output_truncated` or `not_json`.
        """
        check_schema(job.output_schema)
        output_type = _output_type(job.output_schema)
        agent: Agent[object, Any] = Agent(
            self._model,
            output_type=output_type,
            instructions=job.instructions,
            retries={"output": OUTPUT_RETRIES},
            toolsets=[] if desk is None else [_toolset(desk)],
            model_settings=_settings(job),
            capabilities=[Hooks(after_model_request=_made_portable)],
        )
        agent.output_validator(_checker(job.output_schema))
        # A structured output carries its schema on its own; in a prompt too it would draw an answer in text.
        schema = job.output_schema if output_type is str else None
        prompt = render_prompt(replace(job, output_schema=schema, conversation=()))
        spent = RunUsage()
        try:
            async with agent:
                result = await agent.run(
                    prompt,
                    message_history=_history(job),
                    event_stream_handler=_relay(progress),
                    usage_limits=LIMITS,
                    usage=spent,
                )
        except (exceptions.AgentRunError, exceptions.UserError) as error:
            failure = self._failure(error, job.output_schema is not None)
            failure.usage = _usage(spent) if spent.total_tokens else None
            raise failure from error
        if result.response.finish_reason == "length":
            message = "the model reached its token limit before the end of its answer"
            raise ModelError("output_truncated", message, retryable=False, usage=_usage(result.usage))
        return Answer(result.output, _usage(result.usage))

    def _failure(self, error: exceptions.AgentRunError | exceptions.UserError, with_schema: bool) -> ModelError:
        if isinstance(error, exceptions.ModelHTTPError):
            message = f"status {error.status_code}: {_provider_says(error.body)}"
        elif isinstance(error, exceptions.ModelConnectionError):
            message = f"{self._model.base_url}: {_causes(error)[-1]}"
        else:
            message = error.message
        for kind, name, retryable in _FAILURES:
            if isinstance(error, kind):
                return ModelError(name, message, retryable=retryable)
        # What is left is an answer that the model could not mend.
        rejection = next((str(cause) for cause in _causes(error) if isinstance(cause, ModelError)), message)
        return ModelError("output_schema" if with_schema else "no_answer", rejection, retryable=True)


_FAILURES: tuple[tuple[type[Exception], str, bool], ...] = (
    (exceptions.ModelRateLimitError, "rate_limited", True),
    (exceptions.ModelQuotaExceededError, "quota_exceeded", False),
    (exceptions.ModelAuthenticationError, "authentication", False),
    (exceptions.ModelNotFoundError, "model_not_found", False),
    (exceptions.ModelContextWindowExceededError, "context_too_long", False),
    (exceptions.ModelRequestRejectedError, "request_rejected", False),
    (exceptions.ModelConnectionError, "connection", True),
    (exceptions.ModelServerError, "provider_error", True),
    (exceptions.ModelUnavailableError, "provider_error", True),
    (exceptions.ModelHTTPError, "request_rejected", False),
    (exceptions.ModelAPIError, "provider_error", True),
    (exceptions.ContentFilterError, "content_filter", False),
    (exceptions.UsageLimitExceeded, "too_many_steps", False),
    (exceptions.OutputTokenLimitExceeded, "output_truncated", False),
    (exceptions.UserError, "request_rejected", False),
)
"""What pydantic-ai raises: its class, our type on the wire, whether another attempt may help. First match wins."""


def _toolset(desk: Desk) -> FunctionToolset[object]:
    """The tools that the desk offers; the model reads what they do in their docstrings."""
    return FunctionToolset([_telling(getattr(desk, tool)) for tool in sorted(desk.tools)])


def _telling(tool: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """The tool, made to tell the model why it failed."""

    @wraps(tool)
    async def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return await tool(*args, **kwargs)
        except ToolError as error:
            raise ToolFailed(str(error)) from error

    return call


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


def _checker(schema: dict[str, Any] | None) -> Callable[[Any], Any]:
    """Checks an output against the schema; what the model can mend goes back to it."""

    def check(output: Any) -> Any:
        try:
            return parse_output(output, schema) if isinstance(output, str) else validate_output(output, schema)
        except ModelError as error:
            if error.retryable:
                raise ModelRetry(error.message) from error
            raise

    return check


async def _made_portable(
    _: RunContext[object], *, request_context: ModelRequestContext, response: ModelResponse
) -> ModelResponse:
    """The response with text that UTF-8 can carry: it goes into the answer, to tools and back to the provider."""
    part: Any
    for place, part in enumerate(response.parts):
        texts = {name: getattr(part, name, None) for name in ("content", "args", "tool_name")}
        mended = {name: portable(text) for name, text in texts.items() if isinstance(text, str)}
        if any(texts[name] != text for name, text in mended.items()):
            parts = [*response.parts[:place], replace(part, **mended), *response.parts[place + 1 :]]
            response = replace(response, parts=parts)
    return response


def _relay(progress: Progress) -> EventStreamHandler[object]:
    async def relay(_: RunContext[object], events: AsyncIterable[AgentStreamEvent]) -> None:
        async for event in events:
            match event:
                case PartStartEvent(part=TextPart(content=text)) if text:
                    progress(text)
                case PartDeltaEvent(delta=TextPartDelta(content_delta=text)) if text:
                    progress(text)

    return relay


def _history(job: Job) -> list[ModelMessage]:
    """The conversation before a message, with what this LLM said as the model's part.

    What others than the one who is answered have said begins with their address.
    """
    messages: list[ModelMessage] = []
    for it in job.conversation:
        assert job.message is not None
        if it.sender == job.message.receiver:
            messages.append(ModelResponse([TextPart(it.content)]))
        else:
            told = it.content if it.sender == job.message.sender else f"{it.sender}: {it.content}"
            messages.append(ModelRequest([UserPromptPart(told)]))
    return messages


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


def _provider_says(body: object) -> str:
    """The message in the body of an HTTP error, wherever the provider puts it."""
    while isinstance(body, dict):
        body = body.get("message") or body.get("error")
    return str(body or "no details")


def _causes(error: BaseException) -> list[BaseException]:
    """The error and its causes, the root last."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    return chain
