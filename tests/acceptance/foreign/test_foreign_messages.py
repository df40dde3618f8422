"""Properties, addresses, answers and ids in messages of clients that are written in other languages."""

import json
import struct
from pathlib import Path

import pytest

from broker.errors import TaskRejected
from fluffle.client.client import Client
from tests.support.amqp import Amqp, raw_properties
from tests.support.foreign_requests import (
    ANSWERS,
    COMPLETED,
    DOABLE,
    QUERIES,
    STATUS,
    TASK,
    TASKS,
    errors,
    is_online,
    stands,
    submitted,
)
from tests.support.processes import until
from tests.support.shell import Shell
from tests.support.site import Site

# -- properties ----------------------------------------------------------------------------------------------------

MILLISECONDS = b"\x01aT" + struct.pack(">Q", 1_790_000_000_000)
TRACE = b"\x0btraceparentS\0\0\0\x37" + b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"


def test_an_undecodable_header_loses_neither_the_task_nor_other_headers(client: Amqp) -> None:
    client.submit(
        TASK | {"assignee": "nora"}, raw=raw_properties(headers=MILLISECONDS + TRACE, reply_to=b"%b" % ANSWERS.encode())
    )
    accepted = client.take(ANSWERS)
    assert accepted.type == "task.accepted"
    assert accepted.headers["traceparent"].startswith("00-aaaa")


def test_a_correlation_id_of_bytes_is_rejected_with_its_path_and_returned(client: Amqp) -> None:
    client.submit(TASK, raw=raw_properties(correlation_id=b"\xff\0\xfe", reply_to=ANSWERS.encode()))
    until(lambda: client.depth(ANSWERS), "it is answered")
    answer = client.take(ANSWERS)
    assert answer.json()["errors"] == [{"path": "correlation_id", "message": "is not text in UTF-8"}]
    assert answer.properties.correlation_id in (b"\xff\0\xfe", "\xff\0\xfe")
    assert client.take("fluffle.rejected").properties.correlation_id == answer.properties.correlation_id


@pytest.mark.parametrize("name", ["message_id", "correlation_id"])
def test_a_property_that_is_not_text_is_named_in_the_error(client: Amqp, name: str) -> None:
    client.submit(TASK, raw=raw_properties(reply_to=ANSWERS.encode(), **{name: b"\xff"}))
    assert errors(client) == {name: "is not text in UTF-8"}


@pytest.mark.parametrize("encoding", ["binary", "8bit", "US-ASCII", "us-ascii", "UTF-8", "Utf8", "7BIT", "identity"])
def test_an_identity_content_encoding_is_accepted(client: Amqp, encoding: str) -> None:
    submitted(client, TASK | {"assignee": "nora"}, content_encoding=encoding)


def test_a_value_of_amqp_1_is_rejected_with_a_hint(client: Amqp) -> None:
    client.submit(b"\0Sw\xa1\x05hello", type="amqp-1.0", reply_to=ANSWERS)
    assert "one data section" in errors(client)[""]


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00Z", "0001-01-01T00:00:00+00:00"])
def test_the_zero_time_of_go_counts_as_no_time(client: Amqp, moment: str) -> None:
    task = submitted(client, TASK | {"assignee": "nora", "due": moment, "not_before": moment})
    assert task.keys().isdisjoint(("due", "not_before", "overdue"))


@pytest.mark.parametrize("field", ["due", "not_before"])
def test_a_time_before_1970_is_rejected(client: Amqp, field: str) -> None:
    client.submit(TASK | {field: "1969-12-31T23:59:59Z"}, reply_to=ANSWERS)
    assert errors(client) == {field: "must not be before 1970; leave the field out to set no time"}


# -- origins of messages and destinations of answers ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["foreign.answers.1", "foreign/ans wers%2"])
def test_a_queue_may_be_named_as_amqp_1_names_it(client: Amqp, name: str) -> None:
    client.queue(name=name)
    encoded = name.replace("%", "%25").replace("/", "%2F").replace(" ", "%20")
    client.submit(DOABLE, reply_to=f"/queues/{encoded}")
    assert [client.take(name).type for _ in range(2)] == ["task.accepted", "task.completed"]
    client.submit(b"{", reply_to=f"/queues/{encoded}")
    assert client.take(name).type == "task.rejected"
    client.take("fluffle.rejected")
    client.publish(QUERIES, "llms", {}, reply_to=f"/queues/{encoded}")
    assert client.take(name).type == "query.answer"


