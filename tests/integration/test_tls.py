"""TLS with a real broker: whom we believe to be RabbitMQ, and whom RabbitMQ believes to be us."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from broker.access import users
from broker.access.admin_api import NodeControl
from broker.access.roles import Role
from broker.amqp.envelope import Delivery, Outgoing
from broker.amqp.robust_connection import RobustConnection
from broker.amqp.url import completed
from broker.errors import AccessRefused, BrokerError, CertificateRefused
from broker.node.private_node import PrivateNode
from broker.protocol.topology import Queue, Topology
from tests.support.certificates import Authority, Certificate
from tests.support.proxy import proxy_to
from tests.support.rabbitmq import NodeInfo
from tests.support.shell import Shell

WITHIN = 20.0  # seconds

CONFIGURATION = """\
listeners.ssl.local = 127.0.0.1:{port}
ssl_options.cacertfile = {ca}
ssl_options.certfile = {server.file}
ssl_options.keyfile = {server.key}
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
ssl_cert_login_from = common_name
auth_mechanisms.1 = PLAIN
auth_mechanisms.2 = EXTERNAL
"""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "Test authority")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that nobody trusts."""
    return Authority(tmp_path_factory.mktemp("stranger"), "Stranger")


@pytest.fixture(scope="module")
def node(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateNode]:
    """A node that wants a client certificate, with the user atlas, who has no password."""
    node = PrivateNode(tmp_path_factory.mktemp("tls"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    conf = node.folder / "conf.d" / "90-tls.conf"
    conf.parent.mkdir(parents=True)
    conf.write_text(CONFIGURATION.format(port=port, ca=authority.file, server=authority.sign("rabbitmq")))
    try:
        node.start()
        plugins = node.folder / "enabled_plugins"
        plugins.write_text("[rabbitmq_auth_mechanism_ssl].\n")
        node.control("eval", f'rabbit_plugins:ensure("{plugins}").')
        users.grant(NodeControl(node), "/", Role.LLM, "atlas", with_password=False, renew=False)
        (node.folder / "tls-port").write_text(str(port))
        yield node
    finally:
        node.stop()


def url_of(node: PrivateNode, authority: Authority, client: Certificate | None, *, user: str | None = None) -> str:
    """The node's URL by TLS: of the node's own user with its password, or of one whose certificate is its login."""
    port = int((node.folder / "tls-port").read_text())
    own = urlsplit(node.start())
    credentials = f"{own.username}:{own.password}" if user is None else user
    files = {} if client is None else {"certfile": str(client.file), "keyfile": str(client.key)}
    login = {} if user is None else {"auth_mechanism": "external"}
    parameters = {"cacertfile": str(authority.file), **files, **login}
    return completed(f"amqps://{credentials}@127.0.0.1:{port}/%2F", parameters=parameters)


async def round_trip(url: str, queue: str) -> Delivery:
    """Publish a message to a queue of one's own, and take it."""
    arrived: asyncio.Queue[Delivery] = asyncio.Queue()
    async with RobustConnection(url, name="test") as link:
        await link.declare(Topology(queues=(Queue(queue, exclusive=True),)))
        await link.consume(queue, arrived.put_nowait, auto_ack=True)
        await link.publish(Outgoing("", queue, b"hello"))
        return await asyncio.wait_for(arrived.get(), WITHIN)


# -- whom we believe -----------------------------------------------------------------------------------------------


async def test_a_certificate_of_a_trusted_authority_is_believed(amqp_url: str, authority: Authority) -> None:
    async with proxy_to(amqp_url, authority.sign("good").server_context()) as proxy:
        delivery = await round_trip(f"{proxy.url}?cacertfile={authority.file}", "test.tls")
    assert delivery.body == b"hello"
    assert delivery.properties.user_id == urlsplit(amqp_url).username


@pytest.mark.parametrize("wrong", ["expired", "of another host", "of another authority"])
async def test_a_wrong_certificate_is_not_believed(
    amqp_url: str, authority: Authority, stranger: Authority, wrong: str
) -> None:
    shown = {
        "expired": lambda: authority.sign("expired", expired=True),
        "of another host": lambda: authority.sign("elsewhere", host="127.0.0.2"),
        "of another authority": lambda: stranger.sign("strange"),
    }[wrong]()
    told = {"expired": "expired", "of another host": "mismatch", "of another authority": "unable to get local issuer"}
    async with proxy_to(amqp_url, shown.server_context()) as proxy:
        with pytest.raises(CertificateRefused, match=told[wrong]):
            async with RobustConnection(f"{proxy.url}?cacertfile={authority.file}", name="test"):
                pass


async def test_nobody_is_believed_whom_this_computer_does_not_know(amqp_url: str, authority: Authority) -> None:
    async with proxy_to(amqp_url, authority.sign("good").server_context()) as proxy:
        with pytest.raises(CertificateRefused):
            async with RobustConnection(proxy.url, name="test"):
                pass


async def test_a_command_and_a_worker_end_and_say_what_is_wrong_with_the_certificate(
    rabbitmq: NodeInfo, authority: Authority, tmp_path: Path
) -> None:
    async with proxy_to(rabbitmq.url, authority.sign("expired", expired=True).server_context()) as proxy:
        shell = Shell(proxy.url, tmp_path)
        shell.environment["FLUFFLE_TLS_CA"] = str(authority.file)
        for command in (("llm", "list"), ("worker", "atlas", "--model", "demo"), ("coordinator",)):
            said = await asyncio.to_thread(shell.error, *command)
            assert "is not accepted: certificate has expired" in said


# -- whom RabbitMQ believes ----------------------------------------------------------------------------------------


async def test_a_client_certificate_opens_the_door_and_the_password_tells_who_it_is(
    node: PrivateNode, authority: Authority
) -> None:
    delivery = await round_trip(url_of(node, authority, authority.sign("somebody")), "test.tls")
    assert delivery.properties.user_id == "fluffle"


@pytest.mark.parametrize("wrong", ["none", "expired", "of another authority"])
async def test_rabbitmq_refuses_a_wrong_client_certificate(
    node: PrivateNode, authority: Authority, stranger: Authority, wrong: str
) -> None:
    makers: dict[str, Callable[[], Certificate | None]] = {
        "none": lambda: None,
        "expired": lambda: authority.sign("expired", expired=True),
        "of another authority": lambda: stranger.sign("atlas"),
    }
    shown = makers[wrong]()
    with pytest.raises(CertificateRefused, match="does not accept the client certificate: "):
        async with RobustConnection(url_of(node, authority, shown), name="test"):
            pass


async def test_a_certificate_is_the_login_of_the_user_whose_name_it_bears(
    node: PrivateNode, authority: Authority
) -> None:
    delivery_to = "llm.atlas.test"
    async with RobustConnection(url_of(node, authority, authority.sign("atlas"), user="atlas"), name="test") as link:
        await link.declare(Topology(queues=(Queue(delivery_to, exclusive=True),)))
        with pytest.raises(BrokerError, match="user 'atlas'"):
            await link.declare(Topology(queues=(Queue("llm.vega.test", exclusive=True),)))


async def test_a_certificate_is_nobody_elses_login(node: PrivateNode, authority: Authority) -> None:
    with pytest.raises(AccessRefused):
        async with RobustConnection(url_of(node, authority, authority.sign("mallory"), user="mallory"), name="test"):
            pass
