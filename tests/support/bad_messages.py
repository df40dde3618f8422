"""Bad messages of every kind, and unusual ones that are valid."""

import json
import struct
from dataclasses import dataclass, field
from typing import Any

from tests.support.amqp import Amqp, raw_properties
from tests.support.rabbitmq import ON_RABBITMQ_4

ANSWERS = "bad-input.answers"
LARGE = 15 if ON_RABBITMQ_4 else 17  # MiB; RabbitMQ 4 itself refuses more than 16
TASKS, STATUS = "fluffle.tasks", "fluffle.status"
FINE: dict[str, Any] = {"description": "this would be fine"}
RESULT: dict[str, Any] = {"task_id": "never-was", "attempt": 1, "instance": "i", "outcome": "completed"}


@dataclass(frozen=True)
class Bad:
    """A bad message, with the path and some words of the expected error.

    `answered` is false where no answer is possible. `raw` are bytes of properties that pika cannot encode.
    """

    body: Any = field(default_factory=lambda: FINE)
    exchange: str = TASKS
    key: str | bytes = "submit"
    path: str = ""
    says: str = ""
    properties: dict[str, Any] = field(default_factory=dict)
    raw: bytes | None = None
    answered: bool = True

    @property
    def bytes(self) -> bytes:
        """Return the body as bytes."""
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()

    def publish(self, client: Amqp) -> None:
        """Publish the message with ANSWERS as its reply queue."""
        given = {"reply_to": ANSWERS, "correlation_id": "bad", "delivery_mode": 2, **self.properties}
        client.publish(self.exchange, self.key, self.bytes, **({"raw": self.raw} if self.raw is not None else given))

    def is_told_by(self, errors: list[dict[str, str]]) -> bool:
        """Return whether one of the errors is the expected one."""
        return any(error["path"] == self.path and self.says in error["message"] for error in errors)


def task(**fields: Any) -> dict[str, Any]:
    return {**FINE, **fields}


def raw_task(inputs: bytes) -> bytes:
    return b'{"description": "-", "inputs": ' + inputs + b"}"


def field_table(levels: int) -> bytes:
    """Return an AMQP table that holds one table, and so on."""
    value = b"I" + struct.pack(">i", 1)
    for _ in range(levels):
        table = b"\x01a" + value
        value = b"F" + struct.pack(">I", len(table)) + table
    return b"\x01a" + value


def with_headers(table: bytes) -> bytes:
    return raw_properties(headers=table, correlation_id=b"bad", reply_to=ANSWERS.encode())


BODIES = {
    "empty": Bad(b"", says="JSON"),
    "blank": Bad(b" \n", says="JSON"),
    "not UTF-8": Bad(b'{"description": "\xff\xfe"}', says="JSON"),
    "UTF-16": Bad('{"description": "x"}'.encode("utf-16"), says="JSON"),
    "a byte order mark": Bad(b'\xef\xbb\xbf{"description": "x"}', says="JSON"),
    "truncated": Bad(b'{"description": "Summ', says="JSON"),
    "two values": Bad(b'{"description": "a"} {"description": "b"}', says="JSON"),
    "not JSON": Bad(b"please summarise this", says="JSON"),
    "gzip": Bad(b"\x1f\x8b\x08\x00\x00\x00\x00\x00", says="JSON"),
    "half a surrogate": Bad(b'{"description": "\\ud800"}', says="JSON"),
    "a list": Bad([FINE], says="object"),
    "a text": Bad("description", says="object"),
    "null": Bad(b"null", says="object"),
    "10,000 levels": Bad(raw_task(b"[" * 10_000 + b"]" * 10_000), says="recursion"),
    "10,000 levels without an end": Bad(b'{"a":' * 10_000, says="recursion"),
    "150 levels": Bad(raw_task(b"[" * 150 + b"]" * 150), path="inputs", says="nested deeper than 100"),
    "NaN": Bad(raw_task(b"NaN"), says="JSON"),
    "Infinity": Bad(raw_task(b"[-Infinity]"), says="JSON"),
    "1e999": Bad(raw_task(b"1e999"), path="inputs", says="out of range"),
    "a number of 5,000 digits": Bad(raw_task(b"9" * 5000), says="out of range"),
    "over 1 MiB": Bad(task(inputs="x" * 1_048_576), says="the limit is 1,048,576"),
    f"{LARGE} MiB": Bad(b" " * LARGE * 1024 * 1024, says="the limit is 1,048,576"),
    "20,000 unknown fields": Bad(task(**{f"field-{n}": n for n in range(20_000)}), path="field-0", says="unknown"),
    "an unknown field of 500,000 letters": Bad(task(**{"x" * 500_000: 1}), path="x" * 200, says="unknown field"),
}

