"""People and any AMQP client send messages to LLMs, and LLMs to each other: real processes, a real broker."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from broker.protocol.chat import made_from
from fluffle.client.sync import SyncClient
from tests.support.amqp import Amqp
from tests.support.chat_history import CONVERSE, contents, next_of, until_recorded
from tests.support.processes import until
from tests.support.shell import Shell
from tests.support.site import Site
from tests.support.task_audit import Ledger

TEXT = "RabbitMQ keeps messages. Quorum queues are replicated with Raft. Consumers acknowledge. Rabbits dig warrens."


def test_an_llm_answers_with_the_conversation_so_far(ana: SyncClient, ada: str) -> None:
    first = ana.ask(ada, "one")
    assert (first.sender, first.receiver, first.content) == ("llm.ada", "user.ana", "answering one")
    second = ana.ask(ada, "two", conversation_id=first.conversation_id)
    assert second.content == "user.ana: one | llm.ada: answering one | answering two"
    assert second.conversation_id == first.conversation_id == first.in_reply_to


def test_the_demo_model_answers_with_sentences_that_were_said_to_it(site: Site, shell: Shell) -> None:
    site.worker("demo", "--model", "demo")
    begun = shell.json("message", "ask", "demo", TEXT)
    assert "Quorum queues are replicated with Raft." in begun["content"]
    asked = shell("message", "ask", "demo", "What do rabbits do?", "-c", begun["conversation_id"])
    assert "- Rabbits dig warrens." in asked
    assert "demo (offline extractive summariser)" in asked


def test_a_question_right_after_an_answer_is_not_missed(ana: SyncClient, ada: str) -> None:
    for _ in range(15):
        conversation = ana.ask(ada, "0").conversation_id
        for number in range(1, 8):
            answer = ana.ask(ada, str(number), timeout=20, conversation_id=conversation)
            assert answer.content.endswith(f"answering {number}")


def test_a_command_receives_the_conversation_on_standard_input(site: Site, ana: SyncClient) -> None:
    site.worker("cat", "--exec", "cat")
    first = ana.ask("cat", "one")
    assert first.content == "one"
    second = ana.ask("cat", "two", conversation_id=first.conversation_id)
    assert '<message sender="user.ana">\none\n</message>' in second.content
    assert '<message_to_answer sender="user.ana">\ntwo\n</message_to_answer>' in second.content


def test_a_mailbox_does_not_wait_behind_a_long_task(ana: SyncClient, ada: str, tmp_path: Path, ledger: Ledger) -> None:
    gate = tmp_path / "gate"
    task = ana.submit("take long", assignee=ada, inputs={"gate": str(gate)})
    until(lambda: ledger.effects("started"), "the only slot is taken")
    assert ana.ask(ada, "are you there?").content == "answering are you there?"
    assert ana.task(task.id).status == "in_progress"
    gate.touch()
    task.result(30)


def test_conversations_run_in_parallel_and_each_keeps_its_order(ana: SyncClient, ada: str, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    slow = ana.send(ada, "slow", metadata={"gate": str(gate)})
    behind = ana.send(ada, "behind", conversation_id=slow.conversation_id)
    assert ana.ask(ada, "quick").content == "answering quick"
    gate.touch()
    inbox = ana.inbox()
    answers = [next_of(inbox), next_of(inbox)]
    assert [answer.in_reply_to for answer in answers] == [slow.id, behind.id]
    assert answers[1].content == "user.ana: slow | llm.ada: answering slow | answering behind"


def test_an_llm_that_cannot_answer_sends_the_reason(ana: SyncClient, ada: str, shell: Shell) -> None:
    answer = ana.ask(ada, "fail")
    assert (answer.content, answer.metadata) == ("I cannot answer: no ink", {"error": "ValueError"})
    assert "no ink" in shell("message", "ask", ada, "fail", code=3)


def test_an_llm_does_not_answer_the_answer_of_another_llm(ana: SyncClient, client: Amqp, ada: str) -> None:
    answer = {"sender": "llm.bela", "content": "42", "in_reply_to": "m-1", "id": "a-1"}
    begin = {"sender": "llm.bela", "content": "a question", "id": "q-1"}
    for body in (answer, begin):
        client.publish("fluffle.messages", "llm.ada", body)
    recorded = until_recorded(ana, 3, participant="llm.ada")
    assert [view.id for view in recorded] == ["a-1", "q-1", made_from("q-1", "llm.ada")]


def test_a_message_delivered_twice_is_answered_once(ana: SyncClient, client: Amqp, ada: str, ledger: Ledger) -> None:
    assert list(ana.inbox(wait=False)) == []  # now there is a mailbox for the answer
    for _ in range(3):
        client.publish("fluffle.messages", "llm.ada", {"sender": "user.ana", "content": "hello", "id": "m-1"})
    ana.ask(ada, "and now something else")
    assert [message.in_reply_to for message in ana.inbox(wait=False)] == ["m-1"]
    assert len(ledger.effects("asked")) == 2


def said_plainly(client: Amqp, *contents: str, key: str = "llm.ada", **properties: Any) -> None:
    """Send messages of one conversation like `amqp-publish`, without ids; some are equal byte by byte."""
    for content in contents:
        body = {"sender": "user.ana", "content": content, "conversation_id": "walk"}
        client.publish("fluffle.messages", key, body, **properties)


def test_the_same_text_sent_twice_without_an_id_is_two_messages(ana: SyncClient, client: Amqp, ada: str) -> None:
    said_plainly(client, "start", "continue", "continue", "stop")
    told = until_recorded(ana, 8, conversation_id="walk")
    questions = [view for view in told if view.in_reply_to is None]
    assert [view.content for view in questions] == ["start", "continue", "continue", "stop"]
    assert sorted(view.in_reply_to or "" for view in told if view.in_reply_to) == sorted(it.id for it in questions)
    last = next(view for view in told if view.in_reply_to == questions[2].id)
    assert last.content.count("user.ana: continue") == 1


def test_a_text_sent_again_to_a_new_worker_is_answered_again(
    site: Site, ana: SyncClient, client: Amqp, ada: str, ledger: Ledger
) -> None:
    said_plainly(client, "continue")
    until_recorded(ana, 2, conversation_id="walk")
    [worker] = site.workers
    worker.terminate()
    worker.wait()
    site.worker("ada", *CONVERSE, env=ledger.env)
    said_plainly(client, "continue", "continue")
    told = until_recorded(ana, 6, conversation_id="walk")
    assert len({view.in_reply_to for view in told if view.in_reply_to}) == 3


def test_a_redelivered_message_without_an_id_is_answered_once_by_a_new_worker(
    site: Site, ana: SyncClient, client: Amqp, ada: str, ledger: Ledger, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    body = {"sender": "user.ana", "content": "go", "conversation_id": "walk", "metadata": {"gate": str(gate)}}
    client.publish("fluffle.messages", "llm.ada", body)
    client.publish("fluffle.messages", "llm.ada", body)
    until_recorded(ana, 2, conversation_id="walk")
    site.workers[0].kill()
    gate.touch()
    site.worker("ada", *CONVERSE, env=ledger.env)
    told = until_recorded(ana, 4, conversation_id="walk")
    assert len({view.in_reply_to for view in told if view.in_reply_to}) == 2


def test_the_same_text_sent_twice_is_shown_twice(bo: SyncClient, client: Amqp) -> None:
    assert list(bo.inbox(wait=False)) == []
    said_plainly(client, "hop", "hop", key="user.bo")
    assert [it.content for it in bo.inbox(wait=False, keep=True)] == ["hop", "hop"]
    assert [it.content for it in bo.inbox(wait=False)] == ["hop", "hop"]
    assert list(bo.inbox(wait=False)) == []


def test_a_message_without_an_id_and_without_a_mailbox_is_one_message(ana: SyncClient, client: Amqp) -> None:
    answers = client.queue()
    said_plainly(client, "hop", key="llm.nobody", reply_to=answers)
    assert client.take(answers).type == "message.rejected"
    [view] = until_recorded(ana, 1, conversation_id="walk")
    assert (view.content, view.delivered) == ("hop", False)
    client.take("fluffle.rejected")


def test_a_worker_that_is_killed_while_it_answers_leaves_one_answer(
    site: Site, ana: SyncClient, tmp_path: Path, ledger: Ledger
) -> None:
    gate = tmp_path / "gate"
    first = site.worker("ada", *CONVERSE, env=ledger.env)
    question = ana.send("ada", "one", metadata={"gate": str(gate)})
    until(lambda: len(ledger.effects("asked")) == 1, "the first worker has begun to answer")
    first.kill()
    site.worker("ada", *CONVERSE, env=ledger.env)
    until(lambda: len(ledger.effects("asked")) == 2, "the second worker has begun to answer")
    gate.touch()
    inbox = ana.inbox()
    assert next_of(inbox).in_reply_to == question.id
    until_recorded(ana, 2, conversation_id=question.id)
    assert contents(ana, conversation_id=question.id) == ["one", "answering one"]
    assert list(ana.inbox(wait=False)) == []


def test_an_answer_sent_before_the_worker_died_is_not_sent_again(
    site: Site, ana: SyncClient, client: Amqp, ada: str, ledger: Ledger
) -> None:
    answered = ana.ask(ada, "one")
    until_recorded(ana, 2, conversation_id=answered.conversation_id)
    site.workers[-1].kill()
    question = {"sender": "user.ana", "content": "one", "id": answered.in_reply_to}
    client.publish("fluffle.messages", "llm.ada", question)
    client.give_back("llm.ada")  # as when the worker dies before it has acknowledged the question
    site.worker("ada", *CONVERSE, env=ledger.env)
    assert ana.ask(ada, "two").content == "answering two"
    site.workers[-1].wait_for("already answered")
    assert len(ledger.effects("asked")) == 2
    assert list(ana.inbox(wait=False)) == []


def test_an_llm_answers_messages_without_a_coordinator(ana: SyncClient, site: Site, ada: str) -> None:
    begun = ana.ask(ada, "one")
    site.coordinators[-1].terminate()
    site.coordinators[-1].wait()
    answer = ana.ask(ada, "two", conversation_id=begun.conversation_id)
    assert answer.content == "user.ana: one | llm.ada: answering one | answering two"
    assert "answering without the history" in site.workers[-1].output


# -- any AMQP client -----------------------------------------------------------------------------------------------


@pytest.mark.skipif(not shutil.which("amqp-publish"), reason="amqp-tools are not installed")
def test_a_message_from_the_shell_is_answered_into_the_mailbox(site: Site, client: Amqp, ada: str) -> None:
    site.person("tess")
    client.queue(("fluffle.mailboxes", "user.tess"), name="user.tess", durable=True)
    body = json.dumps({"sender": "user.tess", "content": "hello"})
    command = ["amqp-publish", "-u", site.url, "-e", "fluffle.messages", "-r", "llm.ada", "-b", body]
    subprocess.run(command, check=True, timeout=30)
    answer = client.take("user.tess").json()
    assert (answer["sender"], answer["content"]) == ("llm.ada", "answering hello")


def test_direct_reply_to_brings_the_answer(client: Amqp, ada: str) -> None:
    question = {"sender": "user.cleo", "content": "hello"}
    (answer,) = client.ask_directly("fluffle.messages", "llm.ada", question, answers=1)
    assert answer.json()["content"] == "answering hello"
    assert answer.properties.correlation_id == "direct"
