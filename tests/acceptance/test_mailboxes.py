"""LLMs and people write to each other: real processes, a real broker."""

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from broker.errors import UnknownAddress
from broker.protocol.chat import Message, MessageProgress, made_from
from broker.protocol.views import MessageView
from fluffle.client.sync import SyncClient
from tests.support.amqp import Amqp
from tests.support.openai_server import OpenAIServer, Paused, Text
from tests.support.processes import until
from tests.support.shell import Shell
from tests.support.site import Site
from tests.support.task_audit import Ledger

CONVERSE = ("--handler", "tests.support.recording_llms:converse")
TEXT = "RabbitMQ keeps messages. Quorum queues are replicated with Raft. Consumers acknowledge. Rabbits dig warrens."


@pytest.fixture
def site(site: Site, ledger: Ledger) -> Site:
    """A site with a coordinator."""
    site.coordinator()
    return site


@pytest.fixture
def ada(site: Site, ledger: Ledger) -> str:
    """An LLM that tells what was said before, with one slot."""
    site.worker("ada", *CONVERSE, env=ledger.env)
    return "ada"


@pytest.fixture
def shell(site: Site) -> Shell:
    """The command line of Ana."""
    shell = Shell(site.url, site.state)
    shell.environment["FLUFFLE_USER"] = site.person("ana")
    return shell


@pytest.fixture
def ana(site: Site) -> Iterator[SyncClient]:
    with SyncClient(site.url, user=site.person("ana")) as client:
        yield client


@pytest.fixture
def bo(site: Site) -> Iterator[SyncClient]:
    with SyncClient(site.url, user=site.person("bo")) as client:
        yield client


def contents(client: SyncClient, **filters: Any) -> list[str]:
    """What the history tells, oldest first."""
    return [view.content for view in reversed(list(client.messages(**filters)))]


def until_recorded(client: SyncClient, count: int, **filters: Any) -> list[MessageView]:
    """So many messages of the history, oldest first; waits until the coordinator has them."""
    until(lambda: len(list(client.messages(**filters))) >= count, f"{count} messages are in the history")
    return list(reversed(list(client.messages(**filters))))


def next_of(messages: Iterator[Message]) -> Message:
    """The next message; the test's own timeout ends a wait in vain."""
    return next(messages)


# -- LLMs ----------------------------------------------------------------------------------------------------------


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


def test_no_question_is_overlooked_however_quickly_it_follows_the_answer_before(ana: SyncClient, ada: str) -> None:
    for _ in range(15):
        conversation = ana.ask(ada, "0").conversation_id
        for number in range(1, 8):
            answer = ana.ask(ada, str(number), timeout=20, conversation_id=conversation)
            assert answer.content.endswith(f"answering {number}")


def test_a_command_gets_the_conversation_on_its_standard_input(site: Site, ana: SyncClient) -> None:
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


