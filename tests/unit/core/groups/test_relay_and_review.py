"""The steps of groups whose LLMs work one after the other: relay and review."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.protocol.status import Status
from coordinator.core.groups.steps import AskPerson, CreatePart, Fail, Finish, KeepWaiting
from tests.unit.core.groups.play import VOTERS, Play, play


def test_in_a_relay_each_gets_what_the_one_before_has_made() -> None:
    group = play(assignees=VOTERS, mode="relay", depends_on=["earlier"])
    assert len(group.parts) == 1
    group.end(1, "a name")
    group.go_on()
    assert group.parts[1].spec.depends_on == ["earlier", "g.1"]
    assert "What ana made of this is given (g.1)" in group.parts[1].spec.description
    group.end(2, "a better name")
    group.go_on()
    group.end(3, "the best name")
    group.go_on()
    assert group.result == {
        "result": "the best name",
        "steps": [
            {"llm": "ana", "result": "a name"},
            {"llm": "bea", "result": "a better name"},
            {"llm": "cem", "result": "the best name"},
        ],
    }


def test_a_relay_goes_on_without_those_who_fail() -> None:
    group = play(assignees=VOTERS, mode="relay")
    group.end(1, "a name")
    group.go_on()
    group.fail(2)
    group.go_on()
    assert group.parts[2].spec.depends_on == ["g.1"]
    group.fail(3)
    group.go_on()
    assert group.result["result"] == "a name"
    assert group.result["steps"][2] == {"llm": "cem", "failed": "cem is tired"}


def test_a_relay_in_which_everybody_fails_fails() -> None:
    group = play(assignees=["ana", "bea"], mode="relay")
    group.fail(1)
    group.go_on()
    group.fail(2)
    group.go_on()
    assert group.error == ("nobody_answered", "nobody has answered; ana: ana is tired; bea: bea is tired")


def test_a_relay_that_takes_too_long_fails_and_keeps_what_there_is() -> None:
    group = play(assignees=["ana", "bea"], mode="relay")
    group.end(1, "a name")
    group.go_on()
    group.go_on(spent=1)
    assert group.error == ("timeout", "the time was over before bea was done with g.2")
    assert group.result["result"] == "a name"


def verdict(approved: bool, remarks: str = "", **more: Any) -> dict[str, Any]:
    return {"approved": approved, "remarks": remarks, **more}


def review(**fields: Any) -> Play:
    return play(reviewer="rex", **fields)


def test_a_draft_that_is_approved_is_the_result() -> None:
    group = review(assignee="ana", depends_on=["earlier"], skills=["naming"])
    assert group.parts[0].spec.assignee == "ana"
    group.end(1, "Flopsy")
    group.go_on()
    reviewing = group.parts[1].spec
    assert (reviewing.assignee, reviewing.depends_on, reviewing.skills) == ("rex", ["earlier", "g.1"], ["review"])
    assert "Review what ana made" in reviewing.description
    group.end(2, verdict(True, "fine", score=0.9))
    assert group.go_on().note == "round 1: approved by rex"  # type: ignore[union-attr]
    assert group.result == {
        "result": "Flopsy",
        "approved": True,
        "rounds": [{"author": "ana", "reviewer": "rex", "approved": True, "remarks": "fine", "score": 0.9}],
    }
    [finding] = group.last.found  # type: ignore[union-attr]
    assert (finding.part, finding.score) == (group.parts[0], 0.9)


def test_remarks_reach_the_author() -> None:
    group = review(assignees=["ana", "bea"], mode="any")
    group.parts[0].llm = "bea"
    group.end(1, "Flopsy")
    group.go_on()
    group.end(2, verdict(False, "too long\0"))
    sent_back = group.go_on()
    assert isinstance(sent_back, CreatePart)
    assert sent_back.note == "round 1: sent back by rex: too long"
    assert [finding.score for finding in sent_back.found] == [0.0]
    redraft = group.parts[2].spec
    assert (redraft.assignee, redraft.depends_on) == ("bea", ["g.1"])
    assert "The remarks:\ntoo long" in redraft.description
    group.end(3, "Flo")
    group.go_on()
    group.end(4, verdict(True))
    group.go_on()
    assert group.result["result"] == "Flo"
    assert [(it["author"], it["approved"]) for it in group.result["rounds"]] == [("bea", False), ("bea", True)]


def test_what_is_never_approved_fails_and_the_last_draft_is_kept() -> None:
    group = review(assignee="ana", max_rounds=2)
    for number in (1, 3):
        group.end(number, f"draft {number}")
        group.go_on()
        group.end(number + 1, verdict(False, f"no, not {number}"))
        group.go_on()
    assert group.error == ("not_approved", "rex has not approved it in 2 rounds; the last remarks: no, not 3")
    assert (group.result["result"], group.result["approved"], len(group.result["rounds"])) == ("draft 3", False, 2)


def test_nobody_reviews_their_own_work() -> None:
    assert review().parts[0].spec.excluded == ["rex"]
    group = review(excluded=["ana"])
    assert group.parts[0].spec.excluded == ["ana", "rex"]
    group.end(1, "Flopsy")
    group.go_on()
    assert (group.parts[1].spec.assignee, group.parts[1].spec.excluded) == ("rex", [])


def test_a_relay_may_be_reviewed_and_goes_back_to_its_last_runner() -> None:
    group = review(assignees=["ana", "bea"], mode="relay")
    group.end(1, "one")
    group.go_on()
    group.end(2, "two")
    group.go_on()
    group.end(3, verdict(False, "again"))
    group.go_on()
    assert (group.parts[3].spec.assignee, group.parts[3].spec.depends_on) == ("bea", ["g.2"])
    group.end(4, "three")
    group.go_on()
    group.end(5, verdict(True))
    group.go_on()
    assert (group.result["result"], group.result["approved"]) == ("three", True)
    assert [it["llm"] for it in group.result["steps"]] == ["ana", "bea"]


@pytest.mark.parametrize("answer", ["fine", {"approved": "yes", "remarks": ""}, {"remarks": "?"}, None])
def test_a_review_that_is_no_verdict_fails_the_group(answer: Any) -> None:
    group = review(assignee="ana")
    group.end(1, "Flopsy")
    group.go_on()
    group.end(2, answer)
    group.go_on()
    assert group.error == ("review_failed", "rex has not reviewed it: its answer is no verdict")
    assert group.result == {
        "result": "Flopsy",
        "approved": False,
        "rounds": [{"author": "ana", "reviewer": "rex"}],
    }


@pytest.mark.parametrize(("number", "kind"), [(1, "nobody_answered"), (2, "review_failed"), (3, "author_failed")])
def test_a_review_fails_with_whoever_fails(number: int, kind: str) -> None:
    group = review(assignee="ana")
    answers = {1: "Flopsy", 2: verdict(False, "no")}
    for before in range(1, number):
        group.end(before, answers[before])
        group.go_on()
    group.fail(number)
    group.go_on()
    assert group.error[0] == kind


TEAMS: list[dict[str, Any]] = [
    {"assignees": VOTERS, "mode": "all"},
    {"assignees": VOTERS, "mode": "vote", "vote": {"choices": ["a", "b"]}},
    {"assignees": VOTERS, "mode": "vote", "vote": {"choices": ["a", "b"], "quorum": 3, "weights": {"ana": 3}}},
    {"assignees": VOTERS, "mode": "vote", "vote": {"judge": "judy", "quorum": 1}},
    {"assignees": VOTERS, "mode": "relay"},
    {"assignees": VOTERS, "mode": "relay", "reviewer": "rex", "max_rounds": 2},
    {"assignees": VOTERS, "mode": "any", "reviewer": "rex"},
    {"reviewer": "rex", "max_rounds": 1},
]
ANSWERS = st.sampled_from([{"choice": "a"}, {"choice": "b"}, verdict(True), verdict(False, "no"), "text", None, 7])
ENDS = st.sampled_from([Status.COMPLETED, Status.COMPLETED, Status.FAILED, Status.CANCELLED])


@given(st.sampled_from(TEAMS), st.data())
def test_every_group_ends_whatever_its_parts_do(team: dict[str, Any], data: st.DataObject) -> None:
    group = Play(**team)
    group.go_on()
    spent = 0.0
    for _ in range(60):
        if isinstance(group.last, Finish | Fail):
            break
        if isinstance(group.last, AskPerson):
            group.go_on(spent=spent, answer=group.last.choices[0])
            continue
        live = [number for number, part in enumerate(group.parts, 1) if not part.status.is_final]
        assert live, "it waits for nothing"
        if data.draw(st.booleans()):
            group.end(data.draw(st.sampled_from(live)), data.draw(ANSWERS), status=data.draw(ENDS))
        else:
            spent = min(1.0, spent + 0.3)
        before = group.go_on(spent=spent)
        if isinstance(before, KeepWaiting):  # asked once more, it says the same
            assert group.go_on(spent=spent) == before
    assert isinstance(group.last, Finish | Fail)
