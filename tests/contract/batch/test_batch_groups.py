"""Child tasks, and tasks for several LLMs."""

import json
from typing import Any

import pytest

from broker.errors import StoreUnavailable
from broker.protocol.topology import TASKS
from coordinator.storage.store import Store
from tests.support.batches import (
    BatchHarness,
    answers,
    assigned,
    assignments,
    claim,
    delivery,
    hello,
    rejected,
    result,
    submit,
)


def test_cancelling_a_task_cancels_all_its_descendants(harness: BatchHarness) -> None:
    harness.process(hello(slots=100), submit("a"))
    harness.process(claim("a"), submit("a1", parent_id="a"), submit("a2", parent_id="a", skills=["unheard-of"]))
    harness.process(claim("a1"), submit("a11", parent_id="a1", skills=["unheard-of"]))
    harness.restart()
    messages = harness.process(delivery(TASKS, "cancel", {"id": "a", "reason": "no longer needed"}))
    assert {harness.status(task_id) for task_id in ("a", "a1", "a2", "a11")} == {"cancelled"}
    assert {json.loads(m.body)["task_id"] for m in messages if m.routing_key == "llm.atlas.i1"} == {"a", "a1"}
    last = harness.views()["a11"]["history"][-1]
    assert (last["by"], last["what"]) == (
        "coordinator",
        "cancelled while pending: a1, which it is part of, was cancelled",
    )


def test_a_child_beyond_the_depth_limit_is_rejected(harness: BatchHarness) -> None:
    harness.process(hello(slots=100), submit("t0"))
    for level in range(1, 8):
        assert rejected(harness.process(submit(f"t{level}", parent_id=f"t{level - 1}", skills=["unheard-of"]))) == []
    [kept] = rejected(harness.process(submit("t8", parent_id="t7")))
    assert json.loads((kept.headers or {})["x-fluffle-errors"]) == [
        {"path": "parent_id", "message": "too deep: t7 has 7 ancestors; at most 8 levels are allowed"}
    ]
    assert "t8" not in harness.views()


def ballot(choice: str) -> dict[str, Any]:
    return {"result": {"choice": choice, "reason": "because"}}


def test_a_vote_is_counted_across_restarts(harness: BatchHarness) -> None:
    harness.process(*(hello(name) for name in ("atlas", "boreas", "clio")), submit("base"))
    [first] = [view["llm"] for view in harness.views().values()]
    harness.process(
        submit(
            "v",
            mode="vote",
            assignees=["atlas", "boreas", "clio"],
            vote={"choices": ["yes", "no"], "weights": {"clio": 1.5}},
            depends_on=["base"],
        )
    )
    assert harness.status("v") == "blocked"
    messages = harness.process(claim("base", llm=first), result("base", llm=first))
    assert sorted(assigned(messages)) == ["v.1", "v.2", "v.3"]
    assert {assignment["context"][0]["result"] for assignment in assignments(messages)} == {"BASE"}
    harness.restart()
    harness.process(claim("v.1"), result("v.1", **ballot("yes")))
    harness.restart()
    messages = harness.process(claim("v.3", llm="clio"), result("v.3", llm="clio", **ballot("no")))
    assert harness.status("v") == "in_progress"
    messages = harness.process(claim("v.2", llm="boreas"), result("v.2", llm="boreas", **ballot("no")))
    assert ("task.completed", "about v") in answers(messages)
    shown = harness.views()["v"]
    assert (shown["result"]["choice"], shown["result"]["tally"]) == ("no", {"yes": 1, "no": 2.5})
    assert shown["vote"] == {"choices": ["yes", "no"], "weights": {"clio": 1.5}}


def test_a_group_ends_at_its_timeout_without_any_message(harness: BatchHarness) -> None:
    harness.process(hello(), submit("g", mode="all", assignees=["atlas", "boreas"], force=True, timeout=5))
    harness.process(claim("g.1"), result("g.1"))
    harness.restart()
    harness.process(at=4.9)
    assert harness.status("g") == "in_progress"
    harness.process(at=5)
    assert harness.views()["g"]["result"] == {"results": {"atlas": "G.1"}, "failed": {"boreas": "no answer yet"}}


def test_a_lost_transaction_of_a_group_is_repeated_after_a_restart(harness: BatchHarness, store: Store) -> None:
    harness.process(hello(), submit("g", reviewer="boreas", assignee="atlas", force=True))
    harness.process(claim("g.1"))
    again = result("g.1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "commit", lambda *_, **__: (_ for _ in ()).throw(StoreUnavailable("gone")))
        with pytest.raises(StoreUnavailable):
            harness.process(again)
    harness.restart()
    harness.process(again)
    assert {task_id: shown["status"] for task_id, shown in harness.views().items()} == {
        "g": "in_progress",
        "g.1": "completed",
        "g.2": "pending",
    }