def test_one_conversation_does_not_wait_for_another_and_keeps_its_own_order(
    ana: SyncClient, ada: str, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    slow = ana.send(ada, "slow", metadata={"gate": str(gate)})
    behind = ana.send(ada, "behind", conversation_id=slow.conversation_id)
    assert ana.ask(ada, "quick").content == "answering quick"
    gate.touch()
    inbox = ana.inbox()
    answers = [next_of(inbox), next_of(inbox)]
    assert [answer.in_reply_to for answer in answers] == [slow.id, behind.id]
    assert answers[1].content == "user.ana: slow | llm.ada: answering slow | answering behind"


def test_an_llm_that_cannot_answer_says_why(ana: SyncClient, ada: str, shell: Shell) -> None:
    answer = ana.ask(ada, "fail")
    assert (answer.content, answer.metadata) == ("I cannot answer: no ink", {"error": "ValueError"})
    assert "no ink" in shell("message", "ask", ada, "fail", code=3)


def test_the_answer_of_an_llm_is_not_answered_by_another(ana: SyncClient, client: Amqp, ada: str) -> None:
    answer = {"sender": "llm.bela", "content": "42", "in_reply_to": "m-1", "id": "a-1"}
    begin = {"sender": "llm.bela", "content": "a question", "id": "q-1"}
    for body in (answer, begin):
        client.publish("fluffle.messages", "llm.ada", body)
    recorded = until_recorded(ana, 3, participant="llm.ada")
    assert [view.id for view in recorded] == ["a-1", "q-1", made_from("q-1", "llm.ada")]


def test_a_message_that_comes_twice_is_answered_once(ana: SyncClient, client: Amqp, ada: str, ledger: Ledger) -> None:
    assert list(ana.inbox(wait=False)) == []  # now there is a mailbox for the answer
    for _ in range(3):
        client.publish("fluffle.messages", "llm.ada", {"sender": "user.ana", "content": "hello", "id": "m-1"})
    ana.ask(ada, "and now something else")
    assert [message.in_reply_to for message in ana.inbox(wait=False)] == ["m-1"]
    assert len(ledger.effects("asked")) == 2


def said_plainly(client: Amqp, *contents: str, key: str = "llm.ada", **properties: Any) -> None:
    """Messages of one conversation as `amqp-publish` sends them, without ids: some are the same, byte by byte."""
    for content in contents:
        body = {"sender": "user.ana", "content": content, "conversation_id": "walk"}
        client.publish("fluffle.messages", key, body, **properties)


def test_what_is_said_twice_without_an_id_is_two_messages(ana: SyncClient, client: Amqp, ada: str) -> None:
    said_plainly(client, "start", "continue", "continue", "stop")
    told = until_recorded(ana, 8, conversation_id="walk")
    questions = [view for view in told if view.in_reply_to is None]
    assert [view.content for view in questions] == ["start", "continue", "continue", "stop"]
    assert sorted(view.in_reply_to or "" for view in told if view.in_reply_to) == sorted(it.id for it in questions)
    last = next(view for view in told if view.in_reply_to == questions[2].id)
    assert last.content.count("user.ana: continue") == 1


def test_what_was_said_to_an_earlier_worker_is_answered_once_more_when_it_is_said_again(
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


def test_a_message_without_an_id_that_comes_again_to_a_new_worker_is_answered_once(
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


def test_people_see_what_is_said_to_them_twice(bo: SyncClient, client: Amqp) -> None:
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


def test_an_answer_that_was_given_before_the_worker_died_is_not_given_again(
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
    site.workers[-1].wait_for("answered already")
    assert len(ledger.effects("asked")) == 2
    assert list(ana.inbox(wait=False)) == []


def test_an_llm_answers_also_while_no_coordinator_runs(ana: SyncClient, site: Site, ada: str) -> None:
    begun = ana.ask(ada, "one")
    site.coordinators[-1].terminate()
    site.coordinators[-1].wait()
    answer = ana.ask(ada, "two", conversation_id=begun.conversation_id)
    assert answer.content == "user.ana: one | llm.ada: answering one | answering two"
    assert "answering without the history" in site.workers[-1].output


# -- people --------------------------------------------------------------------------------------------------------


def test_somebody_who_is_away_finds_what_was_sent_meanwhile(shell: Shell, site: Site) -> None:
    bo = site.person("bo")
    assert shell("message", "inbox", "--as", bo) == ""
    for text in ("one", "two"):
        shell("message", "send", "user.bo", text)
    kept = [line.split("\t")[-1] for line in shell("message", "inbox", "--as", bo, "--keep").splitlines()]
    taken = [line.split("\t")[-1] for line in shell("message", "inbox", "--as", bo).splitlines()]
    assert kept == taken == ["one", "two"]
    assert shell.run("message", "inbox", "--as", bo).stdout == b""


def test_what_comes_again_is_shown_once_however_often_one_looks(bo: SyncClient, client: Amqp) -> None:
    def shown(*, keep: bool = False) -> list[str]:
        return [message.id for message in bo.inbox(wait=False, keep=keep)]

    assert shown() == []
    for keep, expected in ((True, ["m-1"]), (True, ["m-1"]), (False, ["m-1"]), (False, [])):
        client.publish("fluffle.messages", "user.bo", {"sender": "user.ana", "content": "hello", "id": "m-1"})
        assert shown(keep=keep) == expected


def test_people_answer_each_other(ana: SyncClient, bo: SyncClient) -> None:
    asked = bo.inbox()
    assert list(bo.inbox(wait=False)) == []
    question = ana.send("user.bo", "are you there?")
    assert next_of(asked) == question
    bo.send("user.ana", "yes", in_reply_to=question.id)
    answer = next_of(ana.inbox())
    assert (answer.content, answer.conversation_id) == ("yes", question.id)


def test_a_group_and_everybody_get_what_is_for_them(
    ana: SyncClient, bo: SyncClient, site: Site, ledger: Ledger
) -> None:
    site.worker("ada", *CONVERSE, "--group", "readers", env=ledger.env)
    assert list(ana.inbox(wait=False)) == list(bo.inbox(wait=False)) == []
    bo.join("readers")
    ana.send("group.readers", "to the readers")
    ana.send("all", "to everybody")
    inbox = bo.inbox()
    assert [next_of(inbox).content, next_of(inbox).content] == ["to the readers", "to everybody"]
    ana.ask("ada", "something")
    assert list(ana.inbox(wait=False)) == []  # not one's own, and LLMs do not answer what is for many
    bo.leave("readers")
    ana.send("group.readers", "without bo")
    ana.send("user.bo", "last")
    assert next_of(inbox).content == "last"


# -- addresses -----------------------------------------------------------------------------------------------------


def test_an_address_that_nobody_has_is_an_error_at_once_with_a_suggestion(shell: Shell, ada: str) -> None:
    assert shell.error("message", "send", "adda", "hi") == "nobody has the address llm.adda; did you mean llm.ada?"
    assert shell.error("message", "ask", "user.ada", "hi").endswith("did you mean llm.ada?")
    assert "fluffle message inbox" in shell.error("message", "send", "user.nobody", "hi")
    assert "is no address" in shell.error("message", "send", "Ada Lovelace", "hi")


def test_what_the_history_would_not_take_is_not_sent(shell: Shell, ada: str) -> None:
    told = shell.error("message", "send", ada, "-", given="x" * 1_048_576)
    assert re.fullmatch(r"the message has 1,048,\d{3} bytes; the limit is 1,048,576", told)
    assert [shell.error("message", "send", ada, blank) for blank in ("", " \n")] == ["content: is empty"] * 2


@pytest.mark.parametrize(("content", "why"), [(" \n", "is empty"), ("x" * 1_048_576, "1,048,576")])
def test_what_the_history_does_not_take_no_llm_answers(client: Amqp, ada: str, content: str, why: str) -> None:
    answers = client.queue()
    for number, text in enumerate((content, "hello")):
        said = {"sender": "user.ana", "content": text, "id": f"m-{number}"}
        client.publish("fluffle.messages", "llm.ada", said, reply_to=answers)
    came = [client.take(answers).json() for _ in range(2)]
    (refusal,) = [told for told in came if "errors" in told]
    (answer,) = [told for told in came if told is not refusal]
    assert why in refusal["errors"][0]["message"]
    assert answer["in_reply_to"] == "m-1"
    assert client.depth(answers) == 0


def test_a_history_without_what_is_looked_for_says_so(shell: Shell) -> None:
    assert shell.on_terminal("message", "history", "--search", "never said") == "There are no such messages.\n"
    told = shell.on_terminal("message", "conversations", "--with", "user.never-here")
    assert told == "There are no such conversations.\n"


def test_an_unknown_address_is_answered_to_any_client(client: Amqp, site: Site) -> None:
    answers = client.queue()
    hello = {"sender": "user.ana", "content": "hello", "id": "m-1"}
    client.publish("fluffle.messages", "llm.nobody", hello, reply_to=answers, correlation_id="mine")
    refusal = client.take(answers)
    assert (refusal.type, refusal.properties.correlation_id) == ("message.rejected", "mine")
    (error,) = refusal.json()["errors"]
    assert error["path"] == "receiver"
    assert "nobody has the address llm.nobody" in error["message"]
    assert client.take("fluffle.rejected").json() == hello


def test_a_message_to_an_empty_group_brings_a_notice(ana: SyncClient) -> None:
    sent = ana.send("group.nobody", "hello")
    notice = next_of(ana.inbox())
    assert (notice.sender, notice.in_reply_to) == ("coordinator", sent.id)
    assert "group.nobody" in notice.content
    (view,) = ana.messages(participant="group.nobody")
    assert not view.delivered


# -- asking and waiting --------------------------------------------------------------------------------------------


def test_who_asks_and_gives_up_finds_the_answer_in_the_inbox(
    shell: Shell, ana: SyncClient, tmp_path: Path, ada: str
) -> None:
    gate = tmp_path / "gate"
    with pytest.raises(TimeoutError, match=r"llm\.ada has not answered within 0\.5 s.*inbox of user\.ana"):
        ana.ask(ada, "slowly", timeout=0.5, metadata={"gate": str(gate)})
    late = SyncClient(ana._inner._url, user="ana")
    with late, pytest.raises(TimeoutError):
        late.ask(ada, "more slowly", timeout=0.5, metadata={"gate": str(gate)})
    gate.touch()  # the session of the second question has gone, that of the first has not
    (answer,) = [next_of(ana.inbox())]
    assert answer.content == "answering more slowly"


def test_the_time_that_runs_out_is_an_exit_code(site: Site, shell: Shell) -> None:
    with SyncClient(site.url, user=site.person("bo")) as bo:
        assert list(bo.inbox(wait=False)) == []
    assert "has not answered within 0.2 s" in shell.error("message", "ask", "user.bo", "hi", "-t", "0.2s", code=4)


def test_a_client_that_asks_for_an_unknown_address_is_told(ana: SyncClient) -> None:
    with pytest.raises(UnknownAddress, match=r"llm\.nobody"):
        ana.ask("nobody", "hello")


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


# -- history and listening -----------------------------------------------------------------------------------------


def test_history_is_kept_and_searched_across_a_restart(site: Site, shell: Shell, ana: SyncClient, ada: str) -> None:
    answer = ana.ask(ada, "What does RAFT do?")
    until_recorded(ana, 2, participant="llm.ada")
    site.coordinators[-1].kill()
    site.coordinator()
    found = shell.json("message", "history", "--search", "raft")
    assert [view["sender"] for view in found] == ["user.ana", "llm.ada"]
    assert shell("message", "history", "-c", answer.conversation_id, "--search", "nothing like it") == ""
    (conversation,) = shell.json("message", "conversations", "--with", "ada")
    assert (conversation["id"], conversation["count"]) == (answer.conversation_id, 2)
    assert conversation["last"]["content"] == "answering What does RAFT do?"


def test_whoever_listens_hears_what_others_say(ana: SyncClient, bo: SyncClient, ada: str) -> None:
    with bo.listen(participant="llm.ada") as said:
        ana.send("all", "not for ada alone")
        ana.ask(ada, "hello")
        heard = [next(said), next(said)]
    assert [(view.sender, view.content) for view in heard if isinstance(view, MessageView)] == [
        ("user.ana", "hello"),
        ("llm.ada", "answering hello"),
    ]


def test_the_text_of_a_model_streams_to_who_asks_and_to_who_listens(
    site: Site, ana: SyncClient, bo: SyncClient
) -> None:
    reply = Paused("Queues ", "hold messages.")
    with OpenAIServer() as server:
        server.script(Text("One."), reply)
        site.worker("remote", "--model", "openai:any", "--base-url", server.url, OPENAI_API_KEY="none")
        begun = ana.ask("remote", "What is one?")
        pieces: list[str] = []
        heard: list[str] = []

        def take(piece: str) -> None:
            pieces.append(piece)

        with bo.listen(progress=True) as said:
            asking = threading.Thread(
                target=lambda: ana.ask(
                    "remote", "What do queues do?", conversation_id=begun.conversation_id, on_text=take
                )
            )
            asking.start()
            for it in said:
                if isinstance(it, MessageProgress):
                    heard.append(it.text)
                    if not reply.go_on.is_set():
                        until(lambda: "".join(pieces) == "Queues ", "who asks has the first piece")
                        reply.go_on.set()
                elif it.sender == "llm.remote" and it.id != begun.id:
                    answer = it
                    break
            asking.join()
        assert heard[0] == "Queues "
        assert "".join(heard) == "".join(pieces) == answer.content == "Queues hold messages."
        assert answer.metadata["usage"] == {"input_tokens": 11, "output_tokens": 7}
        told = [(message["role"], message["content"]) for message in server.requests[1].body["messages"]]
        assert told == [("user", "What is one?"), ("assistant", "One."), ("user", "What do queues do?")]
