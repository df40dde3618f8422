"""People send messages to each other, to groups and to LLMs, and read the history: real processes, a real broker."""

import re
import threading
from pathlib import Path

import pytest

from broker.errors import UnknownAddress
from broker.protocol.chat import MessageProgress
from broker.protocol.views import MessageView
from fluffle.client.sync import SyncClient
from tests.support.amqp import Amqp
from tests.support.chat_history import CONVERSE, next_of, until_recorded
from tests.support.openai_server import OpenAIServer, Paused, Text
from tests.support.processes import until
from tests.support.shell import Shell
from tests.support.site import Site
from tests.support.task_audit import Ledger

# -- people --------------------------------------------------------------------------------------------------------


def test_messages_wait_in_the_inbox_of_a_person_who_is_away(shell: Shell, site: Site) -> None:
    bo = site.person("bo")
    assert shell("message", "inbox", "--as", bo) == ""
    for text in ("one", "two"):
        shell("message", "send", "user.bo", text)
    kept = [line.split("\t")[-1] for line in shell("message", "inbox", "--as", bo, "--keep").splitlines()]
    taken = [line.split("\t")[-1] for line in shell("message", "inbox", "--as", bo).splitlines()]
    assert kept == taken == ["one", "two"]
    assert shell.run("message", "inbox", "--as", bo).stdout == b""


def test_a_redelivered_message_is_shown_once(bo: SyncClient, client: Amqp) -> None:
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


def test_messages_to_a_group_and_to_everybody_reach_their_members(
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


def test_an_unknown_address_is_an_immediate_error_with_a_suggestion(shell: Shell, ada: str) -> None:
    assert shell.error("message", "send", "adda", "hi") == "nobody has the address llm.adda; did you mean llm.ada?"
    assert shell.error("message", "ask", "user.ada", "hi").endswith("did you mean llm.ada?")
    assert "fluffle message inbox" in shell.error("message", "send", "user.nobody", "hi")
    assert "is no address" in shell.error("message", "send", "Ada Lovelace", "hi")


def test_a_message_that_the_history_would_refuse_is_not_sent(shell: Shell, ada: str) -> None:
    told = shell.error("message", "send", ada, "-", given="x" * 1_048_576)
    assert re.fullmatch(r"the message has 1,048,\d{3} bytes; the limit is 1,048,576", told)
    assert [shell.error("message", "send", ada, blank) for blank in ("", " \n")] == ["content: is empty"] * 2


@pytest.mark.parametrize(("content", "why"), [(" \n", "is empty"), ("x" * 1_048_576, "1,048,576")])
def test_no_llm_answers_a_message_that_the_history_refuses(client: Amqp, ada: str, content: str, why: str) -> None:
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


def test_a_search_without_matches_says_so(shell: Shell) -> None:
    assert shell.on_terminal("message", "history", "--search", "never said") == "No messages match.\n"
    told = shell.on_terminal("message", "conversations", "--with", "user.never-here")
    assert told == "No conversations match.\n"


def test_any_client_is_told_that_an_address_is_unknown(client: Amqp, site: Site) -> None:
    answers = client.queue()
    hello = {"sender": "user.ana", "content": "hello", "id": "m-1"}
    client.publish("fluffle.messages", "llm.nobody", hello, reply_to=answers, correlation_id="mine")
    refusal = client.take(answers)
    assert (refusal.type, refusal.properties.correlation_id) == ("message.rejected", "mine")
    (error,) = refusal.json()["errors"]
    assert error["path"] == "receiver"
    assert "nobody has the address llm.nobody" in error["message"]
    assert client.take("fluffle.rejected").json() == hello


def test_a_message_to_an_empty_group_returns_a_notice(ana: SyncClient) -> None:
    sent = ana.send("group.nobody", "hello")
    notice = next_of(ana.inbox())
    assert (notice.sender, notice.in_reply_to) == ("coordinator", sent.id)
    assert "group.nobody" in notice.content
    (view,) = ana.messages(participant="group.nobody")
    assert not view.delivered


# -- asking and waiting --------------------------------------------------------------------------------------------


def test_a_late_answer_is_in_the_inbox(shell: Shell, ana: SyncClient, tmp_path: Path, ada: str) -> None:
    gate = tmp_path / "gate"
    with pytest.raises(TimeoutError, match=r"llm\.ada has not answered within 0\.5 s.*inbox of user\.ana"):
        ana.ask(ada, "slowly", timeout=0.5, metadata={"gate": str(gate)})
    late = SyncClient(ana._inner._url, user="ana")
    with late, pytest.raises(TimeoutError):
        late.ask(ada, "more slowly", timeout=0.5, metadata={"gate": str(gate)})
    gate.touch()  # the session of the second question has gone, that of the first has not
    (answer,) = [next_of(ana.inbox())]
    assert answer.content == "answering more slowly"


def test_a_timeout_of_ask_has_its_own_exit_code(site: Site, shell: Shell) -> None:
    with SyncClient(site.url, user=site.person("bo")) as bo:
        assert list(bo.inbox(wait=False)) == []
    assert "has not answered within 0.2 s" in shell.error("message", "ask", "user.bo", "hi", "-t", "0.2s", code=4)


def test_asking_an_unknown_address_raises_an_error(ana: SyncClient) -> None:
    with pytest.raises(UnknownAddress, match=r"llm\.nobody"):
        ana.ask("nobody", "hello")


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


def test_a_listener_receives_the_messages_of_others(ana: SyncClient, bo: SyncClient, ada: str) -> None:
    with bo.listen(participant="llm.ada") as said:
        ana.send("all", "not for ada alone")
        ana.ask(ada, "hello")
        heard = [next(said), next(said)]
    assert [(view.sender, view.content) for view in heard if isinstance(view, MessageView)] == [
        ("user.ana", "hello"),
        ("llm.ada", "answering hello"),
    ]


def test_the_text_of_a_model_streams_to_the_asker_and_to_listeners(site: Site, ana: SyncClient, bo: SyncClient) -> None:
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
        assert answer.metadata["usage"] == {"input_tokens": 11, "output_tokens": 7, "requests": 1}
        told = [(message["role"], message["content"]) for message in server.requests[1].body["messages"]]
        assert told == [("user", "What is one?"), ("assistant", "One."), ("user", "What do queues do?")]
