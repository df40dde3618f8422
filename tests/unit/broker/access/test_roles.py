"""The permissions of the roles, judged as RabbitMQ would."""

import re
from itertools import product

import pytest

from broker.access.roles import Role, may_be_answered_at, permissions, speaks_for, user_name
from broker.errors import ConfigurationError


def allowed(expression: str, name: str) -> bool:
    """As RabbitMQ decides: an empty expression allows nothing, any other wherever it is found."""
    return bool(expression) and re.search(expression, name) is not None


@pytest.mark.parametrize("queue", ["llm.atlas", "llm.atlas.work", "llm.atlas.host-1", "llm.atlas.work-1"])
def test_an_llm_has_no_permission_on_queues_of_similar_names(queue: str) -> None:
    others = (queue.replace("atlas", "atlas-2"), queue.replace(".", "x"), f"x{queue}", queue.replace("atlas", "vega"))
    granted = permissions(Role.LLM, "atlas")
    assert allowed(granted.read, queue)
    for other, expression in product(others, (granted.read, granted.configure)):
        assert not allowed(expression, other)


def test_an_llm_may_declare_only_its_control_queues() -> None:
    granted = permissions(Role.LLM, "atlas")
    for queue, may in (
        ("llm.atlas.host-1", True),
        ("llm.atlas.work-1", True),
        ("llm.atlas.work", False),
        ("llm.atlas", False),
    ):
        assert allowed(granted.configure, queue) is may


def test_an_llm_may_not_write_to_the_queues_that_it_declares() -> None:
    """So it can bind nothing to them, and lead nothing through them."""
    granted = permissions(Role.LLM, "atlas")
    assert not allowed(granted.write, "llm.atlas.host-1")
    assert allowed(granted.write, "llm.atlas")  # to join groups


@pytest.mark.parametrize("role", [Role.LLM, Role.CLIENT, Role.WEB])
@pytest.mark.parametrize("name", ["amq.default", "fluffle.work", "fluffle.events", "fluffle.rejected", "llm.vega.work"])
def test_only_the_coordinator_may_publish_to_the_exchanges_that_reach_all_queues(role: Role, name: str) -> None:
    assert not allowed(permissions(role, "atlas").write, name)
    assert not allowed(permissions(role, "atlas").configure, name)


@pytest.mark.parametrize("role", [Role.LLM, Role.CLIENT, Role.WEB])
@pytest.mark.parametrize("name", ["fluffle.work", "fluffle.tasks", "fluffle.queries", "fluffle.coordinator"])
def test_only_the_coordinator_may_read_messages_for_others(role: Role, name: str) -> None:
    assert not allowed(permissions(role, "atlas").read, name)


@pytest.mark.parametrize("role", Role)
def test_every_topic_exchange_of_a_role_has_limited_routing_keys(role: Role) -> None:
    granted = permissions(role, "atlas")
    bounded = {topic.exchange for topic in granted.topics}
    topics = ("fluffle.status", "fluffle.requests", "fluffle.messages", "fluffle.events", "fluffle.rejected")
    used = {name for name in topics if allowed(granted.write, name) or allowed(granted.read, name)}
    assert role is Role.COORDINATOR or used <= bounded


def test_a_user_speaks_for_the_addresses_of_its_name() -> None:
    assert speaks_for("atlas", "llm.atlas")
    assert speaks_for("ana", "user.ana")
    for user, address in (("atlas", "llm.vega"), ("atlas", "llm.atlas.work"), ("atlas", "atlas"), (None, "llm.None")):
        assert not speaks_for(user, address)


@pytest.mark.parametrize(
    ("queue", "may"),
    [
        ("", True),
        ("amq.gen-1", True),
        ("amq.rabbitmq.reply-to.g1", True),
        ("my-answers", True),
        ("fluffle.reply.1", True),
        ("llm.atlas", True),
        ("llm.atlas.answers", True),
        ("llm.atlas-2", False),
        ("llm.vega.work", False),
        ("user.ana", False),
        ("group.reviewers", False),
        ("fluffle.coordinator", False),
        ("fluffle.reply", False),
    ],
)
def test_answers_never_go_to_a_queue_of_another_user(queue: str, may: bool) -> None:
    assert may_be_answered_at("atlas", queue) is may


def test_every_role_accepts_only_its_names() -> None:
    assert user_name(Role.LLM, "atlas") == "atlas"
    assert user_name(Role.COORDINATOR, None) == "coordinator"
    for role, name in ((Role.LLM, None), (Role.LLM, "web"), (Role.WEB, "x"), (Role.CLIENT, "Ana"), (Role.CLIENT, "")):
        with pytest.raises(ConfigurationError):
            user_name(role, name)
