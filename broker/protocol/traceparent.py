"""Which trace a message belongs to: the header `traceparent` of W3C Trace Context, which everybody passes on."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from broker.errors import ConfigurationError

if TYPE_CHECKING:
    from broker.telemetry.tracing import Tracing

TRACEPARENT = "traceparent"

_FORM = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def trace_of(headers: Mapping[str, Any] | None) -> str | None:
    """The traceparent among the headers of a message; None when there is none, or what is there is none."""
    if headers is None or (found := headers.get(TRACEPARENT)) is None:
        return None
    return found if isinstance(found, str) and _FORM.fullmatch(found) else None


def in_trace(traceparent: str | None) -> dict[str, str] | None:
    """The headers of a message of that trace."""
    return None if traceparent is None else {TRACEPARENT: traceparent}


def tracing_for(service: str, *, wanted: bool) -> "Tracing | None":
    """The spans of a program, where they are wanted. Raises ConfigurationError where OpenTelemetry is not installed."""
    if not wanted:
        return None
    try:
        from broker.telemetry.tracing import Tracing
    except ImportError as error:
        raise ConfigurationError("traces need OpenTelemetry: pip install 'fluffle[telemetry]'") from error
    return Tracing(service)
