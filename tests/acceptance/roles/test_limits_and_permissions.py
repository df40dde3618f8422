"""The limits and permissions of roles on RabbitMQ, and revoked users."""

import json
import re
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from pika.exceptions import AMQPError

from broker.access.roles import MOST_CONNECTIONS, Permissions, Role, TopicPermission, permissions
from tests.support.amqp import Amqp, amqp
from tests.support.rabbitmq import NodeInfo
from tests.support.role_users import RoleUsers
from tests.support.shell import Shell
from tests.support.site import Site


def test_the_queues_of_an_llm_are_bounded_and_so_are_its_connections(
    site: Site, rights: RoleUsers, rabbitmq: NodeInfo
) -> None:
    found = json.loads(rabbitmq.control("export_definitions", "-", "--silent"))
    [policy] = [it["value"] for it in found["parameters"] if it["component"] == "operator_policy"]
    assert policy["definition"] == {"max-length": 100_000, "max-length-bytes": 64 * 1024**2, "expires": 3_600_000}
    bounded = [name for name in ("llm.luna.flood", "llm.luna", "llm.luna.work") if re.search(policy["pattern"], name)]
    assert bounded == ["llm.luna.flood"]
    limits = {it["name"]: it["limits"] for it in found["users"]}
    assert limits["luna"] == {"max-connections": 200, "max-channels": 400}
    assert limits["ana"] == {}


def test_a_queue_of_an_llm_takes_no_more_than_its_bounds(site: Site, connect: Callable[[str], Amqp]) -> None:
    connect("luna").declare("llm.luna.flood", {})
    with amqp(site.url) as operator:
        for _ in range(80):
            operator.publish("", "llm.luna.flood", b"x" * 1_000_000)
        assert operator.depth("llm.luna.flood") <= 67  # of 1 MB, in 64 MiB
        operator.delete("llm.luna.flood")


def test_an_llm_has_no_more_connections_than_its_limit(site: Site, rights: RoleUsers) -> None:
    taken = 0
    with ExitStack() as open_ones, suppress(AMQPError):
        while taken <= MOST_CONNECTIONS:
            open_ones.enter_context(amqp(rights.url_of["luna"]))
            taken += 1
    assert 0 < taken <= MOST_CONNECTIONS


def test_rabbitmq_has_the_permissions_that_are_described_for_every_role_and_no_others(
    site: Site, rights: RoleUsers, rabbitmq: NodeInfo
) -> None:
    """What is described is compared with `permissions` in tests/unit/test_docs.py."""
    found = json.loads(rabbitmq.control("export_definitions", "-", "--silent"))
    roles = {role.tag: role for role in Role}
    users = {it["name"]: roles[tag] for it in found["users"] for tag in tags(it) if tag in roles}
    assert set(users.values()) == set(Role)
    for name, role in users.items():
        granted = permissions(role, name)
        assert [
            Permissions(it["configure"], it["write"], it["read"]) for it in of_user(found["permissions"], name)
        ] == [replace(granted, topics=())]
        topics = {
            TopicPermission(it["exchange"], it["write"], it["read"]) for it in of_user(found["topic_permissions"], name)
        }
        assert topics == set(granted.topics)


def tags(user: dict[str, Any]) -> list[str]:
    """Of a user in exported definitions: a list, and text where RabbitMQ is old."""
    return user["tags"].split(",") if isinstance(user["tags"], str) else list(user["tags"])


def of_user(rows: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["user"] == name]


def test_revoke_leaves_nothing_behind(site: Site, rights: RoleUsers, rabbitmq: NodeInfo, tmp_path: Path) -> None:
    rights.operator("broker", "grant", "llm", "nova", "--out", str(tmp_path / "nova.url"))
    with amqp((tmp_path / "nova.url").read_text().strip()) as nova:
        nova.declare("llm.nova.keep", {})
    with amqp(site.url) as operator:
        operator.declare_exchange("llm.nova.x")
        operator.bind("llm.nova.keep", ("fluffle.status", "#"))
    printed = rights.operator("broker", "revoke", "nova")
    for name in ("llm.nova", "llm.nova.work", "llm.nova.keep", "llm.nova.x"):
        assert name in printed
    for kind in ("list_queues", "list_exchanges", "list_bindings"):
        assert "llm.nova" not in rabbitmq.control(kind, "--silent")


def test_a_user_with_outdated_rights_is_reported_and_repaired(
    rabbitmq: NodeInfo, rights: RoleUsers, tmp_path: Path
) -> None:
    shell = Shell(rights.operator.environment["FLUFFLE_AMQP_URL"], tmp_path)
    shell.environment.update(rabbitmq.settings)
    rabbitmq.control("set_permissions", "luna", ".*", ".*", ".*")
    assert "luna\tllm\tpassword\tpermissions changed; run `fluffle broker grant` again" in shell("broker", "users")
    shell("broker", "grant", "llm", "luna")
    assert "luna\tllm\tpassword\tas granted" in shell("broker", "users")