FIELDS = {
    "no description": Bad({}, path="description", says="required"),
    "empty description": Bad(task(description=""), path="description", says="is empty"),
    "a number as description": Bad(task(description=5), path="description", says="string"),
    "NUL in the description": Bad(task(description="a\0b"), path="description", says="must not contain NUL characters"),
    "unknown field": Bad(task(colour="red"), path="colour", says="unknown field"),
    "priority as text": Bad(task(priority="7"), path="priority", says="integer"),
    "priority 10": Bad(task(priority=10), path="priority", says="less than or equal to 9"),
    "priority 1.5": Bad(task(priority=1.5), path="priority", says="integer"),
    "a text for a list": Bad(task(skills="python"), path="skills", says="array"),
    "a skill in capitals": Bad(
        task(skills=["ok", "Python"]), path="skills.1", says="must be 1-63 characters: a-z, 0-9 or any of"
    ),
    "65 skills": Bad(task(skills=[f"s{n}" for n in range(65)]), path="skills", says="at most 64"),
    "skills that are too long together": Bad(
        task(skills=[f"{n:063}" for n in range(64)]), path="skills", says="at most 2,000 characters"
    ),
    "a name with a blank": Bad(
        task(assignee="my llm"), path="assignee", says='must be 1-63 characters: a-z, 0-9 or "-"'
    ),
    "an LLM that nobody knows": Bad(task(assignee="nobody"), path="assignee", says="no LLM named nobody"),
    "due without offset": Bad(task(due="2026-12-01T09:00:00"), path="due", says="timezone"),
    "due in month 13": Bad(task(due="2026-13-01T09:00:00Z"), path="due", says="month"),
    "due after the year 9999": Bad(task(due="9999-12-31T23:59:59-10:00"), path="due", says="out of range"),
    "not_before the year 1": Bad(task(not_before="0001-01-01T00:00:00+10:00"), path="not_before", says="out of range"),
    "timeout of no time": Bad(task(timeout=0), path="timeout", says="greater than 0"),
    "timeout of ages": Bad(task(timeout=1e300), path="timeout", says="less than or equal"),
    "no attempts": Bad(task(max_attempts=0), path="max_attempts", says="greater than or equal to 1"),
    "an object for labels": Bad(task(labels={}), path="labels", says="array"),
    "a list for metadata": Bad(task(metadata=[]), path="metadata", says="object"),
    "an id of 65 letters": Bad(task(id="x" * 65), path="id", says="must be 1-64 characters"),
    "an empty id": Bad(task(id=""), path="id", says="must be 1-64 characters"),
    "an id with a blank": Bad(task(id="a b"), path="id", says="must be 1-64 characters"),
    "a dependency of 65 letters": Bad(task(depends_on=["x" * 65]), path="depends_on.0", says="must be 1-64 characters"),
    "1,001 dependencies": Bad(task(depends_on=[f"t{n}" for n in range(1001)]), path="depends_on", says="at most 1000"),
    "a task that waits for itself": Bad(task(id="me", depends_on=["me"]), says="a cycle: me -> me"),
    "a task that waits for its own message id": Bad(
        task(depends_on=["me"]), path="depends_on", says="a cycle: me -> me", properties={"message_id": "me"}
    ),
    "a cancel without an id": Bad({}, key="cancel", path="id", says="required"),
    "a cancel that is no object": Bad([], key="cancel", says="object"),
    "a retry of an impossible id": Bad({"id": "a b"}, key="retry", path="id", says="must be 1-64 characters"),
    "an update to nothing": Bad({"id": "t", "priority": None}, key="update", says="priority"),
    "slots below zero": Bad({"llm": "worker", "slots": -1}, key="manage", path="slots", says="greater than or equal"),
}


def doubling(levels: int) -> dict[str, Any]:
    """Return a short schema in which every level applies the next one twice."""
    defs: dict[str, Any] = {f"a{n}": {"allOf": 2 * [{"$ref": f"#/$defs/a{n + 1}"}]} for n in range(levels)}
    return {"$defs": {**defs, f"a{levels}": {}}, "$ref": "#/$defs/a0"}


def nested(levels: int) -> dict[str, Any]:
    """Return a schema with this many nested schemas."""
    return {"not": nested(levels - 1)} if levels else {}


def schema(says: str, **schema: Any) -> Bad:
    """Return a task with an invalid schema, and words of the expected error."""
    return Bad(task(output_schema=schema), path="output_schema", says=says)