def test_an_unknown_query_is_a_rejected_query(client: Amqp) -> None:
    client.publish(QUERIES, "weather", {}, reply_to=ANSWERS)
    assert "unknown routing key 'weather'" in errors(client, "query.rejected")[""]


def test_the_routing_key_decides_what_a_message_from_another_exchange_is(client: Amqp, site: Site) -> None:
    channel = client.channel
    channel.exchange_declare("foreign", "topic")
    channel.exchange_bind(TASKS, "foreign", "submit")
    channel.exchange_bind(STATUS, "foreign", "*.hello")
    channel.exchange_bind(STATUS, "amq.topic", "#.result")
    channel.exchange_bind(QUERIES, "foreign", "task")
    try:
        client.publish("foreign", "mqtt.hello", {"name": "mqtt", "instance": "i"})
        until(lambda: is_online(client, "mqtt"), "its LLM is online")
        client.publish("foreign", "submit", {**TASK, "id": "by-foreign", "assignee": "nora"}, reply_to=ANSWERS)
        assert client.take(ANSWERS).json()["id"] == "by-foreign"
        until(lambda: stands(client, "by-foreign")["status"] == "assigned", "nora has it")
        client.publish(
            "amq.topic", "nora.result", {"task_id": "by-foreign", "attempt": 1, "instance": "n1", **COMPLETED}
        )
        assert client.take(ANSWERS).type == "task.completed"
        client.publish("foreign", "task", {"id": "by-foreign"}, reply_to=ANSWERS)
        assert client.take(ANSWERS).type == "query.answer"
    finally:
        channel.exchange_unbind(STATUS, "amq.topic", "#.result")
        channel.exchange_delete("foreign")


def test_the_type_decides_what_a_message_published_to_the_queue_is(client: Amqp) -> None:
    client.publish(
        "", "fluffle.coordinator", TASK | {"id": "straight", "assignee": "nora"}, type="submit", reply_to=ANSWERS
    )
    assert client.take(ANSWERS).type == "task.accepted"
    until(lambda: stands(client, "straight")["status"] == "assigned", "nora has it")
    result = {"task_id": "straight", "attempt": 1, "instance": "n1", **COMPLETED}
    client.publish("", "fluffle.coordinator", result, type="nora.result")
    assert client.take(ANSWERS).type == "task.completed"
    client.publish("", "fluffle.queries", {"id": "straight"}, type="task", reply_to=ANSWERS)
    assert client.take(ANSWERS).type == "query.answer"
    client.publish("", "fluffle.coordinator", TASK, reply_to=ANSWERS)
    assert "unknown routing key" in errors(client)[""]


def test_an_expired_submission_is_listed_among_the_rejected(client: Amqp, site: Site, shell: Shell) -> None:
    coordinator = site.coordinators[-1]
    coordinator.terminate()
    coordinator.wait()
    client.submit(DOABLE | {"id": "stale"}, message_id="stale", expiration="1", reply_to=ANSWERS)
    site.coordinator()
    until(lambda: client.depth("fluffle.rejected"), "it is a dead letter")
    assert "expired before the coordinator read it" in shell("rejected", "list")
    shell("rejected", "requeue", "stale")
    assert [client.take(ANSWERS).type for _ in range(2)] == ["task.accepted", "task.completed"]


# -- answers -------------------------------------------------------------------------------------------------------


def test_an_rpc_helper_that_takes_the_first_answer_gets_the_result(client: Amqp) -> None:
    """Such a helper waits for one answer with its correlation id, of any type."""
    [answer] = client.ask_directly(TASKS, "submit", DOABLE | {"answers": "final"}, 1)
    assert (answer.type, answer.json()["status"]) == ("task.completed", "completed")
    [refusal] = client.ask_directly(TASKS, "submit", {"answers": "final"}, 1)
    assert refusal.type == "task.rejected"
    client.take("fluffle.rejected")
    both = client.ask_directly(TASKS, "submit", DOABLE | {"answers": "all"}, 2)
    assert [answer.type for answer in both] == ["task.accepted", "task.completed"]


