"""What comes next in a task for several LLMs: `step`, without a machine around it."""

from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.protocol.status import Status
from broker.protocol.task_requests import Submission
from broker.protocol.worker_reports import Failure
from coordinator.core.groups.steps import AskPerson, CreatePart, Fail, Finish, KeepWaiting, Step
from coordinator.core.groups.strategies import step
from coordinator.core.tasks.task import Task
from tests.support.core_driver import T0


class Play:
    """A group whose parts end as the test says."""

    def __init__(self, **fields: Any) -> None:
        self.group = Submission(**{"description": "Name a rabbit", **fields})
        self.parts: list[Task] = []
        self.given_up: list[str] = []
        self.last: Step = KeepWaiting()

    def go_on(self, *, spent: float = 0.0, answer: str | None = None) -> Step:
        """Take a step; parts that it makes are there after that."""
        self.last = step(self.group, self.parts, spent=spent, answer=answer)
        if isinstance(self.last, CreatePart):
            if self.last.alone:
                self.given_up += [part.id for part in self.parts if not part.status.is_final]
                self.end_all(Status.CANCELLED)
            for spec in self.last.parts:
                number = len(self.parts) + 1
                part = Task(f"g.{number}", number, spec, Status.IN_PROGRESS, 4, T0)
                part.llm = spec.assignee or next(iter(spec.assignees), "anybody")
                self.parts.append(part)
        return self.last

    def end(self, number: int, result: Any = None, *, status: Status = Status.COMPLETED) -> None:
        part = self.parts[number - 1]
        part.status, part.result = status, result
        if status is Status.FAILED:
            part.error = Failure(type="broken", message=f"{part.llm} is tired")

    def end_all(self, status: Status) -> None:
        for number, part in enumerate(self.parts, 1):
            if not part.status.is_final:
                self.end(number, status=status)

    def fail(self, number: int) -> None:
        self.end(number, status=Status.FAILED)

    @property
    def result(self) -> Any:
        assert isinstance(self.last, Finish | Fail), self.last
        return self.last.result

    @property
    def error(self) -> tuple[str, str]:
        assert isinstance(self.last, Fail), self.last
        return self.last.error.type, self.last.error.message


def play(**fields: Any) -> Play:
    """A group that has made its first parts."""
    started = Play(**fields)
    assert isinstance(started.go_on(), CreatePart)
    return started


# -- parts -----------------------------------------------------------------------------------------------------------


def test_a_part_has_what_the_group_has() -> None:
    group = play(
        assignees=["ana", "bea"],
        mode="all",
        inputs={"colour": "brown"},
        skills=["naming"],
        labels=["pets"],
        metadata={"for": "children"},
        conversation_id="c",
        timeout=9,
        max_attempts=2,
        depends_on=["earlier"],
        output_schema={"type": "string"},
    )
    first = group.parts[0].spec
    same = ("description", "inputs", "skills", "labels", "metadata", "conversation_id", "timeout", "max_attempts")
    assert all(getattr(first, name) == getattr(group.group, name) for name in (*same, "depends_on", "output_schema"))
    assert (first.assignee, first.mode, first.assignees) == ("ana", None, [])


# -- all -------------------------------------------------------------------------------------------------------------


def test_all_results_stand_side_by_side() -> None:
    group = play(assignees=["ana", "bea"], mode="all")
    group.end(2, "Flopsy")
    assert group.go_on() == KeepWaiting()
    group.end(1, "Mopsy")
    group.go_on()
    assert group.result == {"results": {"ana": "Mopsy", "bea": "Flopsy"}}


def test_one_answer_of_all_is_enough_and_the_others_are_told() -> None:
    group = play(assignees=["ana", "bea", "cem"], mode="all")
    group.fail(1)
    group.end(2, "Flopsy")
    group.end(3, status=Status.CANCELLED)
    group.go_on()
    assert group.result == {"results": {"bea": "Flopsy"}, "failed": {"ana": "ana is tired", "cem": "cancelled"}}


