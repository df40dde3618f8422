"""Send requests to a model, one or several times, and measure what they use. No other layer of a worker repeats them.

A refused request is repeated only where that loses nothing: while the server loads its model, and in the middle of a
run whose earlier requests were answered. In every other case the coordinator decides: it knows all LLMs.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

from pydantic_ai import ModelMessage, ModelResponse, ModelSettings, RunContext, exceptions
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.wrapper import WrapperModel

from broker.backoff import Backoff
from broker.best_effort import best_effort
from broker.protocol.worker_reports import Price
from workers.models.provider.failures import cannot_call_tools, causes, is_loading, is_too_long
from workers.models.provider.http_client import WrongReply
from workers.models.provider.known import KnownModel
from workers.models.provider.retry_after import retry_after
from workers.models.provider.usage import Meter

RETRIES = 2
"""How often a request of a run with earlier answers is sent again after 408, 409, 5xx or a failed connection."""

MAX_RETRY_AFTER_SECONDS = 5.0
"""If a server asks for a longer pause, the attempt fails at once."""

LOADING_TIMEOUT_SECONDS = 300.0
"""A server may take this time to load its model. Meanwhile it answers with status 503."""

_FIRST_PAUSE = 0.5  # seconds
_BACKOFF = Backoff(initial=_FIRST_PAUSE, maximum=_FIRST_PAUSE * 2**RETRIES, jitter=0.25)
_LOADING_PAUSE_MOST = 5.0  # seconds

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model of a worker under its given name. `price` is that of its user; None: the known one."""

    name: str
    model: Model
    known: KnownModel
    price: Price | None = None

    @classmethod
    def of(cls, name: str, model: Model, price: Price | None = None) -> "ServedModel":
        """Return the model with what is known of it."""
        return cls(name, model, KnownModel(name, model), price)


class MeteredModel(WrapperModel):
    """A model in one run. Its requests are sent again until the answer begins, where that helps, and measured."""

    def __init__(self, served: ServedModel, meter: Meter) -> None:
        super().__init__(served.model)
        self._served = served
        self._meter = meter

    @property
    def name(self) -> str:
        """The given name of the model."""
        return self._served.name

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        """Yield the stream of the first successful request. Raises the error of the last one.

        Raises ModelError `budget_exceeded`, and sends nothing, when the allowance of the run is used up.
        """
        self._meter.publish()
        self._meter.check()
        pauses = Pauses(has_progressed=self._meter.has_answers)
        while True:
            async with AsyncExitStack() as stack:
                opening = self.wrapped.request_stream(messages, model_settings, model_request_parameters, run_context)
                try:
                    stream = await stack.enter_async_context(opening)
                except exceptions.ModelAPIError as error:
                    pause = pauses.after(error)
                    if pause is None:
                        raise
                else:
                    with self._measured(stream):
                        yield stream
                    return
            await asyncio.sleep(pause)

    @contextmanager
    def _measured(self, stream: StreamedResponse) -> Iterator[None]:
        """Add what the answer uses to the meter, also if it breaks off or is stopped."""
        try:
            yield
        finally:
            with best_effort("the usage of a request"):
                self._add(stream.get())

    def _add(self, response: ModelResponse) -> None:
        if response.parts or response.usage.has_values():
            self._meter.add(
                self._served.name,
                response,
                price=self._served.price,
                cost=self._served.known.cost,
                is_whole=response.state == "complete",
            )


class Pauses:
    """Computes the pauses between the requests of one answer.

    `has_progressed` says whether earlier requests of the run were answered: their work would be lost.
    """

    def __init__(self, *, has_progressed: bool) -> None:
        self._retries_left = RETRIES if has_progressed else 0
        self._asked_while_loading = 0
        self._loads_since = 0.0

    def after(self, error: exceptions.ModelAPIError) -> float | None:
        """Return the pause after this error, in seconds; None if the request is not sent again."""
        asked = retry_after(error)
        if is_loading(error) and asked is None:
            return self._while_loading()
        if not self._retries_left or not _may_pass(error) or (asked or 0.0) > MAX_RETRY_AFTER_SECONDS:
            return None
        self._retries_left -= 1
        return _BACKOFF.pause(RETRIES - self._retries_left) if asked is None else asked

    def _while_loading(self) -> float | None:
        now = time.monotonic()
        if self._asked_while_loading == 0:
            self._loads_since = now
            _log.info("the server is loading its model: waiting up to %g s for it", LOADING_TIMEOUT_SECONDS)
        elif now - self._loads_since >= LOADING_TIMEOUT_SECONDS:
            return None
        self._asked_while_loading += 1
        return min(_FIRST_PAUSE * self._asked_while_loading, _LOADING_PAUSE_MOST)


def _may_pass(error: exceptions.ModelAPIError) -> bool:
    """Return whether the same request may succeed in a few seconds. A rate limit is not waited for."""
    if cannot_call_tools(error) or is_too_long(error):
        return False
    match error:
        case exceptions.ModelTimeoutError() | exceptions.ModelRateLimitError() | exceptions.ModelQuotaExceededError():
            return False
        case exceptions.ModelHTTPError():
            return error.status_code in (408, 409) or error.status_code >= 500
        case exceptions.ModelConnectionError():
            return not any(isinstance(cause, WrongReply) for cause in causes(error))
        case _:
            return isinstance(error, exceptions.ModelUnavailableError | exceptions.ModelServerError)