def test_a_submitter_that_wants_the_final_answer_gets_one_answer(client: Amqp) -> None:
    client.submit({**DOABLE, "id": "once", "answers": "final"}, reply_to=ANSWERS)
    client.submit({**DOABLE, "id": "once", "answers": "final"}, reply_to=ANSWERS)
    until(lambda: stands(client, "once")["status"] == "completed", "it is done")
    client.submit({**DOABLE, "id": "last"}, reply_to=ANSWERS)
    kinds = [client.take(ANSWERS).type]
    while kinds[-1] != "task.accepted":  # that of the last task
        kinds.append(client.take(ANSWERS).type)
    assert set(kinds[:-1]) == {"task.completed"}
    assert client.take(ANSWERS).type == "task.completed"


# -- a known id ----------------------------------------------------------------------------------------------------


def test_the_same_task_again_is_accepted_and_a_different_one_is_rejected(client: Amqp) -> None:
    task = {**TASK, "id": "twice", "assignee": "nora", "inputs": {"a": 1, "b": None}, "priority": 7}
    assert "known" not in submitted(client, task)
    again = {"inputs": {"b": None, "a": 1}, "assignee": "nora", "labels": None, "description": "anything"}
    assert submitted(client, again, message_id="twice", priority=7)["known"] is True
    client.publish(TASKS, "update", {"id": "twice", "priority": 1, "labels": ["x"]}, reply_to=ANSWERS)
    assert client.take(ANSWERS).type == "task.accepted"
    assert submitted(client, task)["known"] is True
    client.submit({**task, "inputs": {"a": 2}, "max_attempts": 1}, reply_to=ANSWERS)
    told = errors(client)
    assert list(told) == ["inputs", "max_attempts"]
    assert told["inputs"] == "differs from that of task twice, which is there already"


def test_the_command_line_distinguishes_a_known_task_from_a_different_one(client: Amqp, shell: Shell) -> None:
    submit = ("task", "submit", "anything", "--id", "typed", "--assignee", "nora")
    assert shell(*submit) == "typed\n"
    again = shell.run(*submit)
    assert (again.returncode, again.stdout) == (0, b"typed\n")
    assert again.stderr.startswith(b"task typed was already known and stays as it is: ")
    assert (
        shell.error(*submit, "--priority", "9") == "priority: differs from that of task typed, which is there already"
    )
    client.take("fluffle.rejected")


def test_json_lines_mark_known_tasks(client: Amqp, shell: Shell) -> None:
    known, other, fresh = (
        json.dumps({**TASK, "assignee": "nora", "id": name, "inputs": inputs})
        for name, inputs in (("line-1", 1), ("line-1", 2), ("line-2", 1))
    )
    assert shell("task", "submit", "--json-lines", "-", given=known) == "line-1\n"
    done = shell.run("task", "submit", "--json-lines", "-", given=f"{known}\n{other}\n{fresh}\n")
    assert (done.returncode, done.stdout) == (1, b"line-1\nline-2\n")
    assert done.stderr.decode().splitlines() == [
        "Error: line 2: inputs: differs from that of task line-1, which is there already",
        "1 of 3 tasks were already known and stay as they are",
    ]
    client.take("fluffle.rejected")


async def test_a_client_receives_the_ends_of_both_tasks(client: Amqp, site: Site) -> None:
    async with Client(site.url) as submitting:
        first = await submitting.submit("anything", id="py", assignee="nora")
        with pytest.raises(TaskRejected, match="description: differs from that of task py"):
            await submitting.submit("something else", id="py", assignee="nora")
        same = await submitting.submit("anything", id="py", assignee="nora", labels=[])
        assert (first.was_known, same.was_known) == (False, True)
        attempt = {"task_id": "py", "attempt": 1, "instance": "n1"}
        client.publish(STATUS, "nora.result", {**attempt, **COMPLETED})
        assert await first.result(30) == await same.result(30) == "done"
    client.take("fluffle.rejected")


def test_a_rejected_plan_leaves_existing_tasks_unchanged(client: Amqp, shell: Shell, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    text = '[task.one]\ndescription = "one"\nassignee = "nora"\n[task.two]\ndescription = "{0}"\nassignee = "nora"\n'
    plan.write_text(text.format("two"))
    one, _ = (line.split("\t")[0] for line in shell("task", "submit", str(plan), "--id", "run").splitlines())
    plan.write_text(text.format("other"))
    assert shell.error("task", "submit", str(plan), "--id", "run").startswith("two.description: differs")
    assert stands(client, one)["status"] in ("pending", "assigned")
    client.take("fluffle.rejected")