def test_all_ends_in_time_with_what_there_is() -> None:
    group = play(assignees=["ana", "bea"], mode="all")
    group.end(1, "Mopsy")
    assert group.go_on(spent=0.99) == KeepWaiting()
    group.go_on(spent=1)
    assert group.result == {"results": {"ana": "Mopsy"}, "failed": {"bea": "no answer yet"}}


def test_all_fails_when_nobody_answers() -> None:
    group = play(assignees=["ana", "bea"], mode="all")
    group.fail(1)
    group.go_on(spent=1)
    assert group.error == ("nobody_answered", "nobody has answered; ana: ana is tired; bea: no answer yet")


# -- vote ------------------------------------------------------------------------------------------------------------

VOTERS = ["ana", "bea", "cem"]


def vote(**rules: Any) -> Play:
    return play(assignees=VOTERS, mode="vote", vote={"choices": ["brown", "white", "grey"], **rules})


def ballot(choice: str) -> dict[str, str]:
    return {"choice": choice, "reason": f"{choice} is nice"}


def test_a_voter_is_told_the_choices_and_how_to_answer() -> None:
    spec = vote().parts[0].spec
    assert "brown; white; grey" in spec.description
    assert spec.output_schema is not None
    assert spec.output_schema["properties"]["choice"]["enum"] == ["brown", "white", "grey"]  # type: ignore[index,call-overload]


def test_the_choice_with_most_votes_wins_and_every_ballot_is_kept() -> None:
    group = vote(quorum=3)
    group.end(1, ballot("white"))
    group.end(2, ballot("brown"))
    assert group.go_on() == KeepWaiting()
    group.end(3, ballot("white"))
    group.go_on()
    assert group.result == {
        "choice": "white",
        "decided_by": "vote",
        "tally": {"brown": 1, "white": 2, "grey": 0},
        "ballots": [
            {"llm": "ana", "weight": 1, "choice": "white", "reason": "white is nice"},
            {"llm": "bea", "weight": 1, "choice": "brown", "reason": "brown is nice"},
            {"llm": "cem", "weight": 1, "choice": "white", "reason": "white is nice"},
        ],
    }
    assert [(finding.part.llm, finding.score) for finding in group.last.found] == [  # type: ignore[union-attr]
        ("ana", 1.0),
        ("bea", 0.0),
        ("cem", 1.0),
    ]


def test_a_vote_is_over_when_no_ballot_can_change_it() -> None:
    group = vote()
    group.end(1, ballot("white"))
    assert group.go_on() == KeepWaiting()
    group.end(2, ballot("white"))
    group.go_on()
    assert (group.result["choice"], group.result["failed"]) == ("white", {"cem": "it was decided before"})


def test_votes_have_weights() -> None:
    group = vote(weights={"ana": 2.5}, quorum=3)
    for number, choice in enumerate(("grey", "white", "white"), 1):
        group.end(number, ballot(choice))
    group.go_on()
    assert (group.result["choice"], group.result["tally"]) == ("grey", {"brown": 0, "white": 2, "grey": 2.5})


def test_a_heavy_vote_that_is_missing_is_waited_for() -> None:
    group = vote(weights={"cem": 2})
    group.end(1, ballot("white"))
    group.end(2, ballot("white"))
    assert group.go_on() == KeepWaiting()


def test_a_tie_goes_to_a_person() -> None:
    group = vote()
    group.end(1, ballot("white"))
    group.end(2, ballot("brown"))
    group.fail(3)
    asked = group.go_on()
    assert isinstance(asked, AskPerson)
    assert asked.choices == ("brown", "white")
    assert "brown: 1, white: 1" in asked.question
    group.go_on(answer="brown")
    assert (group.result["choice"], group.result["decided_by"]) == ("brown", "person")
    assert group.result["failed"] == {"cem": "cem is tired"}


def test_a_vote_without_quorum_fails_as_soon_as_that_is_certain() -> None:
    group = vote()
    group.fail(1)
    assert group.go_on() == KeepWaiting()
    group.fail(3)
    group.go_on()
    kind, told = group.error
    assert kind == "no_quorum"
    assert told == "2 ballots are needed, 0 came in time; ana: ana is tired; bea: no answer yet; cem: cem is tired"


