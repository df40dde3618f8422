"""The HTTP client for models: it detects replies that are no answer, which the clients of providers would accept."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2

from workers.models.provider.event_stream import EventStream, IncompleteAnswer

CONNECTIONS = httpx2.Limits(max_connections=1000, max_keepalive_connections=100)

_SHOWN_BYTES = 100_000


class WrongReply(httpx2.TransportError):
    """The reply with status 200 is no streamed answer"""


def model_client() -> httpx2.AsyncClient:
    """Return a client that raises WrongReply for a page or a document instead of an event stream.

    A stream that ends before its answer raises httpx2.RemoteProtocolError, as if the connection was lost. Each request
    sets its own timeouts.
    """
    return httpx2.AsyncClient(
        limits=CONNECTIONS,
        follow_redirects=True,
        event_hooks={"request": [_without_compression], "response": [_check]},
    )


def shown_url(url: httpx2.URL | str) -> str:
    """Return the URL without user, password and query, which can be secret."""
    return str(httpx2.URL(url).copy_with(userinfo=b"", query=None))


async def _without_compression(request: httpx2.Request) -> None:
    request.headers["Accept-Encoding"] = "identity"  # so that the bytes of a stream are its text


async def _check(response: httpx2.Response) -> None:
    if response.status_code != 200:
        return
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind == "text/html":
        raise WrongReply(
            f"{shown_url(response.url)} answered with a web page: is the base URL right? (it usually ends in /v1)",
            request=response.request,
        )
    if response.request.method != "POST":
        return
    if kind == "application/json":
        message = _message(await response.aread())
        raise WrongReply(f"{shown_url(response.url)} did not stream its answer: {message}", request=response.request)
    if response.headers.get("Content-Encoding", "identity") == "identity":
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _Checked(response.stream, response.request)


def _message(body: bytes) -> str:
    if not body.strip():
        return "the answer is empty"
    try:
        found: Any = json.loads(body[:_SHOWN_BYTES])
    except ValueError:
        return "the server sent something else"
    error = found.get("error") if isinstance(found, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    return str(message) if message else "the server must support `stream`"


class _Checked(httpx2.AsyncByteStream):
    """The bytes of an event stream, corrected by an EventStream."""

    def __init__(self, source: httpx2.AsyncByteStream, request: httpx2.Request) -> None:
        self._source = source
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        events = EventStream()
        async for data in self._source:
            if checked := events.feed(data):
                yield checked
        try:
            yield events.close()
        except IncompleteAnswer as error:
            raise httpx2.RemoteProtocolError(str(error), request=self._request) from error

    async def aclose(self) -> None:
        await self._source.aclose()
