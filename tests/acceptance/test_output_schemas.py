"""Output schemas are enforced for every worker, and no schema blocks the coordinator."""

import json
import os
import signal
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.amqp import Amqp, Message
from tests.support.bad_messages import doubling
from tests.support.processes import helpers_of, is_gone, until
from tests.support.site import Site

ANSWERS = "output-schemas.answers"
ENDLESS = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}, "required": ["a"]}
NEVER_MATCHED = {"a": "a" * 44 + "!"}  # a match would take longer than the sun will shine
TOO_LONG = "it took longer than 2 s"
WITH_PATTERN = {"type": "object", "properties": {"n": {"type": "string", "pattern": "^[0-9]+$"}}, "required": ["n"]}
PLAIN = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


@pytest.fixture
def watching(client: Amqp) -> Amqp:
    """Return a plain client with a queue of answers."""
    client.queue(name=ANSWERS)
    return client


class PlainWorker:
    """A worker in a few lines, which reports any answer."""

    def __init__(self, site: Site, client: Amqp, name: str) -> None:
        self._client, self._name = client, name
        self._work = client.queue(("fluffle.work", f"llm.{name}"), name=f"llm.{name}.work", durable=True)
        site.queues |= {self._work, f"llm.{name}"}
        self.say("hello", name=name, slots=20)

    def say(self, what: str, **body: Any) -> None:
        self._client.publish("fluffle.status", f"{self._name}.{what}", {"instance": "i", **body})

    def take(self) -> dict[str, Any]:
        """Take the next task and claim it."""
        task: dict[str, Any] = self._client.take(self._work).json()
        self.say("claim", task_id=task["task_id"], attempt=task["attempt"])
        return task

    def report(self, task: dict[str, Any], result: Any) -> None:
        self.say("result", task_id=task["task_id"], attempt=task["attempt"], outcome="completed", result=result)

    def leave(self) -> None:
        self.say("goodbye", name=self._name)


def submit(client: Amqp, task_id: str, schema: Any = None, **fields: Any) -> None:
    """Submit a task with ANSWERS as its reply queue."""
    task = {"id": task_id, "description": task_id, "max_attempts": 1, "force": True, **fields}
    client.submit({**task, **({"output_schema": schema} if schema else {})}, reply_to=ANSWERS)


def ends(client: Amqp, count: int) -> dict[str, Message]:
    """Return the last answers about this many tasks, in the order of their arrival."""
    found: dict[str, Message] = {}
    while len(found) < count:
        answer = client.take(ANSWERS, within=60)
        if answer.type != "task.accepted":
            found[answer.json()["id"]] = answer
    return found


def attempts(site: Site, task_id: str) -> list[tuple[str, str | None]]:
    """Return the outcome and the error type of every attempt of a task."""
    query = "select attempts.outcome, attempts.error_type from attempts join tasks on tasks.seq = attempts.task_seq"
    query += f" where tasks.id = '{task_id}' order by attempts.attempt"
    return [tuple(row) for row in site.select(query)]


