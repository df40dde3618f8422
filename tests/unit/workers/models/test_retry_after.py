"""How long a provider asks to wait is read from all its usual places, and never made up."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_ai.exceptions import ModelHTTPError, ModelOverloadedError, ModelRateLimitError

from workers.models.provider.retry_after import retry_after

NOW = datetime(2026, 12, 1, 12, 0, tzinfo=UTC)


def limited(headers: dict[str, str], body: Any = None) -> ModelHTTPError:
    return ModelHTTPError.for_category(ModelRateLimitError, status_code=429, model_name="m", headers=headers, body=body)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "12"}, 12),
        ({"Retry-After": " 0.25 "}, 0.25),
        ({"Retry-After": "0"}, 0),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "1500", "Retry-After": "2"}, 1.5),
        ({"retry-after-ms": "soon", "Retry-After": "2"}, 2),
        ({"Retry-After": "Tue, 01 Dec 2026 12:01:30 GMT"}, 90),
        ({"Retry-After": "Tue, 01 Dec 2026 12:01:30 GMT", "Date": "Tue, 01 Dec 2026 12:01:00 GMT"}, 30),
        ({"Retry-After": "Tue, 01 Dec 2026 11:00:00 GMT"}, 0),
        ({"Retry-After": "100000"}, 100_000),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "NaN"}, None),
        ({"Retry-After": "1e300"}, None),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "Tue, 01 Dec 9999 12:00:00 GMT"}, None),
    ],
)
def test_retry_after_is_a_number_of_seconds_or_a_date(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(limited(headers), NOW) == seconds


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}, 360),
        ({"x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "6m0s"}, None),
        ({"x-ratelimit-reset-requests": "6m0s"}, None),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1h2m3.5s"}, 3723.5),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "20ms"}, 0.02),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "8.64s"}, 8.64),
        ({"x-ratelimit-remaining-requests-day": "0", "x-ratelimit-reset-requests-day": "33011.5"}, 33011.5),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(NOW.timestamp()) + 60)}, 60),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(NOW.timestamp() * 1000) + 60_000)}, 60),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "-4"}, None),
        ({"ratelimit-remaining": "0", "ratelimit-reset": "50"}, 50),
        (
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "10s",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "2m",
            },
            120,
        ),
        (
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "10s",
                "x-ratelimit-remaining-tokens": "90",
                "x-ratelimit-reset-tokens": "2m",
            },
            10,
        ),
        (
            {
                "anthropic-ratelimit-requests-remaining": "0",
                "anthropic-ratelimit-requests-reset": "2026-12-01T12:00:20Z",
                "anthropic-ratelimit-input-tokens-remaining": "0",
                "anthropic-ratelimit-input-tokens-reset": "2026-12-01T12:05:00Z",
                "anthropic-ratelimit-output-tokens-remaining": "8000",
                "anthropic-ratelimit-output-tokens-reset": "2026-12-01T13:00:00Z",
            },
            300,
        ),
        (
            {
                "anthropic-ratelimit-tokens-remaining": "0",
                "anthropic-ratelimit-tokens-reset": "2026-12-01T11:59:00Z",
            },
            0,
        ),
        (
            {
                "anthropic-ratelimit-unified-status": "rejected",
                "anthropic-ratelimit-unified-reset": str(int(NOW.timestamp()) + 7200),
            },
            7200,
        ),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "5s", "Retry-After": "9"}, 9),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "9s", "Retry-After": "5"}, 9),
    ],
)
def test_of_the_quotas_that_are_used_up_the_latest_reset_counts(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(limited(headers), NOW) == seconds


GOOGLE = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.5s"}


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"code": 429, "details": [{"@type": "type.googleapis.com/google.rpc.Help"}, GOOGLE]}},
        [{"error": {"code": 429, "details": [GOOGLE]}}],
        {"code": 429, "details": [GOOGLE]},
        '{"error": {"details": [{"retryDelay": "34.5s"}]}}',
    ],
)
def test_the_delay_of_google_is_found_in_the_body(body: Any) -> None:
    assert retry_after(limited({}, body), NOW) == 34.5
    assert retry_after(limited({"Retry-After": "60"}, body), NOW) == 60


@pytest.mark.parametrize("delay", ["-3s", "soon", "", "NaNs", 7, None])
def test_a_delay_of_google_that_makes_no_sense_says_nothing(delay: Any) -> None:
    assert retry_after(limited({}, {"error": {"details": [{"retryDelay": delay}]}}), NOW) is None


def test_a_reset_header_says_nothing_about_an_overloaded_server() -> None:
    headers = {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "5s"}
    busy = ModelHTTPError.for_category(ModelOverloadedError, status_code=529, model_name="m", headers=headers)
    assert retry_after(busy, NOW) is None


def test_what_the_client_of_a_provider_has_read_counts_where_there_are_no_headers() -> None:
    assert retry_after(ModelRateLimitError("m", "slow down", retry_after=3.5), NOW) == 3.5
    assert retry_after(ModelRateLimitError("m", "slow down"), NOW) is None


@given(st.text(max_size=30), st.text(max_size=30))
def test_whatever_a_server_sends_is_a_possible_time_or_nothing(asked: str, reset: str) -> None:
    headers = {
        "Retry-After": asked,
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": reset,
        "anthropic-ratelimit-tokens-remaining": "0",
        "anthropic-ratelimit-tokens-reset": asked,
    }
    found = retry_after(limited(headers, {"error": {"details": [{"retryDelay": reset}]}}), NOW)
    assert found is None or 0 <= found <= 31_536_000
