"""Check and correct the event stream of a model server before the client of the provider reads it.

The clients accept any end of a stream as the end of the answer, and any value in `usage`. This module handles three
protocols, which it recognises by their events: the chat completions of OpenAI (and compatible servers), the responses
of OpenAI and the messages of Anthropic. A stream of another protocol passes unchanged.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from broker.mappings import without_none
from workers.models.provider.usage import tokens

_FINISHED = re.compile(rb'"finish_reason"\s*:\s*"[^"]')
_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_ERROR = re.compile(rb'"error"\s*:\s*["{]')

_BEGINNINGS = {"message_start", "response.created", "response.in_progress"}
_ENDINGS = {"message_stop", "response.completed", "response.incomplete", "response.failed", "error"}


class IncompleteAnswer(Exception):
    """The stream ended before the answer did"""


class EventStream:
    """One streamed answer. The result does not depend on where the pieces begin.

    A chat completion gets one `usage` before its end, with the last figures of the server: some servers repeat the
    running totals in every event, and a client adds them up. Impossible figures are left out. An error that is only a
    text becomes an object with a message, as clients expect.
    """

    def __init__(self) -> None:
        self._line = bytearray()  # the incomplete last line
        self._begun = False
        self._whole = False
        self._usage: dict[str, Any] | None = None
        self._envelope: dict[str, Any] = {}

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes, and return the bytes for the client."""
        self._line += data
        if b"\n" not in data:
            return b""
        *lines, rest = bytes(self._line).split(b"\n")
        self._line = bytearray(rest)
        return b"".join(self._checked(line) + b"\n" for line in lines)

    def close(self) -> bytes:
        """End the stream, and return the rest. Raises IncompleteAnswer if the answer is not complete."""
        rest = self._checked(bytes(self._line)) if self._line else b""
        if self._begun and not self._whole:
            raise IncompleteAnswer("the stream ended in the middle of the answer")
        return rest + b"\n\n" + self._usage_event()

    def _checked(self, line: bytes) -> bytes:
        name, colon, value = line.partition(b":")
        value = value.strip()
        if not colon or name not in (b"event", b"data"):
            return line
        if name == b"event":
            self._begun |= value.decode(errors="replace") in _BEGINNINGS
            self._whole |= value.decode(errors="replace") in _ENDINGS
            return line
        if value.startswith(b"[DONE]"):
            self._whole = True
            return self._usage_event() + line
        if b'"choices"' in value:
            self._begun = True
            self._whole |= _FINISHED.search(value) is not None
        return self._data(value, line) if _USAGE.search(value) or _ERROR.search(value) else line if value else b""

    def _data(self, value: bytes, line: bytes) -> bytes:
        try:
            event = json.loads(value)
        except (ValueError, RecursionError):
            return line
        if not isinstance(event, dict):
            return line
        if event.get("error"):
            self._whole = True  # it ends here, and the client says why
            if isinstance(event["error"], str):
                event["error"] = {"message": event["error"]}
                return _data_line(event)
        if "choices" in event and isinstance(event.get("usage"), dict):
            self._usage = chat_usage(event["usage"]) or self._usage
            self._envelope = {key: event[key] for key in ("id", "object", "created", "model") if key in event}
            return _data_line({**event, "usage": None})
        return line

    def _usage_event(self) -> bytes:
        if self._usage is None:
            return b""
        usage, self._usage = self._usage, None
        return _data_line({**self._envelope, "choices": [], "usage": usage}) + b"\n\n"


def chat_usage(given: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the `usage` of a chat completion with its possible figures only; None if it has none.

    A client requires both counts, so an unknown one is 0: no request uses 0 tokens.
    """
    prompt, completion = tokens(given.get("prompt_tokens")), tokens(given.get("completion_tokens"))
    if prompt is None and completion is None:
        return None
    figures: dict[str, Any] = {"prompt_tokens": prompt or 0, "completion_tokens": completion or 0}
    figures["total_tokens"] = sum(figures.values())
    for details in ("prompt_tokens_details", "completion_tokens_details"):
        found = given.get(details)
        if isinstance(found, dict):
            known = {name: tokens(value) for name, value in found.items()}
            figures[details] = without_none(known)
    return figures


def _data_line(event: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(event).encode()