SCHEMAS = {
    "a schema of no type": schema("$.type: 'strnig' is not valid", type="strnig"),
    "a schema of 33,000 properties": schema(
        "is too large: 912,906 bytes; the limit is 65,536",
        properties={f"p{n}": {"type": "null"} for n in range(33_000)},
    ),
    "a schema of 501 subschemas": schema("more than 500 subschemas", properties={f"p{n}": {} for n in range(500)}),
    "a schema that doubles 18 times": schema("expand to more than 10,000 subschemas", **doubling(18)),
    "a schema in a schema, 50 times": schema("deeper than 50 levels", **nested(50)),
    "a schema that is itself": schema("refers to itself", **{"$ref": "#"}),
    "a schema of somewhere else": schema("leads out of the schema", **{"$ref": "http://127.0.0.1:1/schema.json"}),
    "a schema that refers to nothing": schema("leads to no schema", **{"$ref": "#/$defs/nothing"}),
    "a schema of the dialect 5": schema("$.$schema: 5 is not text", **{"$schema": 5}),
    "a schema of draft 3": schema("draft 3 is not supported", **{"$schema": "http://json-schema.org/draft-03/schema#"}),
    "a pattern that is none": schema("is not a 'regex'", pattern="("),
    "a pattern of 1,001 characters": schema("the limit is 1,000", pattern="x" * 1001),
    "patterns of 5,001 characters": schema("more than 5,000", allOf=[{"pattern": "x" * n} for n in (*[1000] * 5, 1)]),
}

PROPERTIES = {
    "a correlation id that is not UTF-8": Bad(
        raw=raw_properties(correlation_id=b"\xff\xfe", reply_to=ANSWERS.encode()),
        path="correlation_id",
        says="is not text",
    ),
    "a message id that is not UTF-8": Bad(
        raw=raw_properties(message_id=b"\xff", reply_to=ANSWERS.encode()), path="message_id", says="is not text"
    ),
    "a reply_to that is not UTF-8": Bad(
        raw=raw_properties(reply_to=b"\xff"), path="reply_to", says="is not text", answered=False
    ),
    "bad headers and a bad body": Bad(b"", raw=with_headers(b"\x01aT" + struct.pack(">Q", 2**62)), says="JSON"),
    "NUL in the correlation id": Bad(path="correlation_id", says="NUL", properties={"correlation_id": "a\0b"}),
    "a message id of 255 letters": Bad(path="message_id", says="1-64", properties={"message_id": "x" * 255}),
    "a message id with a blank": Bad(path="message_id", says="1-64", properties={"message_id": "a b"}),
    "a compressed body": Bad(path="content_encoding", says="'gzip'", properties={"content_encoding": "gzip"}),
    "a bad body and nobody to tell": Bad(b"{", says="JSON", properties={"reply_to": None}, answered=False),
    "a bad body and an empty reply_to": Bad(b"{", says="JSON", properties={"reply_to": ""}, answered=False),
    "a bad body and a reply queue that is not there": Bad(
        b"{", says="JSON", properties={"reply_to": "no such queue"}, answered=False
    ),
    "a bad body and 60 KB of headers": Bad(
        b"{", says="JSON", properties={"headers": {f"h{n}": "x" * 1000 for n in range(60)}}
    ),
}

KEYS = {
    f"{exchange} {key[:20]!r}": Bad(exchange=exchange, key=key, says="unknown routing key")
    for exchange in (TASKS, "fluffle.work", "fluffle.queries", "fluffle.rejected")
    for key in ("nonsense", "task.submit", "a.b.c.d.e.f", "", "Submit", "x" * 255, b"\xff" * 255)
} | {
    "straight into the inbox": Bad(exchange="", key="fluffle.coordinator", says="unknown routing key"),
}

