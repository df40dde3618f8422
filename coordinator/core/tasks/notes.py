"""Notes that LLMs and people share: a board for every conversation, with the newest text under each name."""

from broker.errors import Problem
from broker.mappings import without_none
from broker.timestamps import Instant, to_iso
from coordinator.core.commands import AnswerRequest
from coordinator.core.events import NotesRequested, Sender, Shared, SubmitterNote
from coordinator.core.state import CoreState

MOST_NOTES = 200  # on one board


class Notes:
    """Stores notes, and answers requests for them."""

    def __init__(self, state: CoreState) -> None:
        self._state = state

    def shared(self, event: Shared, now: Instant) -> None:
        """Put a note on its board; it replaces the note of that name."""
        note = event.note
        names = self._names(note.board, event.known)
        if note.name not in names and len(names) >= MOST_NOTES:
            full = f"the board is full: it has {MOST_NOTES} notes; replace one of them"
            self._state.refuse(note.board, event.sender, Problem("name", full))
            return
        note = note._replace(at=now)
        self._state.changes.notes[note.board, note.name] = note
        self._reply(event.sender, "note.accepted", _shown(note._replace(content=None)))

    def requested(self, event: NotesRequested) -> None:
        """Answer with one note, or with the list of notes."""
        notes = self._names(event.board, event.known)
        if event.name is None:
            shown = [_shown(notes[name]._replace(content=None)) for name in sorted(notes)]
        elif event.name in notes:
            shown = [_shown(notes[event.name])]
        else:
            there = f"there are: {', '.join(sorted(notes))}" if notes else "the board is empty"
            self._state.refuse(event.board, event.sender, Problem("name", f"there is no note {event.name}; {there}"))
            return
        self._reply(event.sender, "note.answer", {"notes": shown})

    def _names(self, board: str, known: tuple[SubmitterNote, ...]) -> dict[str, SubmitterNote]:
        """Return the notes of a board by name: the stored ones, and those of this batch."""
        fresh = {name: note for (place, name), note in self._state.changes.notes.items() if place == board}
        return {note.name: note for note in known} | fresh

    def _reply(self, sender: Sender, kind: str, view: dict[str, object]) -> None:
        if sender.reply_to:
            self._state.emit(AnswerRequest(kind, sender.reply_to, sender.correlation_id, view))


def _shown(note: SubmitterNote) -> dict[str, object]:
    shown = {"name": note.name, "by": note.by, "at": to_iso(note.at), "content": note.content}
    return without_none(shown)
