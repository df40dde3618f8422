"""A model of a provider as an LLM, through pydantic-ai.

pydantic-ai takes most of a second to import, so only a worker that uses it imports this module.
"""

import json
import logging
from collections.abc import AsyncIterable, Awaitable, Callable
from dataclasses import dataclass, replace
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
    ThinkingPart,
    ToolCallPart,
    ToolFailed,
    UserPromptPart,
    exceptions,
)
from pydantic_ai.agent import EventStreamHandler
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.models import Model, ModelRequestContext
from pydantic_ai.toolsets import FunctionToolset
from pydantic_ai.usage import RunUsage, UsageLimits

from broker.protocol.portable_text import portable
from workers.models.base import STALL_TIMEOUT_SECONDS, Answer, Job, ModelError, TextCallback, Usage
from workers.models.output import check_schema, parse_output, validate_output
from workers.models.prompt import render_prompt
from workers.models.provider.check import why_not_ready
from workers.models.provider.failures import cannot_call_tools, cannot_take_schema, cut_off, failure_of, said
from workers.models.provider.reasoning import ReasoningFilter, without_reasoning
from workers.models.provider.retries import RetryingModel
from workers.models.provider.usage import usage_of
from workers.tools.toolbox import Toolbox, ToolError

OUTPUT_RETRIES = 1
"""How often the model may correct a wrong answer within one attempt."""

LIMITS = UsageLimits(request_limit=50, tool_calls_limit=200)
"""Requests to the model, and calls of tools, within one attempt."""

_log = logging.getLogger(__name__)


class PydanticAILLM:
    """Calls a model, with one conversation per job, and streams the text of the answer.

    A model that cannot call tools gets none, and is asked in words for an answer that satisfies a schema. The first
    refusal of the server is remembered.
    """

    def __init__(self, name: str, model: Model, *, stall_timeout: float = STALL_TIMEOUT_SECONDS) -> None:
        """`name` is the name of `model` in reports and lists. `stall_timeout` limits the seconds without a byte."""
        self._name = name
        self._served = model
        self._model = RetryingModel(model)
        self._stall_timeout = stall_timeout
        self._calls_tools = True

    @property
    def model(self) -> str:
        """The given name of the model, such as `ollama:llama3.2`."""
        return self._name

    async def trouble(self) -> str | None:
        """Return why the model would not answer now and what to do, or None. The check costs no tokens."""
        return await why_not_ready(self._served, self._name)

    async def run(self, job: Job, progress: TextCallback, toolbox: Toolbox | None = None) -> Answer:
        """Return the answer of the model, with its tokens and, if the price is known, its cost in dollars.

        With an output schema, the model is asked for structured output, and the answer is checked. Raises ModelError
        with one of the types in `failures.kinds()`, or `not_json`.
        """
        check_schema(job.output_schema)
        spent = RunUsage()
        output_type = _output_type(job.output_schema)
        if toolbox is not None and not toolbox.tools:
            toolbox = None
        try:
            while True:
                if not self._calls_tools:
                    output_type, toolbox = str, None
                try:
                    return Answer(await self._ask(job, output_type, progress, toolbox, spent), _usage(spent))
                except exceptions.ModelAPIError as error:
                    if (output_type is str and toolbox is None) or not cannot_call_tools(error):
                        raise
                    if output_type is not str and cannot_take_schema(error):
                        output_type = str
                    else:
                        self._remember_that_it_cannot_call_tools(error)
        except (exceptions.AgentRunError, exceptions.UserError) as error:
            failure = failure_of(
                error,
                base_url=self._model.base_url,
                stall_timeout=self._stall_timeout,
                schema=job.output_schema is not None,
            )
            failure.usage = _usage(spent)
            raise failure from error
        except ModelError as error:
            error.usage = error.usage or _usage(spent)
            raise

    def _remember_that_it_cannot_call_tools(self, error: exceptions.ModelAPIError) -> None:
        self._calls_tools = False
        _log.warning(
            "%s cannot call tools and gets none from now on; it is asked in words to satisfy output schemas (%s)",
            self._name,
            said(error),
        )

    async def _ask(
        self, job: Job, output_type: Any, progress: TextCallback, toolbox: Toolbox | None, spent: RunUsage
    ) -> Any:
        in_words = output_type is str
        agent: Agent[object, Any] = Agent(
            self._model,
            output_type=output_type,
            instructions=job.instructions,
            retries={"output": OUTPUT_RETRIES},
            toolsets=[] if toolbox is None else [_toolset(toolbox)],
            model_settings=ModelSettings(max_retries=0, timeout=self._stall_timeout),
            capabilities=[_AnswerReader(None if in_words else job.output_schema)],
        )
        agent.output_validator(_checker(job.output_schema))
        # A structured output carries its schema on its own; in a prompt too it would draw an answer in text.
        schema = job.output_schema if in_words else None
        async with agent:
            result = await agent.run(
                render_prompt(replace(job, output_schema=schema, conversation=())),
                message_history=_history(job),
                event_stream_handler=_relay(progress),
                usage_limits=LIMITS,
                usage=spent,
            )
        return result.output