@pytest.fixture
def command(tmp_path: Path) -> str:
    """Return a command that answers with the description, and `evil` with a text for the endless pattern."""
    script = tmp_path / "answer.sh"
    script.write_text(
        f"#!/bin/sh\ntouch {tmp_path}/$FLUFFLE_TASK_ID\n"
        f"case $FLUFFLE_TASK_ID in evil*) echo '{json.dumps(NEVER_MATCHED)}';; *) echo '{{\"n\": 1}}';; esac\n"
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return str(script)


def test_an_endless_schema_check_fails_its_task_and_delays_neither_other_slots_nor_sigterm(
    site: Site, watching: Amqp, command: str, tmp_path: Path
) -> None:
    site.coordinator()
    worker = site.worker("rd", "--exec", command, "--slots", "4")
    submit(watching, "evil-1", ENDLESS, assignee="rd", max_attempts=3)
    until(lambda: helpers_of(worker), "the answer is being checked")
    submit(watching, "good-1", assignee="rd")
    submit(watching, "good-2", WITH_PATTERN | {"properties": {}}, assignee="rd")
    ended = ends(watching, 3)
    assert list(ended)[2] == "evil-1", "the others are done while it is checked"
    assert {task: answer.type for task, answer in ended.items()} == {
        "good-1": "task.completed",
        "good-2": "task.completed",
        "evil-1": "task.failed",
    }
    error = ended["evil-1"].json()["error"]
    assert (error["type"], error["retryable"]) == ("output_schema", False)
    assert TOO_LONG in error["message"]
    submit(watching, "evil-2", ENDLESS, assignee="rd")
    until(lambda: helpers_of(worker), "the answer is being checked")
    worker.terminate()
    assert worker.wait(within=60) == 0
    assert attempts(site, "evil-2") == [("failed", "output_schema")]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {f"property-{n}": {} for n in range(33_000)}},
        doubling(18),
    ],
    ids=["33,000 properties", "18 levels that double"],
)
def test_a_task_after_one_with_a_costly_schema_is_taken_at_once(
    site: Site, watching: Amqp, schema: dict[str, Any]
) -> None:
    """The coordinator refuses the schema before anything compiles it."""
    site.coordinator()
    submit(watching, "warm", assignee="nobody")
    assert watching.take(ANSWERS).type == "task.accepted"
    began = time.monotonic()
    submit(watching, "costly", schema, assignee="nobody")
    submit(watching, "plain", assignee="nobody")
    assert [watching.take(ANSWERS).type for _ in range(2)] == ["task.rejected", "task.accepted"]
    assert time.monotonic() - began < 5


def test_an_attempt_that_times_out_stops_its_schema_check(site: Site, watching: Amqp, command: str) -> None:
    site.coordinator()
    worker = site.worker("rd", "--exec", command, "--slots", "1")
    submit(watching, "good", WITH_PATTERN | {"properties": {"n": {"pattern": "x"}}}, assignee="rd")
    ends(watching, 1)  # the helper is there
    submit(watching, "evil", ENDLESS, assignee="rd", timeout=1)
    assert ends(watching, 1)["evil"].json()["error"]["type"] == "timeout"
    until(lambda: not helpers_of(worker), "its helper is gone")
    submit(watching, "next", assignee="rd")
    assert ends(watching, 1)["next"].type == "task.completed"


def test_a_helper_process_ends_when_its_worker_is_killed(site: Site, watching: Amqp, command: str) -> None:
    site.coordinator()
    worker = site.worker("rd", "--exec", command)
    submit(watching, "evil", ENDLESS, assignee="rd")
    until(lambda: helpers_of(worker), "the answer is being checked")
    [helper] = helpers_of(worker)
    os.kill(worker.pid, signal.SIGKILL)
    until(lambda: is_gone(helper.pid), "the helper has ended")


def test_the_result_of_any_worker_is_checked_against_the_schema_of_its_task(site: Site, watching: Amqp) -> None:
    site.coordinator()
    worker = PlainWorker(site, watching, "any")
    for schema in (PLAIN, WITH_PATTERN):
        kind = "pattern" if schema is WITH_PATTERN else "plain"
        submit(watching, f"wrong-{kind}", schema, assignee="any", max_attempts=2)
        worker.report(worker.take(), {"n": None})
        worker.report(worker.take(), {"n": None})
        submit(watching, f"right-{kind}", schema, assignee="any")
        worker.report(worker.take(), {"n": 1 if schema is PLAIN else "1"})
        ended = ends(watching, 2)
        assert ended[f"right-{kind}"].type == "task.completed"
        error = ended[f"wrong-{kind}"].json()["error"]
        assert (ended[f"wrong-{kind}"].type, error["type"]) == ("task.failed", "output_schema")
        assert "$.n: None is not of type" in error["message"]
        assert attempts(site, f"wrong-{kind}") == 2 * [("failed", "output_schema")]
        assert not site.select(f"select 1 from tasks where id = 'wrong-{kind}' and result is not null")


