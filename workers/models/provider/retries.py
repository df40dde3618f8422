"""Send failed requests to a model again. No other layer of a worker does."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from pydantic_ai import ModelMessage, ModelSettings, RunContext, exceptions
from pydantic_ai.models import ModelRequestParameters, StreamedResponse
from pydantic_ai.models.wrapper import WrapperModel

from broker.backoff import Backoff
from workers.models.provider.failures import cannot_call_tools, causes, is_too_long
from workers.models.provider.http_client import WrongReply

RETRIES = 2
"""How often a request is sent again after 408, 409, 429, 5xx or a failed connection."""

MAX_RETRY_AFTER_SECONDS = 120.0
"""If a server asks for a longer pause, the attempt fails at once."""

LOADING_TIMEOUT_SECONDS = 300.0
"""A server may take this time to load its model. Meanwhile it answers with status 503."""

_FIRST_PAUSE = 0.5  # seconds
_BACKOFF = Backoff(initial=_FIRST_PAUSE, maximum=_FIRST_PAUSE * 2**RETRIES, jitter=0.25)
_LOADING_PAUSE_MOST = 5.0  # seconds

_log = logging.getLogger(__name__)


class RetryingModel(WrapperModel):
    """A model whose requests are sent again until the answer begins."""

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        """Yield the stream of the first successful request. Raises the error of the last one."""
        pauses = Pauses()
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
                    yield stream
                    return
            await asyncio.sleep(pause)


class Pauses:
    """Computes the pauses between the requests of one answer."""

    def __init__(self) -> None:
        self._sent_again = 0
        self._asked_while_loading = 0
        self._loads_since = 0.0

    def after(self, error: exceptions.ModelAPIError) -> float | None:
        """Return the pause after this error, in seconds; None if the request is not sent again."""
        asked = _retry_after(error)
        if asked is not None and asked > MAX_RETRY_AFTER_SECONDS:
            return None
        if is_loading(error):
            return self._while_loading(asked)
        if not _may_pass(error) or self._sent_again == RETRIES:
            return None
        self._sent_again += 1
        return _BACKOFF.pause(self._sent_again) if asked is None else asked

    def _while_loading(self, asked: float | None) -> float | None:
        now = time.monotonic()
        if self._asked_while_loading == 0:
            self._loads_since = now
            _log.info("the server is loading its model: waiting up to %g s for it", LOADING_TIMEOUT_SECONDS)
        elif now - self._loads_since >= LOADING_TIMEOUT_SECONDS:
            return None
        self._asked_while_loading += 1
        return max(asked or 0.0, min(_FIRST_PAUSE * self._asked_while_loading, _LOADING_PAUSE_MOST))


def is_loading(error: exceptions.ModelAPIError) -> bool:
    """Return whether a server is still loading the model."""
    return isinstance(error, exceptions.ModelHTTPError) and error.status_code == 503 and "loading" in str(error).lower()


def _may_pass(error: exceptions.ModelAPIError) -> bool:
    """Return whether the same request may succeed later."""
    if cannot_call_tools(error) or is_too_long(error):
        return False
    match error:
        case exceptions.ModelTimeoutError() | exceptions.ModelQuotaExceededError():
            return False
        case exceptions.ModelHTTPError():
            return error.status_code in (408, 409, 429) or error.status_code >= 500
        case exceptions.ModelConnectionError():
            return not any(isinstance(cause, WrongReply) for cause in causes(error))
        case _:
            return isinstance(
                error, exceptions.ModelRateLimitError | exceptions.ModelUnavailableError | exceptions.ModelServerError
            )


def _retry_after(error: exceptions.ModelAPIError) -> float | None:
    """Return the seconds that the server asks to wait, which can be a fraction."""
    if error.retry_after is None and isinstance(error, exceptions.ModelHTTPError) and error.headers:
        try:
            return max(0.0, float(error.headers.get("retry-after", "")))
        except ValueError:
            return None
    return error.retry_after
