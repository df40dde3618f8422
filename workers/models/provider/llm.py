"""A model of a provider as an LLM, through pydantic-ai.

pydantic-ai takes most of a second to import, so only a worker that uses it imports this module.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Sequence
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
from pydantic_ai.capabilities import AbstractCapability, ModelFallback
from pydantic_ai.models import Model, ModelRequestContext
from pydantic_ai.toolsets import FunctionToolset
from pydantic_ai.usage import RunUsage, UsageLimits

from broker.protocol.portable_text import portable
from broker.protocol.worker_reports import Price
from workers.models.base import STALL_TIMEOUT_SECONDS, Answer, Job, ModelError, TextCallback
from workers.models.output import check_schema, parse_output, validate_output
from workers.models.pricing import highest
from workers.models.prompt import render_prompt
from workers.models.protocols import Properties
from workers.models.provider.check import why_not_ready
from workers.models.provider.failures import (
    OUTPUT_TOOL,
    cannot_call_tools,
    cannot_take_schema,
    cut_off,
    failure_of,
    failure_of_all,
    may_fall_back,
    said,
)
from workers.models.provider.limit_key import base_url_of, limit_key
from workers.models.provider.reasoning import ReasoningFilter, without_reasoning
from workers.models.provider.retries import MeteredModel, ServedModel
from workers.models.provider.retry_after import retry_after
from workers.models.provider.usage import Meter
from workers.tools.toolbox import Toolbox, ToolError

OUTPUT_RETRIES = 1
"""How often the model may correct a wrong answer within one attempt."""

LIMITS = UsageLimits(request_limit=50, tool_calls_limit=200)
"""Requests to the model, and calls of tools, within one attempt."""

_log = logging.getLogger(__name__)


class PydanticAILLM:
    """Calls a model, with one conversation per job, and streams the text of the answer.

    When a model cannot answer because of a limit, its server, the connection or the length of the prompt, the next of
    its fallback models is asked, unless text of the answer was shown before. A model whose provider asks to wait is
    asked last until then.

    A model that cannot call tools gets none, and is asked in words for an answer that satisfies a schema. The first
    refusal of the server is remembered, but not that of a fallback model.
    """

    def __init__(
        self,
        name: str,
        model: Model,
        *,
        price: Price | None = None,
        fallback: Sequence[ServedModel] = (),
        stall_timeout: float = STALL_TIMEOUT_SECONDS,
    ) -> None:
        """`name` is the name of `model` in reports and lists. `stall_timeout` limits the seconds without a byte.

        `price` is the price of `model`; None: the known one. `fallback` are the other models, best first.
        """
        self._name = name
        self._served = [ServedModel.of(name, model, price), *fallback]
        self._closed_until: dict[str, float] = {}  # by name of a model, on the monotonic clock
        self._stall_timeout = stall_timeout
        self._calls_tools = True

    @property
    def model(self) -> str:
        """The given name of the model, such as `ollama:llama3.2`."""
        return self._name

    @property
    def properties(self) -> Properties:
        """Its limit, and its known price (the highest of all its models), context window and abilities."""
        first = self._served[0]
        return Properties(
            limit=limit_key(first.model),
            price=highest(it.known.price if it.price is None else it.price for it in self._served),
            context_window=first.known.context_window,
            abilities=first.known.abilities,
        )

    async def trouble(self) -> str | None:
        """Return why the model would not answer now and what to do, or None. The check costs no tokens."""
        return await why_not_ready(self._served[0].model, self._name)

    async def run(self, job: Job, progress: TextCallback, toolbox: Toolbox | None = None) -> Answer:
        """Return the answer of the model, with its tokens and, if the price is known, its cost in dollars.

        With an output schema, the model is asked for structured output, and the answer is checked. The usage so far is
        reported while the run goes on, and when it is stopped. Raises ModelError with one of the types in
        `failures.kinds()`, or `not_json`.
        """
        check_schema(job.output_schema)
        meter, spent = Meter(job.budget, job.report_usage), RunUsage()
        output_type = _output_type(job.output_schema)
        if toolbox is not None and not toolbox.tools:
            toolbox = None
        try:
            while True:
                if not self._calls_tools:
                    output_type, toolbox = str, None
                try:
                    result = await self._ask(job, output_type, progress, toolbox, meter, spent)
                except exceptions.ModelAPIError as error:
                    if (output_type is str and toolbox is None) or not cannot_call_tools(error):
                        raise
                    is_of_fallback = bool(meter.failures) and meter.failures[-1][0] != self._name
                    meter.failures.clear()
                    if output_type is not str and cannot_take_schema(error):
                        output_type = str
                    elif is_of_fallback:
                        output_type, toolbox = str, None
                    else:
                        self._remember_that_it_cannot_call_tools(error)
                else:
                    return Answer(result, meter.usage, meter.last_model if meter.last_model != self._name else None)
        except asyncio.CancelledError:
            meter.publish()
            raise
        except (exceptions.AgentRunError, exceptions.UserError, exceptions.FallbackExceptionGroup) as error:
            failure = self._failure(error, job, meter)
            failure.usage = meter.usage
            raise failure from error
        except ModelError as error:
            error.usage = error.usage or meter.usage
            raise

    def _failure(
        self,
        error: exceptions.AgentRunError | exceptions.UserError | exceptions.FallbackExceptionGroup,
        job: Job,
        meter: Meter,
    ) -> ModelError:
        urls = {it.name: base_url_of(it.model) for it in self._served}

        def failure(error: exceptions.AgentRunError | exceptions.UserError, model: str) -> ModelError:
            return failure_of(
                error,
                base_url=urls[model],
                stall_timeout=self._stall_timeout,
                schema=job.output_schema is not None,
            )

        if isinstance(error, exceptions.FallbackExceptionGroup) or len(meter.failures) > 1:
            return failure_of_all([(model, failure(its_error, model)) for model, its_error in meter.failures])
        return failure(error, meter.failures[0][0] if meter.failures else meter.last_model or self._name)

    def _in_order(self) -> list[ServedModel]:
        """Return the models; those whose providers ask to wait come last."""
        now = time.monotonic()
        return sorted(self._served, key=lambda it: self._closed_until.get(it.name, 0.0) > now)

    def _remember_that_it_cannot_call_tools(self, error: exceptions.ModelAPIError) -> None:
        self._calls_tools = False
        _log.warning(
            "%s cannot call tools and gets none from now on; it is asked in words to satisfy output schemas (%s)",
            self._name,
            said(error),
        )

    async def _ask(
        self,
        job: Job,
        output_type: Any,
        progress: TextCallback,
        toolbox: Toolbox | None,
        meter: Meter,
        spent: RunUsage,
    ) -> Any:
        in_words = output_type is str
        models = [MeteredModel(served, meter) for served in self._in_order()]
        capabilities: list[AbstractCapability[object]] = [
            _AnswerReader(None if in_words else job.output_schema, meter),
        ]
        if len(models) > 1:
            capabilities.append(_Fallback(models[1:], meter, self._closed_until))
        agent: Agent[object, Any] = Agent(
            models[0],
            output_type=output_type,
            instructions=job.instructions,
            retries={"output": OUTPUT_RETRIES},
            toolsets=[] if toolbox is None else [_toolset(toolbox)],
            model_settings=ModelSettings(max_retries=0, timeout=self._stall_timeout),
            capabilities=capabilities,
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
    it is the answer. When tools are called, which can take long, the usage so far is reported.
    """

    schema: dict[str, Any] | None
    meter: Meter

    async def after_model_request(
        self, ctx: RunContext[object], *, request_context: ModelRequestContext, response: ModelResponse
    ) -> ModelResponse:
        if failure := cut_off(response):
            raise failure
        if any(isinstance(part, ToolCallPart) and part.tool_name != OUTPUT_TOOL for part in response.parts):
            self.meter.publish()
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


class _Fallback(ModelFallback[object]):
    """Asks the next model, and notes which one failed, why, and until when its provider asks to wait."""

    def __init__(self, models: Sequence[MeteredModel], meter: Meter, closed_until: dict[str, float]) -> None:
        super().__init__(*models, fallback_on=may_fall_back, sticky=True)
        self._meter = meter
        self._closed_until = closed_until

    async def on_model_request_error(
        self, ctx: RunContext[object], *, request_context: ModelRequestContext, error: Exception
    ) -> ModelResponse:
        if isinstance(model := request_context.model, MeteredModel) and isinstance(error, exceptions.AgentRunError):
            self._meter.failures.append((model.name, error))
            if isinstance(error, exceptions.ModelAPIError) and (pause := retry_after(error)) is not None:
                self._closed_until[model.name] = time.monotonic() + pause
        return await super().on_model_request_error(ctx, request_context=request_context, error=error)


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
