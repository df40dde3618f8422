"""Users as the operator sees them: `broker grant`, `revoke` and `users` on a real broker."""

import asyncio
import stat
from pathlib import Path

import pytest
from pika.exceptions import AMQPError, ChannelClosedByBroker

from broker.access.roles import Role
from tests.support.amqp import Amqp, amqp
from tests.support.processes import until
from tests.support.rabbitmq import NodeInfo
from tests.support.role_users import RoleUsers
from tests.support.shell import Shell


@pytest.fixture(scope="module")
def rights(rabbitmq: NodeInfo, tmp_path_factory: pytest.TempPathFactory) -> RoleUsers:
    """Users for the LLM atlas and the person ana."""
    rights = RoleUsers(rabbitmq, tmp_path_factory.mktemp("users"))
    rights.grant(Role.LLM, "atlas")
    rights.grant(Role.CLIENT, "ana")
    asyncio.run(rights.declare())
    return rights


def test_grant_writes_the_url_to_a_private_file_and_prints_no_secret(rights: RoleUsers, tmp_path: Path) -> None:
    file = tmp_path / "deep" / "iris.url"
    printed = rights.operator("broker", "grant", "llm", "iris", "--out", str(file))
    url = file.read_text().strip()
    password = url.partition("iris:")[2].partition("@")[0]
    assert len(password) >= 24
    assert password not in printed
    assert str(file) in printed
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    again = rights.operator("broker", "grant", "llm", "iris", "--out", str(file))
    assert "Its password is unchanged" in again
    iris = Amqp(url)
    assert iris.depth("llm.iris.work") == 0
    rights.operator("broker", "revoke", "iris")
    with pytest.raises(AMQPError):
        until(lambda: iris.depth("llm.iris.work"), "RabbitMQ closes the connection of a revoked user")
    with pytest.raises(AMQPError):
        Amqp(url)
    assert "Fluffle created no user iris" in rights.operator.error("broker", "revoke", "iris")


def test_a_grant_without_the_right_to_declare_queues_creates_no_user(
    rights: RoleUsers, rabbitmq: NodeInfo, tmp_path: Path
) -> None:
    ana = Shell(rights.url_of["ana"], tmp_path)
    ana.environment.update(rabbitmq.settings)
    done = ana.run("broker", "grant", "llm", "nova", "--out", str(tmp_path / "nova.url"))
    assert done.returncode == 1
    assert b"refused for user 'ana'" in done.stderr
    assert not (tmp_path / "nova.url").exists()
    assert "nova" not in rights.operator("broker", "users")


def test_changed_permissions_are_reported_and_grant_repairs_them(rabbitmq: NodeInfo, rights: RoleUsers) -> None:
    rights.grant(Role.CLIENT, "cleo")
    as_granted = {user["name"]: user["as_granted"] for user in rights.operator.json("broker", "users")}
    assert as_granted.pop("cleo") is True
    assert all(as_granted.values())
    rabbitmq.control("set_topic_permissions", "cleo", "fluffle.work", ".*", ".*")
    rabbitmq.control("set_permissions", "cleo", ".*", ".*", ".*")
    assert "cleo\tclient\tpassword\tpermissions changed; run `fluffle broker grant` again" in rights.operator(
        "broker", "users"
    )
    rights.operator("broker", "grant", "client", "cleo")
    assert "cleo\tclient\tpassword\tas granted" in rights.operator("broker", "users")
    with amqp(rights.url_of["cleo"]) as cleo, pytest.raises(ChannelClosedByBroker):
        cleo.publish("fluffle.work", "llm.atlas", {})
    rights.operator("broker", "revoke", "cleo")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("llm",), "NAME is missing"),
        (("web", "other"), "takes no NAME"),
        (("llm", "Atlas"), "is not a valid name"),
        (("client", "coordinator"), "is reserved"),
        (("client", "atlas"), "is the user of an LLM"),
        (("llm", "fluffle"), "was not created by Fluffle"),
    ],
)
def test_an_invalid_grant_is_refused_with_the_reason(rights: RoleUsers, arguments: tuple[str, ...], told: str) -> None:
    assert told in rights.operator.error("broker", "grant", *arguments)
