"""A worker reports a limit, a quota and an overload at once, with what the provider said, over HTTP."""

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from broker.protocol.status import FAULTS, Fault
from tests.integration.models.conftest import failure, failure_of, llm_at
from tests.support.openai_server import Document, Events, OpenAIServer, Refusal, Text, ToolCall
from tests.unit.workers.models.test_tools_of_models import toolbox
from workers.models.base import Job, Usage
from workers.models.provider.failures import kinds

POINT = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}


def test_every_type_of_failure_of_a_model_has_its_fault() -> None:
    assert {name for name, _ in kinds()} <= FAULTS.keys()


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "20"}, 20),
        ({"retry-after-ms": "2500"}, 2.5),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}, 360),
        ({"x-ratelimit-remaining-tokens": "12", "x-ratelimit-reset-tokens": "6m0s"}, None),
        ({"Retry-After": "86400"}, 86_400),
        ({"Retry-After": "-1"}, None),
    ],
)
async def test_a_429_is_reported_after_one_request_with_what_the_provider_said(
    server: OpenAIServer, headers: dict[str, str], seconds: float | None
) -> None:
    started = time.monotonic()
    error = await failure(server, Refusal(429, "slow down", headers), Text("never"))
    assert (error.type, error.retryable, error.retry_after) == ("rate_limited", True, seconds)
    assert error.usage is None
    assert len(server.requests) == 1
    assert time.monotonic() - started < 2, "it did not sleep in a slot"


async def test_a_date_is_counted_from_the_clock_of_the_server(server: OpenAIServer) -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(minutes=5), usegmt=True)
    error = await failure(server, Refusal(429, "slow down", {"Retry-After": later}))
    assert error.retry_after == pytest.approx(300, abs=50)
    gone = format_datetime(datetime.now(UTC) - timedelta(minutes=5), usegmt=True)
    assert (await failure(server, Refusal(429, "slow down", {"Retry-After": gone}))).retry_after == 0


async def test_the_delay_of_google_is_read_from_the_body(server: OpenAIServer) -> None:
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.07s"}
    body = [{"error": {"code": 429, "message": "quota", "status": "RESOURCE_EXHAUSTED", "details": [info]}}]
    error = await failure(server, Document(json.dumps(body), "application/json", 429))
    assert (error.type, error.retry_after) == ("rate_limited", 34.07)


async def test_a_limit_of_anthropic_is_reported_with_its_latest_reset(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-test")

    def reset(minutes: int) -> str:
        return (datetime.now(UTC) + timedelta(minutes=minutes)).isoformat()

    server.script(
        Refusal(
            429,
            "This request would exceed your rate limit",
            {
                "anthropic-ratelimit-requests-remaining": "0",
                "anthropic-ratelimit-requests-reset": reset(1),
                "anthropic-ratelimit-input-tokens-remaining": "0",
                "anthropic-ratelimit-input-tokens-reset": reset(4),
                "anthropic-ratelimit-output-tokens-remaining": "100",
                "anthropic-ratelimit-output-tokens-reset": reset(60),
            },
        ),
        Refusal(400, "Your credit balance is too low to access the Anthropic API."),
        Refusal(529, "Overloaded"),
    )
    llm = llm_at(server.url.removesuffix("/v1"), "anthropic:claude-haiku-5-5")
    error = await failure_of(llm)
    assert error.type == "rate_limited"
    assert error.retry_after == pytest.approx(240, abs=50)
    assert [(await failure_of(llm)).type for _ in range(2)] == ["quota_exceeded", "overloaded"]
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        (Refusal(429, "You exceeded your current quota", {}, "insufficient_quota"), "quota_exceeded"),
        (Refusal(402, "Payment required"), "quota_exceeded"),
        (Refusal(403, "Insufficient credits"), "quota_exceeded"),
        (Refusal(429, "Insufficient balance"), "quota_exceeded"),
        (Refusal(400, "API key not valid. Please pass a valid API key."), "authentication"),
        (Refusal(503, "the queue is full"), "overloaded"),
        (Refusal(503, "Loading model", {"Retry-After": "30"}), "overloaded"),
        (Refusal(504, "timeout"), "provider_error"),
        (Refusal(408, "timeout"), "provider_error"),
        (Refusal(409, "conflict"), "provider_error"),
    ],
)
async def test_a_refusal_that_is_the_fault_of_the_llm_is_reported_after_one_request(
    server: OpenAIServer, refusal: Refusal, kind: str
) -> None:
    error = await failure(server, refusal, Text("never"))
    assert error.type == kind
    assert FAULTS[error.type] is Fault.LLM
    assert error.fault is None
    assert len(server.requests) == 1


async def test_a_status_of_a_server_that_is_none_for_models_is_not_the_fault_of_the_task(server: OpenAIServer) -> None:
    error = await failure(server, Refusal(405, "method not allowed"))
    assert (error.type, error.fault) == ("request_rejected", "llm")
    assert (await failure(server, Refusal(400, "temperature is too high"))).fault is None


async def test_a_server_that_loads_its_model_is_waited_for(server: OpenAIServer) -> None:
    server.script(Refusal(503, "Loading model"), Refusal(503, "Loading model"), Text("ok"))
    assert (await llm_at(server.url).run(Job("t-1", 1, "d"), lambda text: None)).result == "ok"
    assert len(server.requests) == 3


async def test_an_error_in_the_middle_of_a_run_is_retried_because_its_work_would_be_lost(server: OpenAIServer) -> None:
    asks = ToolCall('{"question": "Which colour?"}', name="ask_person")
    server.script(asks, Refusal(500, "oops"), Refusal(502, "oops"), Text("blue"))
    answer = await llm_at(server.url).run(Job("t-1", 2, "paint"), lambda text: None, toolbox("ask_person"))
    assert answer.result == "blue"
    assert answer.usage == Usage(input_tokens=22, output_tokens=14, requests=2)
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    "refusal", [Refusal(429, "slow down", {"Retry-After": "0.01"}), Refusal(500, "oops", {"Retry-After": "60"})]
)
async def test_a_limit_and_a_long_pause_end_a_run_at_once_with_its_usage(
    server: OpenAIServer, refusal: Refusal
) -> None:
    error = await failure(server, ToolCall('{"x": "three"}'), refusal, Text("never"), output_schema=POINT)
    assert error.retry_after == float(refusal.headers["Retry-After"])
    assert error.usage == Usage(input_tokens=11, output_tokens=7, requests=1)
    assert len(server.requests) == 2


async def test_a_limit_that_is_reported_within_a_stream_is_a_limit(server: OpenAIServer) -> None:
    event: dict[str, Any] = {"error": {"message": "slow down", "code": "rate_limit_exceeded"}}
    assert (await failure(server, Events(event))).type == "rate_limited"


async def test_twenty_jobs_at_a_closed_limit_make_one_request_each(server: OpenAIServer) -> None:
    server.script(*[Refusal(429, "slow down", {"Retry-After": "1"})] * 40)
    llm = llm_at(server.url)
    errors = await asyncio.gather(*(failure_of(llm) for _ in range(20)))
    assert {(error.type, error.retry_after) for error in errors} == {("rate_limited", 1.0)}
    assert len(server.requests) == 20
