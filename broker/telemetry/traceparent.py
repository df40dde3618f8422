"""The header `traceparent` of W3C Trace Context: the trace that a message belongs to."""

import re
from collections.abc import Mapping
from typing import Any

TRACEPARENT = "traceparent"

_FORM = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def trace_of(headers: Mapping[str, Any] | None) -> str | None:
    """Return the traceparent among the headers of a message; None when there is none or it is malformed."""
    if headers is None or (found := headers.get(TRACEPARENT)) is None:
        return None
    return found if isinstance(found, str) and _FORM.fullmatch(found) else None


def in_trace(traceparent: str | None) -> dict[str, str] | None:
    """Return the headers of a message of a trace."""
    return None if traceparent is None else {TRACEPARENT: traceparent}
