"""An endless stream of malformed messages: random changes of valid bodies, headers and properties."""

import copy
import json
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from broker.amqp.envelope import Delivery
from broker.amqp.pika_connection import decode_properties
from broker.protocol.primitives import MAX_BODY_BYTES
from coordinator.inbound.decoder import RejectedDelivery, read
from tests.support.random_texts import schemas

TASKS, STATUS, MESSAGES = "fluffle.tasks", "fluffle.status", "fluffle.messages"
ATTEMPT: dict[str, Any] = {"task_id": "t-1", "attempt": 1, "instance": "i-1"}
PRESENCE: dict[str, Any] = {"name": "ada", "instance": "i-1", "model": "demo", "skills": {"write": 0.5}, "slots": 2}
GOOD: tuple[tuple[str, str, dict[str, Any]], ...] = (
    (TASKS, "submit", {"description": "Summarise", "skills": ["write"], "priority": 7, "inputs": {"text": ["a", 1]}}),
    (TASKS, "submit", {"id": "t-1", "description": "x", "due": "2026-12-01T09:00:00Z", "depends_on": ["t-0"]}),
    (TASKS, "submit", {"description": "x", "assignees": ["ada", "bo"], "mode": "vote", "vote": {"quorum": 2}}),
    (TASKS, "submit", {"description": "x", "output_schema": {"type": "object"}, "metadata": {"a": None}}),
    (TASKS, "cancel", {"id": "t-1", "reason": "no longer needed"}),
    (TASKS, "retry", {"id": "t-1", "changes": {"priority": 9, "due": None}}),
    (TASKS, "assign", {"id": "t-1", "llm": "ada", "now": True}),
    (TASKS, "update", {"id": "t-1", "labels": ["nightly"], "due": None}),
    (TASKS, "manage", {"llm": "ada", "slots": 3, "skills": {"write": 1.0}}),
    (TASKS, "answer", {"id": "t-1", "answer": "yes"}),
    (STATUS, "ada.hello", PRESENCE),
    (STATUS, "ada.beat", {**PRESENCE, "tasks": [{"task_id": "t-1", "attempt": 1}]}),
    (STATUS, "ada.claim", {**ATTEMPT, "at": "2026-12-01T09:00:00Z"}),
    (STATUS, "ada.progress", {**ATTEMPT, "fraction": 0.5, "text": "so far"}),
    (STATUS, "ada.result", {**ATTEMPT, "outcome": "completed", "result": {"a": [1, 2]}, "duration": 1.5}),
    (STATUS, "ada.result", {**ATTEMPT, "outcome": "failed", "error": {"type": "timeout", "retryable": True}}),
    (STATUS, "ada.goodbye", {"name": "ada", "instance": "i-1"}),
    (MESSAGES, "llm.ada", {"id": "m-1", "sender": "user.ana", "receiver": "llm.ada", "content": "hello"}),
)
ODD: tuple[Any, ...] = (
    *(None, True, "", " ", 0, -1, 1.5, 1e308, 2**63, 10**30, [], {}, [[]], {"": {}}, "x" * 300, "\0", "\ud800", "🐇"),
    *("9999-12-31T23:59:59-10:00", "0001-01-01T00:00:00+10:00", "2026-13-01", "llm.", "../..", "a b", "ADA", "%00"),
)
NO_JSON = (b"NaN", b"-Infinity", b"1e999", b"[" * 500 + b"]" * 500, b'{"a":' * 300, b"\xff\xfe", b"\xef\xbb\xbf{}", b"")


@dataclass(frozen=True, slots=True)
class Raw:
    """A message as its bytes on the wire. `properties` are flags and values."""

    exchange: str
    key: str
    body: bytes
    properties: bytes

    def delivery(self) -> Delivery:
        """Return the message as the coordinator receives it. Decoding properties never raises."""
        nowhere: Any = SimpleNamespace(is_open=False)
        return Delivery(self.exchange, self.key, self.body, False, decode_properties(self.properties), 1, nowhere)

    def is_refused(self) -> bool:
        """Return whether the message is malformed: rejected with a reason in any state of the coordinator."""
        match read(self.delivery(), limit=MAX_BODY_BYTES):
            case RejectedDelivery(problems=problems):
                assert problems, f"refused without a reason: {self}"
                return True
            case _:
                return False


