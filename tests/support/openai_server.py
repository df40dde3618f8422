"""A scripted server on 127.0.0.1 for OpenAI's streamed chat completions.

with OpenAIServer() as server:
    server.script(Refusal(429, "slow down", {"Retry-After": "1"}), Text("Hello", " there"))
    ...  # a client at server.url is refused once and then answered
    assert len(server.requests) == 2
"""

import json
import socket
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from types import TracebackType
from typing import Any, Self


class Text:
    """An answer in these pieces. `finish` is the finish reason: `stop`, `length`, `content_filter`, or None.

    `usage` is (input tokens, output tokens), or None as from a server that does not report it. Without `done` the last
    event is not `[DONE]`.
    """

    def __init__(
        self,
        *pieces: str,
        usage: tuple[int, int] | None = (11, 7),
        finish: str | None = "stop",
        done: bool = True,
    ) -> None:
        self.pieces = pieces
        self.usage = usage
        self.finish = finish
        self.done = done

    def deltas(self, request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the choices of each chunk."""
        for piece in self.pieces:
            yield {"content": piece}


class Paused(Text):
    """An answer that pauses after its first piece until `go_on` is set."""

    def __init__(self, *pieces: str) -> None:
        super().__init__(*pieces)
        self.go_on = threading.Event()

    def deltas(self, request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the first piece at once."""
        first, *rest = super().deltas(request)
        yield first
        assert self.go_on.wait(150)
        yield from rest


class ToolCall(Text):
    """A tool call with its arguments in pieces; without `name`, of the first tool of the request."""

    def __init__(self, *arguments: str, name: str | None = None) -> None:
        super().__init__(*arguments, finish="tool_calls")
        self.name = name

    def deltas(self, request: Mapping[str, Any], index: int = 0) -> Iterator[dict[str, Any]]:
        """Yield the name of the call, then its arguments piece by piece."""
        name = self.name or request["tools"][0]["function"]["name"]
        called = {"name": name, "arguments": ""}
        yield {"tool_calls": [{"index": index, "id": f"call_{index}", "type": "function", "function": called}]}
        for piece in self.pieces:
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


class ToolCalls(Text):
    """Several tool calls in one answer."""

    def __init__(self, *calls: ToolCall) -> None:
        super().__init__(finish="tool_calls")
        self.calls = calls

    def deltas(self, request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield one call after the other."""
        for index, call in enumerate(self.calls):
            yield from call.deltas(request, index)


class Events(Text):
    """A stream of exactly these events: each a JSON object, or its name and an object."""

    def __init__(self, *events: Mapping[str, Any] | tuple[str, Mapping[str, Any]]) -> None:
        super().__init__()
        self.events = events


class Silence(Text):
    """No answer; `left` is set when the client has closed the connection."""

    def __init__(self) -> None:
        super().__init__()
        self.left = threading.Event()


class Dropped(Text):
    """An answer that ends after these pieces with a broken connection."""


class Stalled(Text):
    """An answer that stops after these pieces; `left` is set when the client has closed the connection."""

    def __init__(self, *pieces: str) -> None:
        super().__init__(*pieces)
        self.left = threading.Event()


@dataclass
class Refusal:
    """An HTTP error with a body like OpenAI's."""

    status: int
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)
    code: str | None = None


@dataclass
class Document:
    """A document that is no answer, such as a web page."""

    body: str
    content_type: str = "text/html"
    status: int = 200


@dataclass
class Request:
    """A request of a client: path, headers in lower case, body."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


Reply = Text | Refusal | Document


class OpenAIServer:
    """Serves its script in order, one entry per request, and records the requests."""

    def __init__(self, port: int = 0) -> None:
        """`port` 0 is any free port."""
        self.requests: list[Request] = []
        self.models: list[str] | Document | None = None
        """What it says when it is asked for its models; None: there is no such list."""
        self.otherwise: Reply = Refusal(500, "the script is over")
        """What it replies when its script is over."""
        self._script: deque[Reply] = deque()
        server = self

        class Handler(_Handler):
            def models(self) -> list[str] | Document | None:
                return server.models

            def next_reply(self, request: Request) -> Reply:
                server.requests.append(request)
                return server._script.popleft() if server._script else server.otherwise

        self._http = _Http(("127.0.0.1", port), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        """Return the base URL for clients."""
        return f"http://127.0.0.1:{self._http.server_port}/v1"

    def script(self, *replies: Reply) -> None:
        """Append the replies to the next requests."""
        self._script.extend(replies)

    @property
    def replies_left(self) -> int:
        """Return how many replies are left."""
        return len(self._script)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class _Http(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore closed connections: clients of tests are killed, or give up, on purpose."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def next_reply(self, request: Request) -> Reply:
        raise NotImplementedError

    def models(self) -> list[str] | Document | None:
        raise NotImplementedError

    def do_GET(self) -> None:
        match self.models():
            case Document() as document:
                self._send(document)
            case None:
                self._send(Document("404 page not found", "text/plain", 404))
            case names:
                listed = [{"id": name, "object": "model", "created": 0, "owned_by": "library"} for name in names]
                self._send(Document(json.dumps({"object": "list", "data": listed}), "application/json"))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply = self.next_reply(Request(self.path, headers, body))
        if isinstance(reply, Refusal):
            self._refuse(reply)
        elif isinstance(reply, Document):
            self._send(reply)
        elif isinstance(reply, Silence):
            self._wait_for_the_end(reply.left)
        else:
            self._stream(reply, body)

    def _refuse(self, refusal: Refusal) -> None:
        error = {"message": refusal.message, "type": "error", "param": None, "code": refusal.code}
        body = json.dumps({"error": error}).encode()
        self.send_response(refusal.status)
        for name, value in {"Content-Type": "application/json", **refusal.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send(self, document: Document) -> None:
        body = document.body.encode()
        self.send_response(document.status)
        self.send_header("Content-Type", document.content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _wait_for_the_end(self, left: threading.Event) -> None:
        self.close_connection = True
        with suppress(ConnectionError):  # a killed client does not close its connection
            while self.connection.recv(1024):
                pass
        left.set()

    def _stream(self, reply: Text, request: Mapping[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        model = request["model"]
        if isinstance(reply, Events):
            self._send_events(reply.events)
            self._send_chunk(b"")
            return
        self._send_events(_chunk(model, delta) for delta in chain([{"role": "assistant"}], reply.deltas(request)))
        if isinstance(reply, Dropped):
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        elif isinstance(reply, Stalled):
            self._wait_for_the_end(reply.left)
        else:
            self._send_events(_ending(model, reply, request))
            self._send_chunk(b"")

    def _send_events(self, events: Iterable[Mapping[str, Any] | tuple[str, Mapping[str, Any]] | str]) -> None:
        for event in events:
            name, data = event if isinstance(event, tuple) else ("", event)
            line = data if isinstance(data, str) else json.dumps(data)
            self._send_chunk(f"{f'event: {name}{chr(10)}' if name else ''}data: {line}\n\n".encode())

    def _send_chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def log_message(self, *args: Any) -> None:
        """Quiet."""


def _chunk(model: str, delta: Mapping[str, Any], finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return {**_envelope(model), "choices": [choice]}


def _ending(model: str, reply: Text, request: Mapping[str, Any]) -> Iterator[Mapping[str, Any] | str]:
    if reply.finish is not None:
        yield _chunk(model, {}, reply.finish)
    if reply.usage and (request.get("stream_options") or {}).get("include_usage"):
        prompt, completion = reply.usage
        usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
        yield {**_envelope(model), "choices": [], "usage": usage}
    if reply.done:
        yield "[DONE]"


def _envelope(model: str) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": model}
