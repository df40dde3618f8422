"""Rate limits that LLMs share: real workers, RabbitMQ, and nginx, whose access log is the judge."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fluffle.client.sync import SyncClient
from tests.support.nginx import NGINX, Entry, RateLimiter
from tests.support.openai_server import OpenAIServer, Text
from tests.support.processes import until
from tests.support.site import Site

RETRY_AFTER = 2
TASKS = 24
KEY = {"OPENAI_API_KEY": "sk-shared"}

pytestmark = pytest.mark.skipif(NGINX is None, reason="needs nginx: apt-get install nginx-light")


@pytest.fixture
def limiter(tmp_path: Path) -> Iterator[RateLimiter]:
    with OpenAIServer() as server:
        server.otherwise = Text("Done")
        with RateLimiter(tmp_path / "nginx", server.url, rate=2, burst=3, retry_after=RETRY_AFTER) as limiter:
            yield limiter


def three_llms_in_five_processes(site: Site, limiter: RateLimiter) -> None:
    for name in ("ada", "ada", "bea", "bea", "cem"):
        options = ("--model", "openai:gpt", "--base-url", limiter.url, "--slots", "2", "--skills", "s")
        site.worker(name, *options, env=KEY)


def requests_while_closed(log: list[Entry]) -> list[Entry]:
    """The requests that began after a refusal had arrived and before its time was over."""
    refusals = [entry.ended for entry in log if entry.status == 429]
    reaction = 0.5  # seconds, from a refusal at the worker to the decision of the coordinator
    return [
        entry for entry in log if any(refused + reaction < entry.began < refused + RETRY_AFTER for refused in refusals)
    ]


def must_be_completed_at_the_first_counted_attempt(site: Site, client: SyncClient, ids: list[str]) -> None:
    assert [client.task(task_id).status for task_id in ids] == ["completed"] * len(ids)
    assert {starts for (starts,) in site.select("select starts from tasks")} == {1}


def test_after_a_refusal_no_llm_of_the_key_sends_a_request_until_the_time_is_over(
    site: Site, limiter: RateLimiter
) -> None:
    site.coordinator()
    three_llms_in_five_processes(site, limiter)
    with SyncClient(site.url) as client:
        tasks = [client.submit(f"Task {number}.", skills=["s"], max_attempts=1) for number in range(TASKS)]
        assert [task.result(150) for task in tasks] == ["Done"] * TASKS
        must_be_completed_at_the_first_counted_attempt(site, client, [task.id for task in tasks])
        assert client.llm("ada").limit == client.llm("cem").limit
    log = limiter.log()
    assert any(entry.status == 429 for entry in log)
    assert requests_while_closed(log) == []


def test_a_closed_limit_stays_closed_when_the_leading_coordinator_is_killed(site: Site, limiter: RateLimiter) -> None:
    leader = site.coordinator(FLUFFLE_LEADER_LEASE="1")
    site.coordinator(until="standing by", FLUFFLE_LEADER_LEASE="1")
    three_llms_in_five_processes(site, limiter)
    with SyncClient(site.url) as client:
        tasks = [client.submit(f"Task {number}.", skills=["s"], max_attempts=1) for number in range(TASKS)]
        until(lambda: any(entry.status == 429 for entry in limiter.log()), "a request is refused")
        until(lambda: bool(site.select("select 1 from limits")), "the limit is stored")
        leader.kill()
        assert [task.result(150) for task in tasks] == ["Done"] * TASKS
        must_be_completed_at_the_first_counted_attempt(site, client, [task.id for task in tasks])
    assert requests_while_closed(limiter.log()) == []
