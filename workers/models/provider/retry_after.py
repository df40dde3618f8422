"""Read from the error of a provider how long it asks to wait. Nothing is made up: without a word of it, None."""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from pydantic_ai import exceptions

MOST_SECONDS = 31_536_000.0
"""A longer wait, more than a year, is taken for a mistake and ignored."""

_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")
_UNITS = (86_400.0, 3600.0, 60.0, 1.0, 0.001)
_OPENAI_RESET = re.compile(r"(?:x-)?ratelimit-reset(-.+)?")
_ANTHROPIC_RESET = re.compile(r"(anthropic-ratelimit-.+)-reset")
_FIRST_EPOCH, _FIRST_EPOCH_MS = 1e9, 1e12  # a larger number is a time, in seconds or milliseconds since 1970
_USED_UP = {"rejected", "exceeded"}


def retry_after(error: exceptions.ModelAPIError, now: datetime | None = None) -> float | None:
    """Return the seconds that the provider asks to wait, from `now` on; None if it does not say.

    It may say so in `retry-after-ms`, `Retry-After` (seconds or a date), in the `retryDelay` of Google, or in the
    reset header of every quota of which nothing remains. Of several moments, the latest counts. A moment in the past
    is 0; negative and impossible figures are ignored.
    """
    headers = _headers(error)
    now = now or datetime.now(UTC)
    found = [_asked(headers, _moment(headers.get("date", "")) or now), _google_delay(error.body)]
    if isinstance(error, exceptions.ModelRateLimitError | exceptions.ModelQuotaExceededError):
        found += _resets(headers, now)
    if not headers:
        found.append(error.retry_after)
    return _latest(found)


def _headers(error: exceptions.ModelAPIError) -> Mapping[str, str]:
    return (error.headers or {}) if isinstance(error, exceptions.ModelHTTPError) else {}


def _asked(headers: Mapping[str, str], sent_at: datetime) -> float | None:
    """Return the wait of `retry-after-ms`, which is exact, or else of `Retry-After`."""
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None and milliseconds >= 0:
        return milliseconds / 1000
    given = headers.get("retry-after", "").strip()
    seconds = _number(given)
    return seconds if seconds is not None else _until(_moment(given), sent_at)


def _resets(headers: Mapping[str, str], now: datetime) -> Iterator[float | None]:
    """Yield the wait for every quota that is used up."""
    for name, value in headers.items():
        if found := _OPENAI_RESET.fullmatch(name):
            prefix, bucket = name.partition("reset")[0], found[1] or ""
            if _number(headers.get(f"{prefix}remaining{bucket}", "")) == 0:
                yield _wait(value, now)
        elif found := _ANTHROPIC_RESET.fullmatch(name):
            is_rejected = headers.get(f"{found[1]}-status", "").lower() in _USED_UP
            if is_rejected or _number(headers.get(f"{found[1]}-remaining", "")) == 0:
                yield _wait(value, now)


def _wait(value: str, now: datetime) -> float | None:
    """Return the seconds of a reset header: `6m0s`, `20ms`, a number of seconds, or a time."""
    value = value.strip()
    number = _number(value)
    if number is None:
        return _length(value) if _length(value) is not None else _until(_moment(value), now)
    if number < _FIRST_EPOCH:
        return number
    seconds = number / 1000 if number >= _FIRST_EPOCH_MS else number
    return max(0.0, seconds - now.timestamp())


def _google_delay(body: Any) -> float | None:
    """Return the `retryDelay` of a `google.rpc.RetryInfo`, such as `34.07s`, wherever it is in the body."""
    if isinstance(body, str) and "retryDelay" in body:
        try:
            body = json.loads(body)
        except (ValueError, RecursionError):
            return None
    match body:
        case {"retryDelay": str(delay)}:
            return _length(delay.strip())
        case {"error": inner} | {"details": inner} if isinstance(inner, dict | list):
            return _google_delay(inner)
        case list():
            return _latest(map(_google_delay, body))
        case _:
            return None


def _length(value: str) -> float | None:
    found = _DURATION.fullmatch(value.lower())
    if found is None or not any(found.groups()):
        return None
    return math.fsum(float(part) * unit for part, unit in zip(found.groups(), _UNITS, strict=True) if part)


def _moment(value: str) -> datetime | None:
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            moment = parse(value.strip())
        except (ValueError, TypeError, IndexError, OverflowError):
            continue
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return None


def _until(moment: datetime | None, now: datetime) -> float | None:
    return None if moment is None else max(0.0, (moment - now).total_seconds())


def _number(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _latest(waits: Iterable[float | None]) -> float | None:
    return max((wait for wait in waits if wait is not None and 0 <= wait <= MOST_SECONDS), default=None)
