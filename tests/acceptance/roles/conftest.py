"""Users with the rights of their roles, and a site that requires identity."""

import asyncio
from collections.abc import Iterator

import pytest

from broker.access.roles import Role
from tests.support.amqp import amqp
from tests.support.processes import until
from tests.support.rabbitmq import NodeInfo
from tests.support.role_users import RoleUsers
from tests.support.site import Site, site_on

REFUSED = 403  # AMQP reply code: access refused
NOBODY = {"assignee": "nobody", "force": True}


@pytest.fixture(scope="module")
def rights(rabbitmq: NodeInfo, tmp_path_factory: pytest.TempPathFactory) -> RoleUsers:
    """Users for a coordinator, the web page, the LLMs atlas, vega and luna, and the people ana and bo."""
    rights = RoleUsers(rabbitmq, tmp_path_factory.mktemp("users"))
    rights.grant(Role.COORDINATOR)
    rights.grant(Role.WEB)
    for name in ("atlas", "vega", "luna"):
        rights.grant(Role.LLM, name)
    for name in ("ana", "bo"):
        rights.grant(Role.CLIENT, name)
    return rights


@pytest.fixture(scope="module")
def site(rabbitmq: NodeInfo, rights: RoleUsers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site with a coordinator that requires identity. Atlas and vega have sent hello; luna stays silent."""
    with site_on(rabbitmq, tmp_path_factory.mktemp("site"), FLUFFLE_REQUIRE_IDENTITY="true") as site:
        asyncio.run(rights.declare())
        names = ("atlas", "vega", "luna")
        site.queues.update({"fluffle.undelivered", "user.ana", "user.bo", "user.web"})
        site.queues.update(f"llm.{name}{kind}" for name in names for kind in ("", ".work"))
        site.coordinator(url=rights.url_of["coordinator"])
        for name in ("atlas", "vega"):
            with amqp(rights.url_of[name]) as llm:
                llm.publish(
                    "fluffle.status", f"{name}.hello", {"name": name, "instance": "i", "slots": 99}, user_id=name
                )
        until(lambda: len(site.select("select 1 from llms")) == 2, "both are known")
        yield site