@dataclass
class _AnswerReader(AbstractCapability[object]):
    """Looks at every response of the model before pydantic-ai does.

    A response that was cut off is a failure. Text that UTF-8 cannot carry is corrected. Reasoning before the answer is
    removed. Where structured output with this schema was asked for and the model writes text all the same, the JSON in
    it is the answer.
    """

    schema: dict[str, Any] | None

    async def after_model_request(
        self, ctx: RunContext[object], *, request_context: ModelRequestContext, response: ModelResponse
    ) -> ModelResponse:
        if failure := cut_off(response):
            raise failure
        response = _without_reasoning(_made_portable(response))
        if self.schema is None or any(isinstance(part, ToolCallPart) for part in response.parts):
            return response
        text = "".join(part.content for part in response.parts if isinstance(part, TextPart))
        if not text.strip():
            return response
        try:
            value = await parse_output(text, self.schema)
        except ModelError as error:
            raise _as_retry(error) from error
        others = [part for part in response.parts if not isinstance(part, TextPart)]
        return replace(response, parts=[*others, TextPart(json.dumps(value))])


def _without_reasoning(response: ModelResponse) -> ModelResponse:
    """Return the response without the reasoning at the beginning of its text."""
    parts = list(response.parts)
    for place, part in enumerate(parts):
        if isinstance(part, TextPart) and part.content.strip():
            answer = without_reasoning(part.content)
            if any(isinstance(before, ThinkingPart) for before in parts[:place]):
                answer = answer.lstrip()
            parts[place] = replace(part, content=answer)
            return replace(response, parts=parts)
    return response


def _toolset(toolbox: Toolbox) -> FunctionToolset[object]:
    """Return the tools of the toolbox; their docstrings describe them to the model."""
    return FunctionToolset([_telling(getattr(toolbox, tool)) for tool in sorted(toolbox.tools)])


def _telling(tool: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Return the tool with its errors reported to the model."""

    @wraps(tool)
    async def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return await tool(*args, **kwargs)
        except ToolError as error:
            raise ToolFailed(str(error)) from error

    return call


def _output_type(schema: dict[str, Any] | None) -> Any:
    """Return structured output for an object that does not refer to itself, else text."""
    if schema is None:
        return str
    try:
        structured = StructuredDict(schema)
        TypeAdapter(structured).json_schema()  # KeyError: a $ref that does not lead into $defs
    except (exceptions.UserError, KeyError):
        return str
    return structured


def _checker(schema: dict[str, Any] | None) -> Callable[[Any], Awaitable[Any]]:
    """Return a check against the schema; the model gets mistakes that it can correct."""

    async def check(output: Any) -> Any:
        try:
            checked = parse_output if isinstance(output, str) else validate_output
            return await checked(output, schema)
        except ModelError as error:
            raise _as_retry(error) from error

    return check


def _as_retry(error: ModelError) -> Exception:
    """Return the exception for a wrong answer: with ModelRetry, the model can correct it."""
    return ModelRetry(error.message) if error.retryable else error


def _made_portable(response: ModelResponse) -> ModelResponse:
    """Return the response with text that is valid in UTF-8, for the answer, the tools and the provider."""
    part: Any
    for place, part in enumerate(response.parts):
        texts = {name: getattr(part, name, None) for name in ("content", "args", "tool_name")}
        corrected = {name: portable(text) for name, text in texts.items() if isinstance(text, str)}
        if any(texts[name] != text for name, text in corrected.items()):
            parts = [*response.parts[:place], replace(part, **corrected), *response.parts[place + 1 :]]
            response = replace(response, parts=parts)
    return response


def _relay(progress: TextCallback) -> EventStreamHandler[object]:
    async def relay(_: RunContext[object], events: AsyncIterable[AgentStreamEvent]) -> None:
        answer = ReasoningFilter()
        async for event in events:
            match event:
                case (
                    PartStartEvent(part=TextPart(content=text))
                    | PartDeltaEvent(delta=TextPartDelta(content_delta=text))
                ) if text:
                    if shown := answer.feed(text):
                        progress(shown)
        if rest := answer.close():
            progress(rest)

    return relay


def _history(job: Job) -> list[ModelMessage]:
    """Return the conversation before a message. Messages of this LLM are the responses of the model.

    Messages of others than the sender of the question begin with an address.
    """
    messages: list[ModelMessage] = []
    for it in job.conversation:
        assert job.message is not None
        if it.sender == job.message.receiver:
            messages.append(ModelResponse([TextPart(it.content)]))
        else:
            text = it.content if it.sender == job.message.sender else f"{it.sender}: {it.content}"
            messages.append(ModelRequest([UserPromptPart(text)]))
    return messages


def _usage(spent: RunUsage) -> Usage | None:
    return usage_of(spent.input_tokens, spent.output_tokens, spent.cost)