def test_a_late_result_is_checked_against_the_schema_too(site: Site, watching: Amqp) -> None:
    site.coordinator(FLUFFLE_LEASE="2")
    worker = PlainWorker(site, watching, "late")
    submit(watching, "t", PLAIN, assignee="late", max_attempts=2)
    first = worker.take()
    until(lambda: attempts(site, "t") == [("lost", "lost")], "the first attempt is lost")
    worker.say("hello", name="late", slots=20)
    worker.report(first, {"n": "not a number"})
    worker.report(worker.take(), {"n": 1})
    assert ends(watching, 1)["t"].json()["result"] == {"n": 1}


def test_other_tasks_continue_during_an_endless_schema_check(site: Site, watching: Amqp) -> None:
    coordinator = site.coordinator()
    evil, good = PlainWorker(site, watching, "evil"), PlainWorker(site, watching, "good")
    for number in range(3):
        submit(watching, f"evil-{number}", ENDLESS, assignee="evil")
        evil.report(evil.take(), NEVER_MATCHED)
    until(lambda: helpers_of(coordinator), "an answer is being checked")
    for number, schema in enumerate((None, PLAIN, WITH_PATTERN)):
        submit(watching, f"good-{number}", schema, assignee="good")
        good.report(good.take(), {"n": "1"} if schema is WITH_PATTERN else {"n": 1})
    ended = ends(watching, 6)
    assert [answer.type for answer in ended.values()] == 3 * ["task.completed"] + 3 * ["task.failed"]
    assert list(ended) == [*(f"good-{n}" for n in range(3)), *(f"evil-{n}" for n in range(3))]
    assert all(TOO_LONG in ended[f"evil-{n}"].json()["error"]["message"] for n in range(3))


def test_a_worker_that_leaves_right_after_its_result_has_delivered_it(site: Site, watching: Amqp) -> None:
    site.coordinator()
    worker = PlainWorker(site, watching, "brief")
    submit(watching, "t", WITH_PATTERN, assignee="brief", max_attempts=3)
    worker.report(worker.take(), {"n": "1"})
    worker.leave()
    assert ends(watching, 1)["t"].type == "task.completed"
    assert attempts(site, "t") == [("completed", None)]
    until(lambda: not site.select("select 1 from llms where instances != '{}'"), "it has left")


def test_a_result_that_a_killed_coordinator_was_checking_is_checked_by_the_next(site: Site, watching: Amqp) -> None:
    first = site.coordinator(FLUFFLE_LEADER_LEASE="1")
    worker = PlainWorker(site, watching, "any")
    submit(watching, "evil", ENDLESS, assignee="any")
    worker.report(worker.take(), NEVER_MATCHED)
    until(lambda: helpers_of(first), "the answer is being checked")
    first.kill()
    site.coordinator(FLUFFLE_LEADER_LEASE="1")
    assert TOO_LONG in ends(watching, 1)["evil"].json()["error"]["message"]
    assert attempts(site, "evil") == [("failed", "output_schema")]
    site.drain()
    assert watching.depth("fluffle.coordinator") == 0


def test_a_coordinator_that_stops_returns_unchecked_results_to_the_queue(site: Site, watching: Amqp) -> None:
    first = site.coordinator()
    worker = PlainWorker(site, watching, "any")
    submit(watching, "evil", ENDLESS, assignee="any")
    worker.report(worker.take(), NEVER_MATCHED)
    worker.leave()
    until(lambda: helpers_of(first), "the answer is being checked")
    first.terminate()
    assert first.wait() == 0
    until(lambda: watching.depth("fluffle.coordinator") == 2, "the answer and the goodbye are back")
