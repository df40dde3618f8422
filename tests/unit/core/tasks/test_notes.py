"""The notes board."""

from typing import Any

import pytest

from broker.timestamps import EPOCH
from coordinator.core.commands import AnswerRequest, Command, Refuse
from coordinator.core.events import NotesRequested, Shared, SubmitterNote
from coordinator.core.tasks.notes import MOST_NOTES
from tests.support.core_driver import T0, Core
from tests.support.core_events import ANA


def note(name: str, content: str | None = "text", board: str = "b") -> SubmitterNote:
    return SubmitterNote(board, name, content, "llm.atlas", EPOCH)


def replies(commands: list[Command]) -> list[tuple[str, Any]]:
    return [(command.type, command.view) for command in commands if isinstance(command, AnswerRequest)]


def refusals(commands: list[Command]) -> list[str]:
    return [str(problem) for command in commands if isinstance(command, Refuse) for problem in command.problems]


@pytest.fixture
def core() -> Core:
    return Core()


def test_a_note_is_stored_with_its_moment(core: Core) -> None:
    [(kind, shown)] = replies(core.machine.handle(Shared(note("plan"), ANA), now=T0))
    assert (kind, shown["name"], shown["by"]) == ("note.accepted", "plan", "llm.atlas")
    assert core.machine.take_changes().notes == {("b", "plan"): note("plan")._replace(at=T0)}


def test_what_is_shared_can_be_read_in_the_same_moment(core: Core) -> None:
    known = (note("plan", "old"), note("other", None))
    events = (Shared(note("plan", "new"), ANA, known), NotesRequested("b", "plan", ANA, known))
    _, (kind, shown) = replies(core.machine.handle(*events, now=T0))
    assert (kind, [(it["name"], it["content"]) for it in shown["notes"]]) == ("note.answer", [("plan", "new")])


def test_without_a_name_all_notes_of_the_board_are_told_and_no_others(core: Core) -> None:
    events = (Shared(note("far", board="c"), ANA), NotesRequested("b", None, ANA, (note("z", None), note("a", None))))
    *_, (_, shown) = replies(core.machine.handle(*events, now=T0))
    assert [it["name"] for it in shown["notes"]] == ["a", "z"]


def test_a_note_that_is_not_there_is_refused_with_those_that_are(core: Core) -> None:
    known = (note("z", None), note("a", None))
    assert refusals(core.machine.handle(NotesRequested("b", "x", ANA, known), now=T0)) == [
        "name: there is no note x; there are: a, z"
    ]
    assert refusals(core.machine.handle(NotesRequested("b", "x", ANA), now=T0)) == [
        "name: there is no note x; the board is empty"
    ]


def test_a_full_board_takes_no_other_note_but_another_text(core: Core) -> None:
    known = tuple(note(f"n{number}", None) for number in range(MOST_NOTES))
    assert "the board is full" in refusals(core.machine.handle(Shared(note("one more"), ANA, known), now=T0))[0]
    assert refusals(core.machine.handle(Shared(note("n7"), ANA, known), now=T0)) == []