class MalformedMessages:
    """Creates messages; the same seed gives the same messages."""

    def __init__(self, seed: int, *, reply_to: bytes | None = None) -> None:
        """With `reply_to`, RabbitMQ itself accepts the properties."""
        self._chance = random.Random(seed)
        self._schemas = schemas(seed)
        self._reply_to = reply_to

    def messages(self) -> Iterator[Raw]:
        """Yield messages that are probably malformed, endlessly."""
        while True:
            exchange, key, good = self._chance.choice(GOOD)
            body, properties = json.dumps(good).encode(), b"\0\0"
            what = self._chance.random()
            if what < 0.85:
                body = self._body(good)
            if what > 0.75:
                properties = self._properties()
            elif self._reply_to is not None:
                properties = _encoded({9: self._reply_to})
            if self._chance.random() < 0.02:
                key = self._chance.choice(("", "submit.x", "ada", "ada.nonsense", "A.hello", "llm", "x" * 255))
            yield Raw(exchange, key, body, properties)

    # -- bodies ----------------------------------------------------------------------------------------------------

    def _body(self, good: dict[str, Any]) -> bytes:
        if "output_schema" in good and self._chance.random() < 0.8:
            return json.dumps({**good, "output_schema": next(self._schemas)}).encode()
        ways: tuple[Callable[[dict[str, Any]], bytes], ...] = (self._other_values, self._other_bytes, self._no_json)
        return self._chance.choices(ways, (6, 3, 1))[0](good)

    def _other_values(self, good: dict[str, Any]) -> bytes:
        changed = json.loads(json.dumps(good))
        for _ in range(self._chance.randint(1, 3)):
            place = changed
            name = self._chance.choice([*place, "unknown"])
            while isinstance(place.get(name), dict) and place[name] and self._chance.random() < 0.5:
                place = place[name]
                name = self._chance.choice(list(place))
            if self._chance.random() < 0.2:
                place.pop(name, None)
            else:
                place[name] = copy.deepcopy(self._chance.choice(ODD))
            if not changed:
                break
        return json.dumps(changed).encode()

    def _other_bytes(self, good: dict[str, Any]) -> bytes:
        body = bytearray(json.dumps(good).encode())
        for _ in range(self._chance.randint(1, 4)):
            start, end = sorted(self._chance.randrange(len(body) + 1) for _ in range(2))
            match self._chance.randrange(5):
                case 0:
                    body[start:start] = self._chance.randbytes(self._chance.randint(1, 4))
                case 1:
                    del body[start:end]
                case 2:
                    body[start:start] = body[start:end]
                case 3:
                    del body[end:]
                case _ if body:
                    body[self._chance.randrange(len(body))] ^= 1 << self._chance.randrange(8)
        return bytes(body)

    def _no_json(self, good: dict[str, Any]) -> bytes:
        if self._chance.random() < 0.5:
            return self._chance.randbytes(self._chance.randint(0, 200))
        return json.dumps(good).encode()[:-1] + b', "inputs": ' + self._chance.choice(NO_JSON) + b"}"

    # -- properties ------------------------------------------------------------------------------------------------

    def _properties(self) -> bytes:
        if self._reply_to is None and self._chance.random() < 0.4:
            return self._chance.randbytes(self._chance.randint(0, 60))
        values: dict[int, bytes] = {} if self._reply_to is None else {9: self._reply_to}
        match self._chance.randrange(4):
            case 0:
                values[13] = self._table(self._chance.randint(1, 4))
            case 1:
                values[self._chance.choice((10, 7, 5, 3))] = b"\xff" + self._chance.randbytes(5)
            case 2:
                values[14] = self._chance.choice((b"gzip", b"br", b"\xc3"))
            case _:
                values[13] = b"\x01a" + b"T" + struct.pack(">Q", self._chance.choice((2**62, 2**63, 253402300800)))
        return _encoded(values)

    def _table(self, levels: int) -> bytes:
        """Return a well-formed AMQP table, sometimes with values that Python cannot represent."""
        entries = b""
        for number in range(self._chance.randint(1, 3)):
            entries += b"\x02h" + bytes([97 + number]) + self._value(levels)
        return entries

    def _value(self, levels: int) -> bytes:
        kinds = ("T", "S", "I", "t", "F") if levels else ("T", "S", "I", "t")
        match kind := self._chance.choice(kinds):
            case "T":
                value = struct.pack(">Q", self._chance.choice((0, 2**40, 2**62)))
            case "S":
                text = self._chance.randbytes(self._chance.randint(0, 20))
                value = struct.pack(">I", len(text)) + text
            case "I":
                value = struct.pack(">i", self._chance.randint(-(2**31), 2**31 - 1))
            case "t":
                value = b"\1"
            case _:
                table = self._table(levels - 1)
                value = struct.pack(">I", len(table)) + table
        return kind.encode() + value


def _encoded(values: dict[int, bytes]) -> bytes:
    """Encode properties by the numbers of their flags; 13 is a table, the others are short texts."""
    encoded = struct.pack(">H", sum(1 << flag for flag in values))
    for flag in sorted(values, reverse=True):
        encoded += struct.pack(">I" if flag == 13 else ">B", len(values[flag])) + values[flag]
    return encoded
