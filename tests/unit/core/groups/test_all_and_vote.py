"""The steps of groups whose LLMs work side by side: all, vote, vote with a judge."""

from itertools import permutations
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from broker.protocol.status import Status
from coordinator.core.groups.steps import AskPerson, CreatePart, Fail, KeepWaiting
from tests.unit.core.groups.play import VOTERS, Play, play


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


def vote(**rules: Any) -> Play:
    return play(assignees=VOTERS, mode="vote", vote={"choices": ["brown", "white", "grey"], **rules})


def ballot(choice: str) -> dict[str, str]:
    return {"choice": choice, "reason": f"{choice} is nice"}


def test_a_voter_gets_the_choices_and_the_form_of_the_answer() -> None:
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
