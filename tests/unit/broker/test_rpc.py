"""The request/reply client, over a connection that only notes what is published."""

import asyncio
from typing import Any

import pytest

from broker.amqp.envelope import Delivery, Outgoing, Properties
from broker.errors import ConnectionClosed, DecodeError, PublishRefused, QueryRejected, TaskRejected
from broker.messaging.rpc import RequestTimeout, RpcClient

REJECTION = b'{"errors": [{"path": "id", "message": "is unknown"}]}'


class FakeConnection:
    """Notes the published messages. `error` is the result of publishing; without `confirms`, none arrives."""

    def __init__(self) -> None:
        self.published: list[Outgoing] = []
        self.error: Any = None
        self.confirms = True

    async def publish(self, message: Outgoing) -> None:
        self.published.append(message)
        if not self.confirms:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error

    def send(self, message: Outgoing, answered: Any) -> None:
        self.published.append(message)
        answered(message, self.error)


def client_of(link: FakeConnection) -> RpcClient:
    connection: Any = link
    return RpcClient(connection, "replies", prefix="test-")


def reply(request: Outgoing, body: bytes, kind: str = "query.answer") -> Delivery:
    nobody: Any = None  # a reply is not acknowledged
    return Delivery("", "replies", body, False, Properties(correlation_id=request.correlation_id, type=kind), 1, nobody)


async def started(call: Any) -> "asyncio.Task[Any]":
    task = asyncio.create_task(call)
    await asyncio.sleep(0)
    return task


async def test_a_call_returns_the_body_of_its_reply() -> None:
    link = FakeConnection()
    rpc = client_of(link)
    first, second = rpc.request("queries", "tasks", b"1"), rpc.request("queries", "tasks", b"2")
    calls = [await started(rpc.call(request, timeout_seconds=5)) for request in (first, second)]
    assert [message.reply_to for message in link.published] == ["replies", "replies"]
    assert rpc.take(reply(second, b"two"))
    assert rpc.take(reply(first, b"one"))
    assert await asyncio.gather(*calls) == [b"one", b"two"]


@pytest.mark.parametrize(("kind", "error"), [("task.rejected", TaskRejected), ("query.rejected", QueryRejected)])
async def test_a_rejection_is_raised(kind: str, error: type[Exception]) -> None:
    rpc = client_of(FakeConnection())
    request = rpc.request("queries", "tasks", b"")
    call = await started(rpc.call(request, timeout_seconds=5))
    rpc.take(reply(request, REJECTION, kind))
    with pytest.raises(error, match=r"^id: is unknown$"):
        await call


async def test_a_rejection_that_cannot_be_read_is_raised() -> None:
    rpc = client_of(FakeConnection())
    request = rpc.request("queries", "tasks", b"")
    call = await started(rpc.call(request, timeout_seconds=5))
    rpc.take(reply(request, b"{", "query.rejected"))
    with pytest.raises(DecodeError):
        await call


@pytest.mark.parametrize("confirms", [True, False])
async def test_a_timeout_reports_whether_rabbitmq_has_the_request(confirms: bool) -> None:
    link = FakeConnection()
    link.confirms = confirms
    rpc = client_of(link)
    request = rpc.request("queries", "tasks", b"")
    with pytest.raises(RequestTimeout) as raised:
        await rpc.call(request, timeout_seconds=0.01)
    assert raised.value.is_confirmed is confirms
    assert rpc.take(reply(request, b"too late")), "it is a reply, though nobody awaits it"


async def test_a_delivery_that_replies_to_nothing_from_here_is_left_to_others() -> None:
    rpc = client_of(FakeConnection())
    assert not rpc.take(reply(Outgoing("x", "y", b"", correlation_id="other-1"), b""))
    assert not rpc.take(reply(Outgoing("x", "y", b""), b""))


@pytest.mark.parametrize(("is_repeatable", "times"), [(True, 2), (False, 1)])
async def test_only_repeatable_requests_are_published_again(is_repeatable: bool, times: int) -> None:
    link = FakeConnection()
    rpc = client_of(link)
    request = rpc.request("queries", "tasks", b"")
    call = await started(rpc.call(request, timeout_seconds=5, is_repeatable=is_repeatable))
    rpc.send_again()
    rpc.take(reply(request, b"done"))
    assert await call == b"done"
    rpc.send_again()
    assert link.published == [request] * times


async def test_an_open_request_has_several_replies_and_is_published_again() -> None:
    link = FakeConnection()
    rpc = client_of(link)
    request, other = rpc.request("tasks", "submit", b""), rpc.request("tasks", "submit", b"other")
    with rpc.open(request) as pending:
        for body in (b"accepted", b"completed"):
            rpc.take(reply(request, body))
            assert await pending.reply() == body
        assert not pending.was_sent_again
        pending.message = other
        rpc.send_again()
        assert pending.was_sent_again
    assert link.published == [request, other]


async def test_an_open_request_that_cannot_be_published_raises_the_error() -> None:
    link = FakeConnection()
    link.error = PublishRefused()
    rpc = client_of(link)
    with rpc.open(rpc.request("tasks", "submit", b"")) as pending, pytest.raises(PublishRefused):
        await pending.reply()


async def test_a_closed_client_raises_wherever_a_reply_is_awaited() -> None:
    rpc = client_of(FakeConnection())
    call = await started(rpc.call(rpc.request("queries", "tasks", b""), timeout_seconds=5))
    rpc.fail(ConnectionClosed("the client was closed"))
    with pytest.raises(ConnectionClosed, match="the client was closed"):
        await call