def test_a_vote_with_a_silent_voter_is_decided_in_time() -> None:
    group = vote()
    group.end(1, ballot("white"))
    group.end(2, ballot("brown"))
    assert group.go_on(spent=0.9) == KeepWaiting()
    assert isinstance(group.go_on(spent=1), AskPerson)


def test_an_answer_that_is_no_ballot_does_not_count() -> None:
    group = vote(quorum=3)
    group.end(1, "white")
    group.go_on()
    kind, told = group.error
    assert kind == "no_quorum"
    assert "ana: its answer is none of the choices; bea: no answer yet" in told


@given(st.lists(st.sampled_from(["brown", "white", "grey", None]), min_size=3, max_size=3))
def test_the_order_of_the_ballots_changes_nothing_about_who_wins(choices: list[str | None]) -> None:
    """A vote that is over early has the result that it would have had in the end."""
    ends = set[Any]()
    for order in permutations(range(3)):
        group = vote()
        for seat in order:
            chosen = choices[seat]
            if chosen:
                group.end(seat + 1, ballot(chosen))
            else:
                group.fail(seat + 1)
            if not isinstance(group.go_on(), KeepWaiting):
                break
        end = group.last
        match end:
            case AskPerson():
                ends.add(end.choices)
            case Fail():
                ends.add(end.error.type)
            case _:
                ends.add(group.result["choice"])
    assert len(ends) == 1


# -- a judge ---------------------------------------------------------------------------------------------------------


def debate(**fields: Any) -> Play:
    return play(assignees=VOTERS, mode="vote", vote={"judge": "judy"}, output_schema={"type": "string"}, **fields)


def test_a_judge_decides_with_all_answers_in_view() -> None:
    group = debate()
    assert [part.spec.output_schema for part in group.parts] == [None, None, None]
    for number, answer in enumerate(("Flopsy", "Mopsy"), 1):
        group.end(number, answer)
        assert group.go_on() == KeepWaiting()
    group.end(3, "Peter")
    group.go_on()
    judging = group.parts[-1].spec
    assert (judging.assignee, judging.depends_on) == ("judy", ["g.1", "g.2", "g.3"])
    assert judging.output_schema == {"type": "string"}
    assert "g.2 is that of bea" in judging.description
    assert group.go_on() == KeepWaiting()
    group.end(4, "Peter it is")
    group.go_on()
    assert group.result == {
        "decision": "Peter it is",
        "judge": "judy",
        "ballots": [
            {"llm": "ana", "answer": "Flopsy"},
            {"llm": "bea", "answer": "Mopsy"},
            {"llm": "cem", "answer": "Peter"},
        ],
    }


def test_a_judge_does_not_wait_for_the_silent_beyond_half_of_the_time() -> None:
    group = debate()
    group.end(1, "Flopsy")
    assert group.go_on(spent=0.5) == KeepWaiting()
    group.end(3, "Peter")
    assert group.go_on(spent=0.49) == KeepWaiting()
    assert isinstance(group.go_on(spent=0.5), CreatePart)
    assert group.given_up == ["g.2"]
    group.end(4, "Flopsy it is")
    group.go_on(spent=0.6)
    assert group.result["failed"] == {"bea": "cancelled"}


def test_a_judge_is_not_called_without_a_quorum() -> None:
    group = debate()
    group.fail(1)
    group.fail(2)
    group.go_on()
    assert group.error[0] == "no_quorum"


def test_a_judge_who_fails_fails_the_group_and_the_answers_are_kept() -> None:
    group = debate()
    for number in (1, 2, 3):
        group.end(number, f"name {number}")
    group.go_on()
    group.fail(4)
    group.go_on()
    assert group.error == ("judge_failed", "judy has not decided: judy is tired")
    assert len(group.result["ballots"]) == 3


def test_a_judge_who_is_silent_fails_the_group_in_time() -> None:
    group = debate()
    for number in (1, 2, 3):
        group.end(number, f"name {number}")
    group.go_on()
    group.go_on(spent=1)
    assert group.error == ("timeout", "the time was over before judy was done with g.4")


# -- relay -----------------------------------------------------------------------------------------------------------


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


# -- review ----------------------------------------------------------------------------------------------------------


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


# -- whatever happens ------------------------------------------------------------------------------------------------

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
