"""Convert AMQP 1.0 messages to deliveries of AMQP 0-9-1."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from broker.amqp.envelope import Delivery, Properties
from broker.amqp10.types import Alien, decode

UNTRANSLATABLE = "fluffle-untranslatable"  # header with the reason why RabbitMQ cannot deliver a message by AMQP 0-9-1

_SHORT = 255  # bytes of a text property of AMQP 0-9-1
_NAMES = ("message_id", "user_id", "to", "subject", "reply_to", "correlation_id", "content_type", "content_encoding")


@dataclass(slots=True)
class _Sections:
    """The sections of an AMQP 1.0 message."""

    annotations: dict[str, Any] = field(default_factory=dict)
    properties: dict[str, Any] = field(default_factory=dict)
    application: dict[str, Any] = field(default_factory=dict)
    body: bytes = b""


def read_delivery(encoded: bytes, version: int, tag: int, ack_batcher: Any, queue: str) -> Delivery:
    """Convert a message to a delivery. Its header UNTRANSLATABLE has the reason if RabbitMQ cannot deliver it."""
    try:
        sections = _sections(encoded)
        why = _why_untranslatable(sections, version)
    except Exception as error:  # of any class: the message must be shown all the same
        sections, why = _Sections(body=encoded), f"the message cannot be decoded ({error})"
    headers: dict[str, Any] = {key: value for key, value in sections.application.items() if isinstance(value, str)}
    if deaths := _deaths(sections.annotations.get("x-opt-deaths")):
        headers["x-death"] = deaths
    if why is not None:
        headers[UNTRANSLATABLE] = why
    own, kind = sections.properties, sections.annotations.get("x-basic-type")
    return Delivery(
        str(sections.annotations.get("x-exchange") or ""),
        str(sections.annotations.get("x-routing-key") or own.get("subject") or ""),
        sections.body,
        True,
        Properties(
            content_type=_shown(own.get("content_type")),
            content_encoding=_shown(own.get("content_encoding")),
            headers=headers,
            correlation_id=_shown(own.get("correlation_id")),
            reply_to=_shown(own.get("reply_to")),
            message_id=_shown(own.get("message_id")),
            type=_shown(kind),
            user_id=_shown(own.get("user_id")),
        ),
        tag,
        ack_batcher,
        queue,
    )


def _sections(encoded: bytes) -> _Sections:
    sections, at = _Sections(), 0
    while at < len(encoded):
        begin = at
        section, at = decode(encoded, at)
        match section.kind:
            case 0x72:  # message annotations
                sections.annotations = section.value
            case 0x73:  # properties
                sections.properties = dict(zip(_NAMES, section.value, strict=False))
            case 0x74:  # application properties
                sections.application = section.value
            case 0x75:  # data
                sections.body += section.value
            case 0x76 | 0x77:  # other bodies
                sections.body += encoded[begin:at]
    return sections


def _why_untranslatable(sections: _Sections, version: int) -> str | None:
    """Return why RabbitMQ cannot translate a message to AMQP 0-9-1 (measured on 3.10 and 4.0); None if it can."""
    for name in ("message_id", "correlation_id") if version < 4 else ():
        match sections.properties.get(name):
            case int():
                return f"{name} is a number"
            case Alien(kind="decimal32" | "decimal64" as decimal):
                return f"{name} is a {decimal}"
    short = ("content_type", "content_encoding", *(("message_id", "correlation_id", "reply_to") if version < 4 else ()))
    for name in short:
        value = sections.properties.get(name)
        if isinstance(value, str) and len(value.encode()) > _SHORT:
            return f"{name} has more than {_SHORT} bytes"
    for section in (sections.application, sections.annotations) if version >= 4 else ():
        for name, value in section.items():
            if kind := next(_aliens(value), None):
                return f"{name} is a {kind}"
    return None


def _aliens(value: Any) -> Iterator[str]:
    if isinstance(value, Alien):
        yield value.kind
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _aliens(item)


def _shown(value: Any) -> str | None:
    match value:
        case None | str():
            return value
        case bytes():
            return value.decode(errors="backslashreplace")
        case Alien():
            return value.raw.hex()
        case _:
            return str(value)


def _deaths(history: Any) -> list[dict[str, Any]]:
    """Convert RabbitMQ's history of a dead letter to the form of AMQP 0-9-1, newest first."""
    found: list[dict[str, Any]] = []
    for death in history if isinstance(history, Sequence) and not isinstance(history, str | bytes) else ():
        if isinstance(death, dict):
            at = death.get("last-time")
            moment = {"time": datetime.fromtimestamp(at / 1000, UTC)} if isinstance(at, int) else {}
            found.append({**death, **moment})
    return found
