"""`fluffle rejected`: list, requeue and drop."""

import re

from tests.support.amqp import amqp
from tests.support.processes import until
from tests.support.shell import Shell
from tests.support.site import Site


def test_listing_rejected_messages_loses_none(shell: Shell, place: Site) -> None:
    shell("rejected", "drop", "--all")
    with amqp(place.url) as client:
        client.publish("fluffle.tasks", "submit", b"{not json", message_id="bad-1")
        client.publish("fluffle.tasks", "submit", b'{"descripton": "x"}')
        client.publish("fluffle.tasks", "nosuchkey", b"\xff\x1b[2J", message_id="with space")
    until(lambda: len(shell.json("rejected", "list")) == 3, "all three are there")
    messages = shell.json("rejected", "list")
    assert messages == shell.json("rejected", "list")
    by_id = {message["id"]: message for message in messages}
    assert by_id["bad-1"]["body"] == "{not json"
    [unnamed] = [m for m in messages if [e["path"] for e in m["errors"]] == ["description", "descripton"]]
    assert re.fullmatch(r"[0-9a-f]{12}", unnamed["id"])
    [unbound] = [m for m in messages if m["routing_key"] == "nosuchkey"]
    assert unbound["why"] == "unknown routing key 'nosuchkey' of exchange 'fluffle.tasks'"
    assert shell("rejected", "list", "--limit", "2").count("\n") == 2
    shown = shell("rejected", "show", unnamed["id"])
    assert "descripton: unknown field" in shown
    assert shown.endswith('Body (19 bytes)\n{"descripton": "x"}\n')
    assert "\x1b[2J" not in shell.on_terminal("rejected", "show", unbound["id"])
    assert shell.error("rejected", "show", "nope") == "there is no rejected message nope"
    assert shell("rejected", "drop", "bad-1", unnamed["id"]) == "2 dropped\n"
    assert [message["id"] for message in shell.json("rejected", "list")] == [unbound["id"]]
    assert shell("rejected", "drop", "--all") == "1 dropped\n"


def test_a_requeued_message_goes_back_unchanged_to_its_exchange(shell: Shell, place: Site) -> None:
    shell("rejected", "drop", "--all")
    with amqp(place.url) as client:
        properties = {"message_id": "early", "correlation_id": "c", "priority": 7, "headers": {"traceparent": "00-1"}}
        client.publish("fluffle.tasks", "soon", {"description": "x"}, **properties)
        until(lambda: shell.json("rejected", "list"), "it is rejected")
        queue = client.queue(("fluffle.tasks", "soon"))
        assert shell("rejected", "requeue", "early") == "1 requeued\n"
        message = client.take(queue)
    assert message.json() == {"description": "x"}
    assert {name: getattr(message.properties, name) for name in properties} == properties
    assert shell.json("rejected", "list") == []
    assert shell.error("rejected", "requeue", "nope") == "there is no rejected message nope"


def test_a_dead_letter_goes_back_to_its_queue(shell: Shell, place: Site) -> None:
    shell("rejected", "drop", "--all")
    with amqp(place.url) as client:
        client.publish("", "llm.obi.work", b"garbage", message_id="dead")
    until(lambda: shell.json("rejected", "list"), "the worker has rejected it")
    [dead] = shell.json("rejected", "list")
    assert (dead["exchange"], dead["routing_key"]) == ("", "llm.obi.work")
    assert dead["why"] == "dead letter of llm.obi.work: rejected"
    assert shell("rejected", "requeue", "--all") == "1 requeued\n"
    until(lambda: shell.json("rejected", "list"), "the worker has rejected it again")
    assert shell("rejected", "drop", "dead") == "1 dropped\n"