REPORTS = {
    "a key without a name": Bad(exchange=STATUS, key="nonsense", says="must begin with an LLM's name"),
    "an empty key": Bad(exchange=STATUS, key="", says="must begin with an LLM's name"),
    "a key of 255 bytes that are not UTF-8": Bad(exchange=STATUS, key=b"\xff" * 255, says="begin with an LLM's name"),
    "a name in capitals": Bad(RESULT, STATUS, "Worker.result", says="must begin with an LLM's name"),
    "a name of two words": Bad(RESULT, STATUS, "llm.worker.result", says="must begin with an LLM's name"),
    "an unknown report": Bad(exchange=STATUS, key="worker.nonsense", says="unknown routing key"),
    "an empty result": Bad(b"", STATUS, "worker.result", says="JSON"),
    "a result of bytes": Bad(bytes(range(256)), STATUS, "worker.result", says="JSON"),
    "a result of nothing": Bad({}, STATUS, "worker.result", path="outcome", says="required"),
    "a result of an unknown task": Bad(RESULT, STATUS, "worker.result", path="task_id", says="no such task"),
    "a result of an attempt that never was": Bad(
        {**RESULT, "task_id": "known", "attempt": 99},
        STATUS,
        "worker.result",
        path="attempt",
        says="never had attempt 99",
    ),
    "a result of an attempt beyond all numbers": Bad(
        {**RESULT, "task_id": "known", "attempt": 10**30}, STATUS, "worker.result", path="attempt", says="never had"
    ),
    "a result of somebody else's attempt": Bad(
        {**RESULT, "task_id": "known"}, STATUS, "mallory.result", path="attempt", says="mallory has never had attempt 1"
    ),
    "a result of attempt 0": Bad({**RESULT, "attempt": 0}, STATUS, "worker.result", path="attempt", says="greater"),
    "a failure without an error": Bad(
        {**RESULT, "outcome": "failed"}, STATUS, "worker.result", says="required when the outcome is failed"
    ),
    "a claim of nothing": Bad({}, STATUS, "worker.claim", path="task_id", says="required"),
    "a hello under another name": Bad(
        {"name": "other", "instance": "i"}, STATUS, "worker.hello", path="name", says="the routing key says 'worker'"
    ),
    "a beat with a skill above 1": Bad(
        {"name": "worker", "instance": "i", "skills": {"a": 2}},
        STATUS,
        "worker.beat",
        path="skills.a",
        says="less than",
    ),
    "a goodbye without an instance": Bad(
        {"name": "worker"}, STATUS, "worker.goodbye", path="instance", says="required"
    ),
    "progress of a number": Bad(
        {"task_id": "t", "attempt": 1, "instance": "i", "text": 2},
        STATUS,
        "worker.progress",
        path="text",
        says="string",
    ),
}

HELLO: dict[str, Any] = {"sender": "user.ana", "content": "hello"}


def message(body: Any = None, key: str | bytes = "llm.worker", **expected: Any) -> Bad:
    return Bad(HELLO if body is None else body, "fluffle.messages", key, **expected)


MESSAGES = {
    f"a message to {key[:20]!r}": message(key=key, says="must be an address")
    for key in ("nonsense", "task.submit", "a.b.c.d.e.f", "", "llm.Worker", "x" * 255, b"\xff" * 255)
} | {
    "a message to an LLM that never was": message(key="llm.nobody", path="receiver", says="no worker of that name"),
    "a message to a person without a mailbox": message(key="user.nobody", path="receiver", says="gets a mailbox"),
    "a message to an empty group": message(key="group.nobody", path="receiver", says="nobody is in the group"),
    "an answer to a reply queue that is ours": message(
        {**HELLO, "in_reply_to": "m", "receiver": "user.nobody"},
        "fluffle.coordinator",
        path="receiver",
        says="nobody has the address user.nobody",
    ),
    "a message of nothing": message({}, path="content", says="required"),
    "a message of bytes": message(bytes(range(256)), says="JSON"),
    "a message without text": message({**HELLO, "content": ""}, path="content", says="is empty"),
    "a message with NUL": message({**HELLO, "content": "a\0"}, path="content", says="must not contain NUL characters"),
    "a message of nobody": message({"content": "hello"}, path="sender", says="required"),
    "a message of a group": message({**HELLO, "sender": "group.x"}, path="sender", says="must be an address"),
    "a message to somebody else": message(
        {**HELLO, "receiver": "user.bo"}, path="receiver", says="the routing key says 'llm.worker'"
    ),
    "a message that is nested too deep": message(
        {**HELLO, "metadata": {"a": json.loads("[" * 101 + "]" * 101)}}, path="metadata", says="nested deeper"
    ),
}

BAD = BODIES | FIELDS | SCHEMAS | PROPERTIES | KEYS | REPORTS | MESSAGES

ODD = {
    "priority 255": {"priority": 255},
    "a timestamp of long ago": {"timestamp": 0},
    "a header that is null": {"headers": {"a": None}},
    "60 KB of headers": {"headers": {f"h{n}": "x" * 1000 for n in range(60)}},
    "100 tables in each other": {"raw": with_headers(field_table(100))},
    "a header key that is not UTF-8": {"raw": with_headers(b"\x02\xff\xfeI" + struct.pack(">i", 1))},
    "a content encoding that changes nothing": {"content_encoding": "UTF-8"},
    "another content type": {"content_type": "text/plain"},
    "an unknown type": {"type": "x" * 255},
    "a correlation id of many tongues": {"correlation_id": "ключ-鍵-🐇"},
}
