"""What a dry run says about reserves, context windows, abilities and local LLMs."""

from typing import Any

import pytest
from pydantic import TypeAdapter
from sqlalchemy import select

from broker.protocol.task_requests import Submission
from broker.protocol.views import Placement
from broker.protocol.worker_reports import Presence, Price
from broker.timestamps import seconds
from coordinator.core.llms.llm import LLM
from coordinator.core.state import StateChanges
from coordinator.queries.handlers import QueryHandlers
from coordinator.storage import schema
from coordinator.storage.rows import llm_of
from coordinator.storage.store import Store
from tests.support.stored_tasks import NOW, commit

LEASE = seconds(10)
LONG = "x" * 70_000


def llm(name: str, **said: Any) -> LLM:
    """An LLM that is online."""
    known = LLM(name)
    known.see(Presence(name=name, instance="i", **said), None, NOW, LEASE)
    return known


def known_to(store: Store, *llms: LLM) -> None:
    commit(store, StateChanges(llms={llm.name: llm for llm in llms}))


def placed(queries: QueryHandlers, **fields: Any) -> tuple[str | None, str]:
    body = Submission(description="x", **fields).encode()
    kind, answer = queries.answer("placement", body)
    assert kind == "query.answer", answer
    found = TypeAdapter(Placement).validate_json(answer)
    return found.llm, found.why


def test_a_dry_run_names_the_reserve_and_its_price(store: Store, queries: QueryHandlers) -> None:
    atlas = llm("atlas")
    atlas.paused = True
    known_to(store, atlas, llm("gpt", reserve=True, price=Price(input=1.0, output=1.0)))
    assert placed(queries) == ("gpt", "gpt (reserve, $0.0006 expected): atlas is paused")


def test_a_dry_run_tells_that_a_task_is_too_long_for_the_free_llm(store: Store, queries: QueryHandlers) -> None:
    boreas = llm("boreas", context_window=64_000)
    boreas.slots_limit = 0
    known_to(store, llm("atlas", context_window=8_000), boreas)
    assert placed(queries, inputs=LONG) == (None, "it has about 20572 tokens, and atlas takes 8000")


def test_a_dry_run_tells_which_ability_is_missing(store: Store, queries: QueryHandlers) -> None:
    known_to(store, llm("atlas", abilities=["tools"]), llm("boreas"))
    assert placed(queries, needs=["tools"])[0] == "atlas"
    assert placed(queries, needs=["pictures"]) == (
        None,
        "no LLM that was ever seen is known to be able to use pictures",
    )
    missing = (None, "waits for boreas, which is not known to be able to use tools")
    assert placed(queries, needs=["tools"], assignee="boreas") == missing


@pytest.fixture
def distrusting(store: Store) -> QueryHandlers:
    """The query handlers of a coordinator with require_identity."""
    return QueryHandlers(store.engine, clock=lambda: NOW, policy="earliest-finish", lease=LEASE, trusts_labels=False)


def test_a_dry_run_tells_that_an_operator_must_say_which_llms_are_local(
    store: Store, distrusting: QueryHandlers
) -> None:
    known_to(store, llm("atlas", labels=["local"]))
    wanted = "no LLM that was ever seen was set to local by an operator"
    assert placed(distrusting, labels=["local-only"]) == (None, wanted)
    atlas = llm("atlas")
    atlas.give_properties({"local": True})
    known_to(store, atlas)
    assert placed(distrusting, labels=["local-only"])[0] == "atlas"


def test_a_learned_context_window_is_stored(store: Store) -> None:
    atlas = llm("atlas", context_window=8_000)
    atlas.learned.learn_too_long(7_000)
    known_to(store, atlas)
    with store.engine.connect() as connection:
        [row] = connection.execute(select(schema.llms)).mappings()
    assert llm_of(row).context_window == 1_999
